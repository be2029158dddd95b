// The one list of all rules. Everything that must know them all expands it.
#pragma once
#include "adagrad.hpp"
#include "adam.hpp"
#include "adamw.hpp"
#include "dadaptadamw.hpp"
#include "dog.hpp"
#include "dowg.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "lion.hpp"
#include "polyaksgd.hpp"
#include "prodigy.hpp"
#include "rmsprop.hpp"
#include "schedulefreeadamw.hpp"
#include "schedulefreesgd.hpp"
#include "sgd.hpp"

#define GRADSTEP_RULES(X)                                                                          \
    X(SGD)                                                                                         \
    X(Adagrad)                                                                                     \
    X(RMSprop) X(Adam) X(AdamW) X(LARS) X(LAMB) X(ScheduleFreeAdamW) X(Lion) X(ScheduleFreeSGD)    \
        X(Prodigy) X(PolyakSGD) X(DoG) X(DoWG) X(DAdaptAdamW)
