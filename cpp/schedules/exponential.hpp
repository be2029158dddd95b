// value rate^(n / s), n = max(0, t - b)
#pragma once
#include "math.hpp"

struct Exponential {
    static constexpr const char* name = "exponential";

    double value, begin;
    Base rate;

    static Exponential of(const double* arguments, int64_t) {
        return {arguments[0], arguments[3], Base::of(arguments[1], arguments[2])};
    }

    double operator()(double t) const { return rate.power(greatest(t - begin, 0)).times(value); }
};
