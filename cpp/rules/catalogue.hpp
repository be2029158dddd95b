// The one list of all rules. Everything that must know them all expands it.
#pragma once
#include "adadelta.hpp"
#include "adagrad.hpp"
#include "adam.hpp"
#include "adamax.hpp"
#include "adamw.hpp"
#include "asgd.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "lion.hpp"
#include "nadam.hpp"
#include "radam.hpp"
#include "rmsprop.hpp"
#include "rprop.hpp"
#include "schedulefreeadamw.hpp"
#include "sgd.hpp"

#define GRADSTEP_RULES(X)                                                                          \
    X(SGD)                                                                                         \
    X(Adagrad) X(RMSprop) X(Adam) X(AdamW) X(LARS) X(LAMB) X(ScheduleFreeAdamW) X(Lion)            \
        X(Adadelta) X(Adamax) X(NAdam) X(RAdam) X(Rprop) X(ASGD)
