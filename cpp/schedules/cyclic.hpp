// Each cycle rises from lower to upper in `up` updates, then falls back in `down`.
// Smith, "Cyclical learning rates", WACV 2017: lower + (upper - lower) max(0, 1 - y) f,
// y = |t / s - 2 c + 1|, c = floor(1 + t / (2 s)), with up = down = s; f = 1 (triangular),
// 2^(1 - c) (triangular2) or gamma^t (exp_range).
#pragma once
#include "math.hpp"

struct Triangle {
    Divisor up, down, cycle;

    static Triangle of(const double* arguments) {
        return {Divisor::of(arguments[2]), Divisor::of(arguments[3]),
                Divisor::of(arguments[2] + arguments[3])};
    }

    // 1 - y = height / length
    struct Place {
        double cycles, height;
        Divisor length;
    };
    Place operator()(double t) const {
        const double cycles = cycle.whole(t), in_cycle = t - cycles * cycle.length;
        const bool rising = in_cycle < up.length;
        return {cycles,
                rising ? in_cycle : cycle.length - in_cycle,
                {rising ? up.length : down.length, rising ? up.inverse : down.inverse}};
    }
};

struct Cyclic {
    static constexpr const char* name = "cyclic";

    Divisor cycle;
    Slope up, down;

    static Cyclic of(const double* arguments, int64_t) {
        const double lower = arguments[0], upper = arguments[1];
        return {Divisor::of(arguments[2] + arguments[3]), Slope::of(lower, upper, arguments[2]),
                Slope::of(upper, lower, arguments[3])};
    }

    Slope::Piece piece(double t) const {
        const double begin = cycle.whole(t) * cycle.length, in_cycle = t - begin;
        const bool rising = in_cycle < up.length;
        const double from = rising ? begin : begin + up.length;
        return (rising ? up : down).piece(from, t - from);
    }
    double operator()(double t) const { return piece(t)(t); }
};

struct CyclicHalving {
    static constexpr const char* name = "cyclic_halving";

    double lower, upper;
    Triangle triangle;

    static CyclicHalving of(const double* arguments, int64_t) {
        return {arguments[0], arguments[1], Triangle::of(arguments)};
    }

    double operator()(double t) const {
        const Triangle::Place at = triangle(t);
        const double halvings = least(at.cycles, 2044), some = floor(halvings * 0.5);
        const double done = at.height * power_of_two(-some) * power_of_two(some - halvings);
        return line(sum(at.length.length, -done), done, at.length, lower, upper);
    }
};

struct CyclicExponential {
    static constexpr const char* name = "cyclic_exponential";

    double lower, upper;
    Triangle triangle;
    Base gamma;    // at most 1

    static CyclicExponential of(const double* arguments, int64_t) {
        return {arguments[0], arguments[1], Triangle::of(arguments), Base::of(arguments[4])};
    }

    double operator()(double t) const {
        const Triangle::Place at = triangle(t);
        const Exp2 factor = gamma.power(t);
        const double length = at.length.length;
        const double left = (length - at.height) + at.height * factor.complement();
        const double done = at.height * factor.times(1);
        return Share{left / length, done / length}.between(lower, upper);
    }
};
