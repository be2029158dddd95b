// value (end / value)^x,  x = min(t, T) / T: a straight line on a logarithmic axis
#pragma once
#include "math.hpp"

struct Geometric {
    static constexpr const char* name = "geometric";

    Decay path;
    Base ratio;

    static Geometric of(const double* arguments, int64_t) {
        const Decay path = Decay::of(arguments);
        const double sign = path.value < 0 ? -1 : 1;
        const Double2 value = log2(sign * path.value), end = log2(sign * path.end);
        return {path, {Factor::of((end + Double2{-value.hi, -value.lo}) / path.length)}};
    }

    double operator()(double t) const {
        const double value = ratio.power(least(t, path.length)).times(path.value);
        const double inside =
            greatest(least(value, greatest(path.value, path.end)), least(path.value, path.end));
        return t < path.length ? inside : path.end;
    }
};
