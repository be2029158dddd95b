// value gamma^floor(t / s)
#pragma once
#include "math.hpp"

struct Step {
    static constexpr const char* name = "step";

    double value;
    Divisor step_size;
    Base gamma;

    static Step of(const double* arguments, int64_t) {
        return {arguments[0], Divisor::of(arguments[1]), Base::of(arguments[2])};
    }

    Hold piece(double t) const {
        const double steps = step_size.whole(t);
        return {gamma.power(steps).times(value), least((steps + 1) * step_size.length, 0x1p52)};
    }
    double operator()(double t) const { return piece(t)(t); }
};
