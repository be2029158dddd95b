// value / (1 + k t / s) = value s / (s + k t)
#pragma once
#include "math.hpp"

struct InverseTime {
    static constexpr const char* name = "inverse_time";

    Double2 numerator;
    double inverse, rate, steps;    // 1 / numerator

    static InverseTime of(const double* arguments, int64_t) {
        const Double2 numerator = product(arguments[0], arguments[2]);
        return {numerator, numerator.hi == 0 ? 0 : 1 / numerator.hi, arguments[1], arguments[2]};
    }

    double operator()(double t) const {
        const Double2 part = product(rate, t), below = sum(steps, part.hi);
        const double quotient = numerator.hi / below.hi;
        const double rest = numerator.lo - quotient * (below.lo + part.lo);
        return quotient + rest * (quotient * inverse);
    }
};
