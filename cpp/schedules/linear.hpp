// value (1 - x) + end x,  x = min(t, T) / T
#pragma once
#include "math.hpp"

struct Linear {
    static constexpr const char* name = "linear";

    Decay path;

    static Linear of(const double* arguments, int64_t) { return {Decay::of(arguments)}; }

    double operator()(double t) const { return line(t, path.length, path.value, path.end); }
};
