// Between knots (x_0, v_0), (x_1, v_1) ...: the value of the last knot at or before t, or a way
// from it to the next, a line or half a cosine. Before the first and after the last knot, their
// values. Arguments: x_0 <= x_1 <= ..., then the values. Two knots at the same x are a jump: the
// second counts from x on. An x need not be an integer.
#pragma once
#include "math.hpp"

// From start at the step `origin` to end in `length` updates.
struct Hold {
    double start;

    static Hold of(double, double, double start, double) { return {start}; }
    double operator()(double) const { return start; }
};

struct Straight {
    double origin, start, end;
    Divisor length;

    static Straight of(double origin, double length, double start, double end) {
        return {origin, start, end, Divisor::of(length)};
    }
    double operator()(double t) const { return line(t - origin, length, start, end); }
};

struct HalfWave {
    double origin, start, end;
    WaveLength length;

    static HalfWave of(double origin, double length, double start, double end) {
        return {origin, start, end, WaveLength::of(length)};
    }
    double operator()(double t) const { return length.share(t - origin).between(start, end); }
};

template <class Form> struct Piecewise {
    const double *x, *v;    // the caller's arguments, which outlive this
    int64_t count;

    static Piecewise of(const double* arguments, int64_t size) {
        return {arguments, arguments + size / 2, size / 2};
    }

    struct Piece : Form {
        double until;    // the first step after it
    };

    Piece piece(double t) const {
        int64_t passed = 0, after = count;    // x_(passed - 1) <= t < x_after
        while (passed < after) {
            const int64_t middle = passed + (after - passed) / 2;
            if (x[middle] <= t)
                passed = middle + 1;
            else
                after = middle;
        }
        const double until = passed < count ? ceil(x[passed]) : 0x1p52;
        if (passed == 0) return {Form::of(t, 1, v[0], v[0]), until};
        const int64_t last = passed - 1;
        if (passed == count) return {Form::of(t, 1, v[last], v[last]), until};
        return {Form::of(x[last], x[passed] - x[last], v[last], v[passed]), until};
    }

    double operator()(double t) const { return piece(t)(t); }
};

struct PiecewiseHold : Piecewise<Hold> {
    static constexpr const char* name = "piecewise_hold";
    static PiecewiseHold of(const double* a, int64_t n) { return {Piecewise<Hold>::of(a, n)}; }
};

struct PiecewiseLinear : Piecewise<Straight> {
    static constexpr const char* name = "piecewise_linear";
    static PiecewiseLinear of(const double* a, int64_t n) {
        return {Piecewise<Straight>::of(a, n)};
    }
};

struct PiecewiseCosine : Piecewise<HalfWave> {
    static constexpr const char* name = "piecewise_cosine";
    static PiecewiseCosine of(const double* a, int64_t n) {
        return {Piecewise<HalfWave>::of(a, n)};
    }
};
