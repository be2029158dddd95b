// factor d^(-1/2) min(n^(-1/2), n w^(-3/2)),  n = t + 1
// Vaswani et al., "Attention is all you need", NeurIPS 2017, section 5.3.
#pragma once
#include "math.hpp"

struct Noam {
    static constexpr const char* name = "noam";

    double warmup;
    Double2 slope;    // factor d^(-1/2) w^(-3/2)
    Root root;        // factor d^(-1/2)

    static Noam of(const double* arguments, int64_t) {
        const double factor = arguments[0], model_size = arguments[1], warmup = arguments[2];
        const Double2 scale = Double2{factor, 0} / sqrt(Double2{model_size, 0});
        const double w = greatest(warmup, 1);
        return {warmup, scale / (sqrt(Double2{w, 0}) * w),
                Root::of(factor, Double2{1, 0} / model_size)};
    }

    double operator()(double t) const {
        const double n = t + 1, rising = (slope * n).hi, falling = root.over(n);
        return n < warmup ? rising : falling;
    }
};
