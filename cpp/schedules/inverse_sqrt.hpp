// value sqrt(tau / (t + tau))
#pragma once
#include "math.hpp"

struct InverseSqrt {
    static constexpr const char* name = "inverse_sqrt";

    double value, timescale;
    Root root;

    static InverseSqrt of(const double* arguments, int64_t) {
        const double value = arguments[0], timescale = arguments[1];
        return {value, timescale, Root::of(value, {timescale, 0})};
    }

    double operator()(double t) const { return t > 0 ? root.over(t + timescale) : value; }
};
