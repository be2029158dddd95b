// end + (value - end) cos^2(pi x / 2),  x = min(t, T) / T
// Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5: (1 + cos(pi x)) / 2 = cos^2(pi x / 2), but
// the left side is lost to rounding where it approaches 0.
#pragma once
#include "math.hpp"

struct Cosine {
    static constexpr const char* name = "cosine";

    Wave way;

    static Cosine of(const double* arguments, int64_t) {
        const Decay path = Decay::of(arguments);
        return {Wave::of(path.value, path.end, path.length)};
    }

    Wave::Piece piece(double t) const { return way.piece(0, t); }
    double operator()(double t) const { return piece(t)(t); }
};

// end + (value - end) (cos^2(pi x / 2))^power
struct CosinePower {
    static constexpr const char* name = "cosine_power";

    Cosine base;
    double power;

    static CosinePower of(const double* arguments, int64_t count) {
        return {Cosine::of(arguments, count), arguments[3]};
    }

    double operator()(double t) const {
        const Wave& wave = base.way;
        const double done = least(t, wave.length), left = wave.length - done;
        const double nearer = least(done, left);
        const Double2 small = haversine_pi(product(nearer, nearer) * wave.inverse_square);
        // cos^2 to twice the precision, since the power multiplies its error
        const bool early = done <= left, ended = left <= 0;
        const double large = 1 - small.hi, large_lo = ((1 - large) - small.hi) - small.lo;
        const double share = ended ? 1 : early ? large : small.hi;
        const double rest = early ? large_lo : small.lo;
        const double more = ended ? 0 : rest / share * 0x1.71547652b82fep0;
        const Exp2 result(log2_ratio(share, 1, more) * power);
        return Share{ended ? 0 : result.times(1), ended ? 1 : result.complement()}.between(
            wave.start, wave.end);
    }
};

// The same without an end: from value to end in half a period, back in as many, and so on.
struct CosineWave {
    static constexpr const char* name = "cosine_wave";

    Wave way;
    Divisor period;

    static CosineWave of(const double* arguments, int64_t) {
        return {Wave::of(arguments[0], arguments[1], arguments[2]), Divisor::of(2 * arguments[2])};
    }

    // In the second half of a period time runs backwards: the wave is as far from the next period
    // as it was from this one.
    Wave::Piece piece(double t) const {
        const double periods = period.whole(t), begin = periods * period.length;
        const double in_period = greatest(t - begin, 0);
        const bool back = in_period >= way.length;
        const double done = back ? greatest(period.length - in_period, 0) : in_period;
        const bool early = done + done <= way.length;
        const double half = way.length * 0.5;
        const double origin = early ? (back ? begin + period.length : begin) : begin + way.length;
        const double until = back ? (early ? begin + period.length : begin + way.length + half)
                                  : (early ? begin + half : begin + way.length);
        return {origin, early ? way.start : way.end,
                early ? way.end - way.start : way.start - way.end, way.inverse_square, ceil(until)};
    }
    double operator()(double t) const { return piece(t)(t); }
};
