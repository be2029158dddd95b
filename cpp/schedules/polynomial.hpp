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
        return power_share(path.length - least(t, path.length), path.length, power)
            .between(path.value, path.end);
    }
};

// T becomes T max(1, ceil(t / T)): whenever the end is reached, as much again to go as went before.
struct PolynomialCycle {
    static constexpr const char* name = "polynomial_cycle";

    Polynomial form;
    Divisor first;

    static PolynomialCycle of(const double* arguments, int64_t count) {
        return {Polynomial::of(arguments, count), Divisor::of(arguments[2])};
    }

    double operator()(double t) const {
        const double before = first.whole(t) * first.length;
        const double reached = before < t ? before + first.length : before;
        const double length = greatest(reached, first.length);
        return power_share(length - t, length, form.power).between(form.path.value, form.path.end);
    }
};

// end + (value - end) (1 - x^p)
struct PolynomialRise {
    static constexpr const char* name = "polynomial_rise";

    Polynomial form;

    static PolynomialRise of(const double* arguments, int64_t count) {
        return {Polynomial::of(arguments, count)};
    }

    double operator()(double t) const {
        const Decay& path = form.path;
        return power_share(least(t, path.length), path.length, form.power)
            .between(path.end, path.value);
    }
};

// The powers that need no logarithm: 2 and 1/2, of what is left (or, rising, of what is done).

struct Square {
    double length;
    Double2 inverse_square;

    static Square of(double length) { return {length, Double2{1, 0} / product(length, length)}; }
    // left = (n / length)^2
    Share share(double n) const {
        const double square = n * n, rest = (length - n) * (length + n);
        return {square * inverse_square.hi + square * inverse_square.lo,
                rest * inverse_square.hi + rest * inverse_square.lo};
    }
};

struct SquareRoot {
    Divisor length;

    static SquareRoot of(double length) { return {Divisor::of(length)}; }
    // left = sqrt(n / length), and 1 - sqrt(x) = (1 - x) / (1 + sqrt(x))
    Share share(double n) const {
        const double left = __builtin_sqrt(n * length.inverse);
        return {left, (length.length - n) * length.inverse / (1 + left)};
    }
};

template <class Power, bool rising> struct EasyPower {
    Decay path;
    Power power;

    static EasyPower of(const double* arguments, int64_t) {
        const Decay path = Decay::of(arguments);
        return {path, Power::of(path.length)};
    }

    double operator()(double t) const {
        const double done = least(t, path.length);
        const double high = rising ? path.end : path.value, low = rising ? path.value : path.end;
        const double found = power.share(rising ? done : path.length - done).between(high, low);
        return t <= 0 ? path.value : t >= path.length ? path.end : found;
    }
};

struct PolynomialSquare : EasyPower<Square, false> {
    static constexpr const char* name = "polynomial_square";
    static PolynomialSquare of(const double* a, int64_t n) { return {EasyPower::of(a, n)}; }
};

struct PolynomialRoot : EasyPower<SquareRoot, false> {
    static constexpr const char* name = "polynomial_root";
    static PolynomialRoot of(const double* a, int64_t n) { return {EasyPower::of(a, n)}; }
};

struct PolynomialRiseSquare : EasyPower<Square, true> {
    static constexpr const char* name = "polynomial_rise_square";
    static PolynomialRiseSquare of(const double* a, int64_t n) { return {EasyPower::of(a, n)}; }
};

struct PolynomialRiseRoot : EasyPower<SquareRoot, true> {
    static constexpr const char* name = "polynomial_rise_root";
    static PolynomialRiseRoot of(const double* a, int64_t n) { return {EasyPower::of(a, n)}; }
};
