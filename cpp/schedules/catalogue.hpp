// The one list of all schedules. Everything that must know them all expands it.
//
// A schedule is a struct with
//   name,
//   of(arguments, count), which resolves what Python checked, once: every length an integer in a
//   double, below 2^52,
//   operator()(t), the closed form, for any integer 0 <= t < 2^52 in a double.
// It must stay copyable byte by byte: it is made once and read by whichever target runs.
#pragma once
#include "constant.hpp"
#include "cosine.hpp"
#include "cyclic.hpp"
#include "drop.hpp"
#include "exponential.hpp"
#include "linear.hpp"
#include "polynomial.hpp"
#include "step.hpp"

#define GRADSTEP_SCHEDULES(X)                                                                      \
    X(Constant) X(Linear) X(Step) X(Drop) X(Exponential) X(Polynomial) X(Cosine) X(Cyclic)
