// value (1 - x) + end x,  x = min(t, T) / T
#pragma once
#include "math.hpp"

struct Linear {
    static constexpr const char* name = "linear";

    double value, end;
    Divisor length;

    static Linear of(const double* arguments, int64_t) {
        const Decay path = Decay::of(arguments);
        return {path.value, path.end, Divisor::of(path.length)};
    }

    double operator()(double t) const { return line(t, length, value, end); }
};
