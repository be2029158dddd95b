// The functions of one number that rules and schedules need: + - * / on doubles, comparisons and
// bits, and nothing else. No libm, whose functions differ by processor; no fma; no branch, so that
// a loop over any of this becomes vectors. Every instruction set and compiler gives the same bits,
// one value or many at a time. Steps, lengths and counts are doubles that hold integers: exact
// below 2^52.
//
// Included inside each target's unnamed namespace (see kernels.inl): no std:: here.
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

// Of two numbers, where a second one that is NaN is passed over.
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
inline double ceil(double x) {
    const double nearest = (x + 0x1p52) - 0x1p52;
    return nearest < x ? nearest + 1 : nearest;
}

// A length that steps are divided by again and again. Division is what costs most in a vector.
struct Divisor {
    double length, inverse;

    static Divisor of(double length) { return {length, 1 / length}; }

    // floor(t / length) and what remains, both exact for an integer length: the product with the
    // inverse is off by less than 1, which shows in the remainder.
    double whole(double t) const {
        const double near = floor(t * inverse), left = t - near * length;
        return near + (left >= length ? 1.0 : 0.0) - (left < 0 ? 1.0 : 0.0);
    }
    double remainder(double t) const { return t - whole(t) * length; }
};

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

// The first 26 of 53 bits, and the first 25. What is left is exact.
inline double first26(double x) { return from_bits(to_bits(x) & 0xfffffffff8000000); }
inline double first25(double x) { return from_bits(to_bits(x) & 0xfffffffff0000000); }

// a * b to 2^-104, from halves whose products are exact.
inline Double2 product(double a, double b) {
    const double a_hi = first26(a), a_lo = a - a_hi;
    const double b_hi = first26(b), b_lo = b - b_hi;
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

inline Double2 operator/(Double2 a, Double2 b) {
    const double inverse = 1 / b.hi, quotient = a.hi * inverse;
    const Double2 p = product(quotient, b.hi);
    return quick_sum(quotient, (((a.hi - p.hi) - p.lo) + a.lo - quotient * b.lo) * inverse);
}

// For a > 0.
inline Double2 sqrt(Double2 a) {
    const double root = __builtin_sqrt(a.hi);
    const Double2 p = product(root, root);
    return quick_sum(root, (((a.hi - p.hi) - p.lo) + a.lo) / (root + root));
}

// value sqrt(of / x) as scale sqrt(square / x): the root halves the errors below it.
struct Root {
    double scale, square;

    static Root of(double value, Double2 of) {
        if (value == 0) return {0, 0};
        constexpr uint64_t sign_and_exponent = 0xfff0000000000000;
        const double lift = value < 0x1p-900 && value > -0x1p-900 ? 0x1p100 : 1;    // subnormal?
        const double scale = from_bits(to_bits(value * lift) & sign_and_exponent);
        const double share = value * lift / scale;
        return {scale / lift, (product(share, share) * of).hi};
    }

    double over(double x) const { return scale * __builtin_sqrt(square / x); }
};

// ---- functions ----

// log2(a / b) = exponent + (2 / ln 2) artanh(s), s = (a - b) / (a + b), once powers of two have
// brought a / b within sqrt 2 of 1. For normal a, b > 0. s is hi + lo, hi of 25 bits.
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

        const double a_hi = first26(a), b_hi = first26(b), inverse = 1 / (a + b);
        const double above = a - b, s = first25(above * inverse);
        const double rest = (above - s * (a_hi + b_hi)) - s * ((a - a_hi) + (b - b_hi));
        return {exponents + (a_large ? 1.0 : 0.0) - (b_large ? 1.0 : 0.0), {s, rest * inverse}};
    }
};

constexpr Double2 two_over_ln2 = {0x1.71547652b82fep1, 0x1.777d0ffda0d24p-55};

// 2^x as (1 + growth) * 2^exponent, exponent an integer. growth keeps its relative precision where
// it is small, so 2^x - 1 is as good as 2^x. x = hi + lo, |lo| < 2^-10 where |hi| < 2044.
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

// A factor for exponents, hi of 26 bits + lo: products with a double are as good as Exp2 needs.
struct Factor {
    double hi, lo;

    static Factor of(Double2 x) {
        const double hi = first26(x.hi);
        return {hi, (x.hi - hi) + x.lo};
    }

    Double2 operator*(double n) const {
        const double n_hi = first26(n);
        return {hi * n_hi, hi * (n - n_hi) + lo * n};
    }
};

// log2(a / b) to 2^-60 absolutely and, for a near b, relatively: for powers below a few hundred.
inline Factor log2_ratio(double a, double b, double more = 0) {
    const Logarithm logarithm = Logarithm::of(a, b);
    const double s = logarithm.s.hi + logarithm.s.lo;
    // (2 / ln 2) (artanh(s) / s - 1) / s^2 on s^2 <= 0.0296, to 2^-58
    const double w = s * s;
    double tail = 0x1.82e79e1f93c57p-3;
    tail = tail * w + 0x1.8805668a68ab1p-3;
    tail = tail * w + 0x1.c69bd943596fdp-3;
    tail = tail * w + 0x1.0c9a6e3de7156p-2;
    tail = tail * w + 0x1.484b14030c134p-2;
    tail = tail * w + 0x1.a61762a784ce1p-2;
    tail = tail * w + 0x1.2776c50ef9c75p-1;
    tail = tail * w + 0x1.ec709dc3a03fdp-1;
    constexpr double c_hi = 0x1.7154760p1, c_lo = 0x1.4ae0bf85ddf44p-25;    // 2 / ln 2
    const double first = c_hi * logarithm.s.hi;
    const double rest = c_hi * logarithm.s.lo + c_lo * s + s * w * tail;
    const Double2 most = quick_sum(logarithm.exponent, first);
    const Double2 total = quick_sum(most.hi, most.lo + rest);
    return Factor::of({total.hi, total.lo + more});
}

// log2(x) for x >= 0 to 2^-100, once per schedule: for powers up to 2^52. Zero gets a value so low
// that each of its powers is 0.
inline Double2 log2(double x) {
    if (x == 0) return {-0x1p70, 0};
    const double lift = x < 0x1p-1022 ? 54 : 0;
    const uint64_t bits = to_bits(x * power_of_two(lift));
    double exponent = double(int64_t(bits >> 52)) - 1023 - lift;
    double a = from_bits((bits & 0x000fffffffffffff) | 0x3ff0000000000000);
    if (a > 0x1.6a09e667f3bcdp0) a *= 0.5, exponent += 1;
    // artanh(s) / s = 1 + s^2 / 3 + s^4 / 5 + ...
    const Double2 s = Double2{a - 1, 0} / sum(a, 1), w = s * s;
    Double2 series = {0, 0};
    for (int k = 41; k >= 1; k -= 2) series = series * w + Double2{1, 0} / k;
    const Double2 fraction = two_over_ln2 * s * series, total = sum(exponent, fraction.hi);
    return quick_sum(total.hi, total.lo + fraction.lo);
}

// A base whose powers are wanted, its logarithm taken once.
struct Base {
    Factor log2_base;

    static Base of(double base, double divisor = 1) { return {Factor::of(log2(base) / divisor)}; }

    // base^n (base^(n / divisor)) for 0 <= n < 2^52
    Exp2 power(double n) const { return Exp2(log2_base * n); }
};

// base^exponent for base >= 0, of any exponent but those of a base of 0, which are positive.
inline double pow(double base, double exponent) { return Base::of(base).power(exponent).times(1); }
