// end + (value - end) (1 - tanh(l (1 - x) + u x)) / 2,  x = min(t, T) / T
// Hsueh et al., "Stochastic gradient descent with hyperbolic-tangent decay on classification",
// WACV 2019. (1 - tanh y) / 2 = 1 / (1 + exp(2 y)).
#pragma once
#include "math.hpp"

struct Tanh {
    static constexpr const char* name = "tanh";

    double value, end, length;
    Double2 last;    // 2 u / ln 2
    Factor slope;    // 2 (l - u) / (T ln 2)

    static Tanh of(const double* arguments, int64_t) {
        const double length = arguments[2], lower = arguments[3], upper = arguments[4];
        const Double2 fall = two_over_ln2 * sum(lower, -upper);
        return {arguments[0], arguments[1], length, two_over_ln2 * upper,
                length > 0 ? Factor::of(fall / length) : Factor{0, 0}};
    }

    double operator()(double t) const {
        const Double2 way = slope * (length - least(t, length));
        const Double2 y = sum(last.hi, way.hi);
        const double y_lo = y.lo + (last.lo + way.lo);
        const bool first_half = y.hi < 0;
        const double sign = first_half ? 1 : -1;
        const double odds = Exp2({sign * y.hi, sign * y_lo}).times(1);    // at most 1
        const double near = first_half ? value : end, far = first_half ? end : value;
        const double found = (near + far * odds) / (1 + odds);
        return greatest(least(found, greatest(value, end)), least(value, end));
    }
};
