// What schedules are made of besides ../math.hpp: waves, and ways from one value to another.
// Included inside each target's unnamed namespace (see kernels.inl): no std:: here.
#pragma once
#include "../math.hpp"

// The haversine of pi q, sin^2(pi q / 2), given q^2 <= 1/4, to 2^-65 before rounding.
inline double haversine_pi(double q_squared) {
    double p = 0x1.21698b3091457p-24;
    p = p * q_squared + -0x1.20a5bafa6d145p-19;
    p = p * q_squared + 0x1.b6e1cb645882fp-15;
    p = p * q_squared + -0x1.f9d388fe4f36fp-11;
    p = p * q_squared + 0x1.a6d1f2a04f39fp-7;
    p = p * q_squared + -0x1.e1f5068918fbap-4;
    p = p * q_squared + 0x1.55d3c7e3cbfd8p-1;
    p = p * q_squared + -0x1.03c1f081b5ac4p+1;
    p = p * q_squared + 0x1.6909fb535443bp-53;
    p = p + 0x1.3bd3cc9be45dep+1;
    return p * q_squared;
}

// The same in twice the precision, to 2^-55.
inline Double2 haversine_pi(Double2 q_squared) {
    const double q = q_squared.hi;
    double p = 0x1.21698b3091457p-24;
    p = p * q + -0x1.20a5bafa6d145p-19;
    p = p * q + 0x1.b6e1cb645882fp-15;
    p = p * q + -0x1.f9d388fe4f36fp-11;
    p = p * q + 0x1.a6d1f2a04f39fp-7;
    p = p * q + -0x1.e1f5068918fbap-4;
    p = p * q + 0x1.55d3c7e3cbfd8p-1;
    p = p * q + -0x1.03c1f081b5ac4p+1;
    const Double2 series = quick_sum(0x1.3bd3cc9be45dep+1, p * q + 0x1.6909fb535443bp-53);
    const Double2 found = product(series.hi, q);
    return {found.hi, found.lo + series.lo * q + (series.hi + p * q) * q_squared.lo};
}

// ---- from start to end ----
//
// Here x = min(t, length) / length, length > 0. What is left and what is done are each computed for
// themselves, because 1 - x loses what matters where x is near 1.

// (start left + end done) / length, to half an ULP, where left + done = length.
inline double line(Double2 left, double done, Divisor by, double start, double end) {
    const Double2 whole = left * start + product(end, done);
    const double quotient = whole.hi * by.inverse;
    const Double2 back = product(quotient, by.length);
    return quotient + (((whole.hi - back.hi) - back.lo) + whole.lo) * by.inverse;
}

// start (1 - x) + end x
inline double line(double t, Divisor by, double start, double end) {
    const double done = least(t, by.length);
    return line(Double2{by.length - done, 0}, done, by, start, end);
}

// How much of the start is left and how much of the end is done: left + done = 1.
struct Share {
    double left, done;

    // Exact at both ends, and never beyond them.
    double between(double start, double end) const {
        const double value = start * left + end * done;
        return greatest(least(value, greatest(start, end)), least(start, end));
    }
};

// ---- pieces: forms that hold up to before the step `until` ----
//
// A way from one value to another is computed from its nearer end, which makes that end exact and
// nothing pass it. Lines have a slope of twice the precision, waves 1 over the square of the
// length.

struct Hold {
    double value, until;
    double operator()(double) const { return value; }
};

struct Slope {
    double start, end, length;
    Double2 rise;    // (end - start) / length

    static Slope of(double start, double end, double length) {
        return {start, end, length, sum(end, -start) / length};
    }

    struct Piece {
        double origin, base;
        Double2 rise;
        double until;

        double operator()(double t) const {
            const double n = t - origin;
            const Double2 risen = product(n, rise.hi), found = sum(base, risen.hi);
            return found.hi + (found.lo + (risen.lo + n * rise.lo));    // to half an ULP
        }
    };
    // At `done` of the length, which began at the step `begin`.
    Piece piece(double begin, double done) const {
        const double half = floor(length * 0.5) + 1;
        const bool early = done + done <= length, ended = done >= length;
        return {early ? begin : begin + length,
                early ? start : end,
                {ended ? 0 : rise.hi, ended ? 0 : rise.lo},
                early   ? ceil(begin + half)
                : ended ? 0x1p52
                        : ceil(begin + length)};
    }
};

struct Wave {
    double start, end, length;
    Double2 inverse_square;

    static Wave of(double start, double end, double length) {
        return {start, end, length, Double2{1, 0} / product(length, length)};
    }

    struct Piece {
        double origin, base, rise;
        Double2 inverse_square;
        double until;

        double operator()(double t) const {
            const double n = t - origin, square = n * n;
            return base +
                   rise * haversine_pi(square * inverse_square.hi + square * inverse_square.lo);
        }
    };
    Piece piece(double begin, double done) const {
        const double half = floor(length * 0.5) + 1;
        const bool early = done + done <= length, ended = done >= length;
        return {early ? begin : begin + length,
                early ? start : end,
                early ? end - start : start - end,
                {ended ? 0 : inverse_square.hi, ended ? 0 : inverse_square.lo},
                early   ? ceil(begin + half)
                : ended ? 0x1p52
                        : ceil(begin + length)};
    }
};

// left = (left / length)^power, for an integer left >= 0
inline Share power_share(double left, double length, double power) {
    const Exp2 share(log2_ratio(greatest(left, 1), length) * power);
    return {left > 0 ? share.times(1) : 0, left > 0 ? share.complement() : 1};
}

// From one value to another in `length` updates. Where there are none, the end is reached already.
struct Decay {
    double value, end, length;

    static Decay of(const double* arguments) {
        const double value = arguments[0], end = arguments[1], length = arguments[2];
        return length > 0 ? Decay{value, end, length} : Decay{end, end, 1};
    }
};
