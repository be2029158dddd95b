// The one list of all closed forms. Everything that must know them all expands it.
//
// A form is a struct, in the file that its name begins with, that has
//   name,
//   of(arguments, count), which resolves what Python checked, once: every length an integer in a
//   double, below 2^52,
//   operator()(t), the value, for any integer 0 <= t < 2^52 in a double.
// It must stay copyable byte by byte: it is made once and read by whichever target runs. Two may
// have more, for many steps in a row:
//   piece(t), a form that holds from t to before its `until`, where one form is several,
//   range(start, out, n), where there is nothing to compute.
#pragma once
#include "constant.hpp"
#include "cosine.hpp"
#include "cyclic.hpp"
#include "exponential.hpp"
#include "geometric.hpp"
#include "inverse_sqrt.hpp"
#include "inverse_time.hpp"
#include "linear.hpp"
#include "noam.hpp"
#include "piecewise.hpp"
#include "polynomial.hpp"
#include "step.hpp"
#include "table.hpp"
#include "tanh.hpp"

#define GRADSTEP_SCHEDULES(X)                                                                      \
    X(Constant)                                                                                    \
    X(Linear)                                                                                      \
    X(Step)                                                                                        \
    X(Exponential)                                                                                 \
    X(Geometric)                                                                                   \
    X(InverseTime)                                                                                 \
    X(InverseSqrt)                                                                                 \
    X(Noam)                                                                                        \
    X(Polynomial)                                                                                  \
    X(PolynomialCycle)                                                                             \
    X(PolynomialRise)                                                                              \
    X(PolynomialSquare)                                                                            \
    X(PolynomialRoot)                                                                              \
    X(PolynomialRiseSquare)                                                                        \
    X(PolynomialRiseRoot)                                                                          \
    X(Cosine)                                                                                      \
    X(CosinePower)                                                                                 \
    X(CosineWave)                                                                                  \
    X(Tanh)                                                                                        \
    X(Cyclic)                                                                                      \
    X(CyclicHalving)                                                                               \
    X(CyclicExponential)                                                                           \
    X(PiecewiseHold)                                                                               \
    X(PiecewiseLinear)                                                                             \
    X(PiecewiseCosine)                                                                             \
    X(Table)
