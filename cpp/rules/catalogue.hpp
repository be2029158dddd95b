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
#include "dadaptadamw.hpp"
#include "dog.hpp"
#include "dowg.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "lion.hpp"
#include "muon.hpp"
#include "nadam.hpp"
#include "polyaksgd.hpp"
#include "prodigy.hpp"
#include "radam.hpp"
#include "rmsprop.hpp"
#include "rprop.hpp"
#include "schedulefreeadamw.hpp"
#include "schedulefreesgd.hpp"
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
    X(Adafactor) X(Muon)                                                                           \
    X(ScheduleFreeSGD) X(ScheduleFreeAdamW) X(Prodigy) X(DAdaptAdamW) X(DoG) X(DoWG) X(PolyakSGD)  \
    X(CautiousAdamW) X(SparingAdamW) X(CautiousSparingAdamW)                                       \
    X(CautiousLion) X(SparingLion) X(CautiousSparingLion)
// clang-format on
