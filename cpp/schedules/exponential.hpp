// value rate^(n / s), n = max(0, t - b);  staircase: value rate^floor(n / s)
#pragma once
#include "math.hpp"

struct Exponential {
    static constexpr const char* name = "exponential";

    double value, begin, stair;
    Base rate;    // of one stair: s updates if staircase, else one

    static Exponential of(const double* arguments, int64_t) {
        const double value = arguments[0], rate = arguments[1], decay_steps = arguments[2];
        const double begin = arguments[3];
        const bool staircase = arguments[4] != 0;
        return {value, begin, staircase ? decay_steps : 1,
                Base::of(rate, staircase ? 1 : decay_steps)};
    }

    double operator()(double t) const {
        return rate.power(whole(greatest(t - begin, 0), stair), value);
    }
};
