// The arithmetic of schedules: + - * / on doubles, comparisons and bits, and nothing else. No libm,
// whose functions differ by processor; no fma; no branch, so that a loop over any of this becomes
// vectors. Every instruction set and compiler gives the same bits, one value or many at a time.
// Steps, lengths and counts are doubles that hold integers: exact below 2^52.
//
// Schedules are included inside each target's unnamed namespace (see kernels.inl): no std:: here.
#pragma once

inline uint64_t to_bits(double x) {
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline double from_bits(uint64_t bits) {
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

inline double least(double a, double b) { return b < a ? b : a; }
inline double greatest(double a, double b) { return b > a ? b : a; }

// ---- integers held in doubles ----

// 0 <= t < 2^52. The processor's own conversion is missing from most vector instruction sets.
inline double from_integer(int64_t t) {
    return from_bits(uint64_t(t) | 0x4330000000000000) - 0x1p52;
}

// 0 <= x <= 2^52: adding 2^52 leaves no bit for a fraction.
inline double floor(double x) {
    const double nearest = (x + 0x1p52) - 0x1p52;
    return nearest > x ? nearest - 1 : nearest;
}

// floor(t / length) is exact: with t < 2^52 the rounded quotient never reaches the next integer.
inline double whole(double t, double length) { return floor(t / length); }
inline double remainder(double t, double length) { return t - whole(t, length) * length; }

// |x| < 2^51. The sum with 1.5 * 2^52 is an integer, and its lowest bits are that integer.
constexpr double shifter = 0x1.8p52;
inline double nearest(double x) { return (x + shifter) - shifter; }

// 2^n for an integer -1022 <= n <= 1023.
inline double power_of_two(double n) { return from_bits(to_bits(n + (shifter + 1023)) << 52); }

// ---- twice the precision: hi + lo, unevaluated (Dekker 1971; Knuth, TAOCP 2, 4.2.2) ----

struct Double2 {
    double hi, lo;
};

// a + b, exactly.
inline Double2 sum(double a, double b) {
    const double hi = a + b;
    const double b_part = hi - a;
    return {hi, (a - (hi - b_part)) + (b - b_part)};
}

// The same where |a| >= |b|.
inline Double2 quick_sum(double a, double b) {
    const double hi = a + b;
    return {hi, b - (hi - a)};
}

// a * b, exactly, from halves of 26 bits.
inline Double2 product(double a, double b) {
    const double a_scaled = a * 0x8000001p0, b_scaled = b * 0x8000001p0;
    const double a_hi = a_scaled - (a_scaled - a), a_lo = a - a_hi;
    const double b_hi = b_scaled - (b_scaled - b), b_lo = b - b_hi;
    const double hi = a * b;
    return {hi, ((a_hi * b_hi - hi) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo};
}

inline Double2 operator*(Double2 a, double b) {
    const Double2 p = product(a.hi, b);
    return quick_sum(p.hi, p.lo + a.lo * b);
}

inline Double2 operator*(Double2 a, Double2 b) {
    const Double2 p = product(a.hi, b.hi);
    return quick_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

inline Double2 operator+(Double2 a, Double2 b) {
    const Double2 s = sum(a.hi, b.hi);
    return quick_sum(s.hi, s.lo + (a.lo + b.lo));
}

inline Double2 operator/(Double2 a, double b) {
    const double quotient = a.hi / b;
    const Double2 p = product(quotient, b);
    return quick_sum(quotient, (((a.hi - p.hi) - p.lo) + a.lo) / b);
}

// ---- functions ----

// log(a / b) = 2 artanh((a - b) / (a + b)), once powers of two have brought a / b within sqrt 2 of
// 1: log2(a / b) = exponent + (2 / ln 2) artanh(s), for normal a, b > 0.
struct Logarithm {
    double exponent;
    Double2 s;

    static Logarithm of(double a, double b) {
        constexpr uint64_t fraction = 0x000fffffffffffff, one = 0x3ff0000000000000;
        constexpr double sqrt2 = 0x1.6a09e667f3bcdp0;
        const uint64_t a_bits = to_bits(a), b_bits = to_bits(b);
        const double exponents =
            from_bits(to_bits(shifter) + (a_bits >> 52) - (b_bits >> 52)) - shifter;
        a = from_bits((a_bits & fraction) | one);
        b = from_bits((b_bits & fraction) | one);
        const bool a_large = a > sqrt2 * b, b_large = b > sqrt2 * a;
        a = a_large ? a * 0.5 : a;
        b = b_large ? b * 0.5 : b;

        const Double2 below = sum(a, b);
        const double reciprocal = 1 / below.hi;
        const double s = (a - b) * reciprocal;
        const Double2 back = product(s, below.hi);
        const double s_lo = (((a - b) - back.hi) - back.lo - s * below.lo) * reciprocal;
        return {exponents + (a_large ? 1.0 : 0.0) - (b_large ? 1.0 : 0.0), {s, s_lo}};
    }

    Double2 log2(Double2 fraction) const {
        const Double2 total = sum(exponent, fraction.hi);
        return quick_sum(total.hi, total.lo + fraction.lo);
    }
};

constexpr Double2 two_over_ln2 = {0x1.71547652b82fep1, 0x1.777d0ffda0d24p-55};

// log2(a / b) to 2^-60 absolutely and, for a near b, relatively: for powers below a few hundred.
inline Double2 log2_ratio(double a, double b) {
    const Logarithm logarithm = Logarithm::of(a, b);
    const Double2 s = logarithm.s;
    // (2 / ln 2) (artanh(s) / s - 1) / s^2 on s^2 <= 0.0296, to 2^-58
    const double w = s.hi * s.hi;
    double tail = 0x1.82e79e1f93c57p-3;
    tail = tail * w + 0x1.8805668a68ab1p-3;
    tail = tail * w + 0x1.c69bd943596fdp-3;
    tail = tail * w + 0x1.0c9a6e3de7156p-2;
    tail = tail * w + 0x1.484b14030c134p-2;
    tail = tail * w + 0x1.a61762a784ce1p-2;
    tail = tail * w + 0x1.2776c50ef9c75p-1;
    tail = tail * w + 0x1.ec709dc3a03fdp-1;
    const Double2 first = product(two_over_ln2.hi, s.hi);
    const double rest = two_over_ln2.hi * s.lo + two_over_ln2.lo * s.hi + s.hi * w * tail;
    return logarithm.log2(quick_sum(first.hi, first.lo + rest));
}

// log2(x) for x >= 0 to 2^-100, once per schedule: for powers up to 2^52. Zero gets a value so low
// that each of its powers is 0.
inline Double2 log2(double x) {
    if (x == 0) return {-0x1p70, 0};
    const double lift = x < 0x1p-1022 ? 54 : 0;
    Logarithm logarithm = Logarithm::of(x * power_of_two(lift), 1);
    logarithm.exponent -= lift;
    // artanh(s) / s = 1 + s^2 / 3 + s^4 / 5 + ...
    const Double2 w = logarithm.s * logarithm.s;
    Double2 series = {0, 0};
    for (int k = 41; k >= 1; k -= 2) series = series * w + Double2{1, 0} / k;
    return logarithm.log2(two_over_ln2 * logarithm.s * series);
}

// 2^x as (1 + growth) * 2^exponent, exponent an integer. growth keeps its relative precision where
// it is small, so 2^x - 1 is as good as 2^x.
struct Exp2 {
    double growth, exponent;

    explicit Exp2(Double2 x) {
        // Beyond these every result is 0 or infinite.
        const double hi = greatest(least(x.hi, 2044), -2044);
        exponent = nearest(hi);
        const double f = (hi - exponent) + (hi == x.hi ? x.lo : 0);
        // (2^f - 1) / f on |f| <= 1/2, to 2^-61
        double g = 0x1.c3bd60f23fd0ep-36;
        g = g * f + 0x1.e9ec55bf67c8ap-32;
        g = g * f + 0x1.e4cfaeb5e3758p-28;
        g = g * f + 0x1.b524ebb8c777dp-24;
        g = g * f + 0x1.62c0221b332b7p-20;
        g = g * f + 0x1.ffcbfc6dad90cp-17;
        g = g * f + 0x1.430912f87425cp-13;
        g = g * f + 0x1.5d87fe78a3f95p-10;
        g = g * f + 0x1.3b2ab6fba4e60p-7;
        g = g * f + 0x1.c6b08d704a0c6p-5;
        g = g * f + 0x1.ebfbdff82c58fp-3;
        g = g * f + 0x1.62e42fefa39efp-1;
        growth = g * f;
    }

    // value * 2^x. The power of two is applied in halves: one alone may leave the range.
    double times(double value) const {
        const double half = nearest(exponent * 0.5);
        return (value + value * growth) * power_of_two(half) * power_of_two(exponent - half);
    }

    // 1 - 2^x for x <= 0
    double complement() const { return exponent == 0 ? -growth : 1 - times(1); }
};

// A base whose powers are wanted, its logarithm taken once.
struct Base {
    Double2 log2_base;

    static Base of(double base, double divisor = 1) { return {log2(base) / divisor}; }

    // value * base^n (base^(n / divisor)) for 0 <= n < 2^52
    double power(double n, double value) const { return Exp2(log2_base * n).times(value); }
};

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

// ---- from start to end ----
//
// Here x = min(t, length) / length, length > 0. What is left and what is done are each computed for
// themselves, because 1 - x loses what matters where x is near 1.

// start (1 - x) + end x, to half an ULP.
inline double line(double t, double length, double start, double end) {
    const double done = least(t, length), left = length - done;
    return ((product(start, left) + product(end, done)) / length).hi;
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

// left = cos^2(pi x / 2), done = sin^2(pi x / 2); the smaller is computed, the larger is 1 - it.
inline Share cosine_share(double t, double length) {
    const double done = least(t, length), left = length - done;
    const double nearer = least(done, left);
    const double small = haversine_pi(nearer * nearer / (length * length));
    return {done <= left ? 1 - small : small, done <= left ? small : 1 - small};
}

// left = (1 - x)^power
inline Share power_share(double t, double length, double power) {
    const double left = length - least(t, length);
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
