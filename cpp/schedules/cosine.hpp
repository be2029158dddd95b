// end + (value - end) cos^2(pi x / 2),  x = min(t, T) / T
// Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5: (1 + cos(pi x)) / 2 = cos^2(pi x / 2), but
// the left side is lost to rounding where it approaches 0.
#pragma once
#include "math.hpp"

struct Cosine {
    static constexpr const char* name = "cosine";

    Decay path;

    static Cosine of(const double* arguments, int64_t) { return {Decay::of(arguments)}; }

    double operator()(double t) const {
        return cosine_share(t, path.length).between(path.value, path.end);
    }
};
