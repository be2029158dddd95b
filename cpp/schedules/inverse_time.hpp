// value / (1 + k t / s) = value s / (s + k t)
#pragma once
#include "math.hpp"

struct InverseTime {
    static constexpr const char* name = "inverse_time";

    Double2 numerator;
    double rate, steps;

    static InverseTime of(const double* arguments, int64_t) {
        return {product(arguments[0], arguments[2]), arguments[1], arguments[2]};
    }

    double operator()(double t) const {
        return (numerator / (product(rate, t) + Double2{steps, 0})).hi;
    }
};
