// Between knots (x_0, v_0), (x_1, v_1) ...: the value of the last knot at or before t, or a way
// from it to the next, a line or half a cosine. Before the first and after the last knot, their
// values. Arguments: x_0 <= x_1 <= ..., then the values. Two knots at the same x are a jump: the
// second counts from x on. An x need not be an integer.
#pragma once
#include "math.hpp"

// A way that goes nowhere until its end.
struct Still {
    double start;

    static Still of(double start, double, double) { return {start}; }
    Hold piece(double, double) const { return {start, 0x1p52}; }
};

template <class Way> struct Piecewise {
    const double *x, *v;    // the caller's arguments, which outlive this
    int64_t count;

    static Piecewise of(const double* arguments, int64_t size) {
        return {arguments, arguments + size / 2, size / 2};
    }

    // Of a way between two knots, or of one that has ended.
    auto piece(double t) const {
        int64_t passed = 0, after = count;    // x_(passed - 1) <= t < x_after
        while (passed < after) {
            const int64_t middle = passed + (after - passed) / 2;
            if (x[middle] <= t)
                passed = middle + 1;
            else
                after = middle;
        }
        const double until = passed < count ? ceil(x[passed]) : 0x1p52;
        const int64_t last = passed > 0 ? passed - 1 : 0;
        const bool between = passed > 0 && passed < count;
        const int64_t next = between ? passed : last;
        const double length = between ? x[next] - x[last] : 1;
        auto found = Way::of(v[last], v[next], length).piece(x[last], between ? t - x[last] : 1);
        found.until = least(found.until, until);
        if (!between) found.until = until;
        return found;
    }

    double operator()(double t) const { return piece(t)(t); }
};

struct PiecewiseHold : Piecewise<Still> {
    static constexpr const char* name = "piecewise_hold";
    static PiecewiseHold of(const double* a, int64_t n) { return {Piecewise<Still>::of(a, n)}; }
};

struct PiecewiseLinear : Piecewise<Slope> {
    static constexpr const char* name = "piecewise_linear";
    static PiecewiseLinear of(const double* a, int64_t n) { return {Piecewise<Slope>::of(a, n)}; }
};

struct PiecewiseCosine : Piecewise<Wave> {
    static constexpr const char* name = "piecewise_cosine";
    static PiecewiseCosine of(const double* a, int64_t n) { return {Piecewise<Wave>::of(a, n)}; }
};
