// The one list of all storages. Everything that must know them all expands it.
#pragma once
#include "bfloat16.hpp"
#include "float16.hpp"
#include "float32.hpp"
#include "float64.hpp"
#include "q4.hpp"
#include "q8.hpp"
#include "split.hpp"

#define GRADSTEP_STORAGES(X) X(float32) X(float64) X(bfloat16) X(float16) X(split) X(q8) X(q4)

// The pairings that may have a loop of their own: storages of parameter, gradient and states,
// whether the parameter is rounded stochastically, and whether every rule has the loop (few) or
// only a rule that asks for all of them. States are rounded as they are by default. Every other
// pairing goes through scratch in the first-level cache and the plain loop of its compute type.
#define GRADSTEP_PAIRINGS(X)                                                                       \
    X(float32, float32, float32, false, few)                                                       \
    X(float64, float64, float64, false, few)                                                       \
    X(float32, bfloat16, float32, false, all)                                                      \
    X(bfloat16, bfloat16, float32, false, all)                                                     \
    X(bfloat16, bfloat16, float32, true, few)                                                      \
    X(bfloat16, bfloat16, bfloat16, false, all)                                                    \
    X(bfloat16, bfloat16, bfloat16, true, all)                                                     \
    X(split, bfloat16, float32, false, all)                                                        \
    X(float32, float32, q8, false, few)                                                            \
    X(bfloat16, bfloat16, q8, false, all)                                                          \
    X(bfloat16, bfloat16, q8, true, all)                                                           \
    X(split, bfloat16, q8, false, all)
