// The one list of all rules. Everything that must know them all expands it.
#pragma once
#include "adafactor.hpp"
#include "adagrad.hpp"
#include "adam.hpp"
#include "adamw.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "lion.hpp"
#include "rmsprop.hpp"
#include "schedulefreeadamw.hpp"
#include "sgd.hpp"

#define GRADSTEP_RULES(X)                                                                          \
    X(SGD)                                                                                         \
    X(Adagrad)                                                                                     \
    X(RMSprop) X(Adam) X(AdamW) X(LARS) X(LAMB) X(ScheduleFreeAdamW) X(Lion) X(Adafactor)
