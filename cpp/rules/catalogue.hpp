// The one list of all rules. Everything that must know them all expands it.
//
// A name of several words is a rule, here before it, with these switches on: hyperparameters of its
// class alone, True or False, which choose the kernels when a group is built.
#pragma once
#include "adagrad.hpp"
#include "adam.hpp"
#include "adamw.hpp"
#include "adan.hpp"
#include "ademamix.hpp"
#include "adopt.hpp"
#include "cautious.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "lion.hpp"
#include "rmsprop.hpp"
#include "schedulefreeadamw.hpp"
#include "sgd.hpp"
#include "signsgd.hpp"
#include "stableadamw.hpp"

#define GRADSTEP_RULES(X)                                                                          \
    X(SGD)                                                                                         \
    X(Adagrad)                                                                                     \
    X(RMSprop)                                                                                     \
    X(Adam)                                                                                        \
    X(AdamW)                                                                                       \
    X(LARS)                                                                                        \
    X(LAMB)                                                                                        \
    X(ScheduleFreeAdamW)                                                                           \
    X(Lion)                                                                                        \
    X(Adan)                                                                                        \
    X(AdEMAMix)                                                                                    \
    X(ADOPT)                                                                                       \
    X(SignSGD)                                                                                     \
    X(StableAdamW)                                                                                 \
    X(CautiousAdamW)                                                                               \
    X(SparingAdamW)                                                                                \
    X(CautiousSparingAdamW)                                                                        \
    X(CautiousLion)                                                                                \
    X(SparingLion)                                                                                 \
    X(CautiousSparingLion)
