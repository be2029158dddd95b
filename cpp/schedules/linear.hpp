// value (1 - x) + end x,  x = min(t, T) / T
#pragma once
#include "math.hpp"

struct Linear {
    static constexpr const char* name = "linear";

    Slope way;

    static Linear of(const double* arguments, int64_t) {
        const Decay path = Decay::of(arguments);
        return {Slope::of(path.value, path.end, path.length)};
    }

    Slope::Piece piece(double t) const { return way.piece(0, t); }
    double operator()(double t) const { return piece(t)(t); }
};
