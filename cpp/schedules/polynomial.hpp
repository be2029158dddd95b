// end + (value - end) (1 - x)^p,  x = min(t, T) / T
#pragma once
#include "math.hpp"

struct Polynomial {
    static constexpr const char* name = "polynomial";

    Decay path;
    double power;

    static Polynomial of(const double* arguments, int64_t) {
        // (1 - 1 / T)^(2^70) is 0 for every T below 2^52, and so are larger powers.
        return {Decay::of(arguments), least(arguments[3], 0x1p70)};
    }

    double operator()(double t) const {
        return power_share(t, path.length, power).between(path.value, path.end);
    }
};
