// The one list of all rules. Everything that must know them all expands it.
#pragma once
#include "adadelta.hpp"
#include "adafactor.hpp"
#include "adagrad.hpp"
#include "adam.hpp"
#include "adamax.hpp"
#include "adamw.hpp"
#include "adan.hpp"
#include "ademamix.hpp"
#include "adopt.hpp"
#include "asgd.hpp"
#include "cautious.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "lion.hpp"
#include "nadam.hpp"
#include "radam.hpp"
#include "rmsprop.hpp"
#include "rprop.hpp"
#include "schedulefreeadamw.hpp"
#include "sgd.hpp"
#include "signsgd.hpp"
#include "stableadamw.hpp"

// clang-format off
#define GRADSTEP_RULES(X)                                                                          \
    X(SGD) X(ASGD) X(Rprop)                                                                        \
    X(Adagrad) X(Adadelta) X(RMSprop)                                                              \
    X(Adam) X(AdamW) X(Adamax) X(NAdam) X(RAdam)                                                   \
    X(LARS) X(LAMB) X(StableAdamW)                                                                 \
    X(Adan) X(AdEMAMix) X(ADOPT)                                                                   \
    X(Lion) X(SignSGD)                                                                             \
    X(Adafactor)                                                                                   \
    X(ScheduleFreeAdamW)                                                                           \
    X(CautiousAdamW) X(SparingAdamW) X(CautiousSparingAdamW)                                       \
    X(CautiousLion) X(SparingLion) X(CautiousSparingLion)
// clang-format on
