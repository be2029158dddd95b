// The one list of all storages. Everything that must know them all expands it.
#pragma once
#include "float32.hpp"
#include "float64.hpp"

#define GRADSTEP_STORAGES(X) X(float32) X(float64)
