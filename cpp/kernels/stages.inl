// What a step does to a block of numbers besides the rule.

template <class T> void clip(const void* data, int64_t n, double factor, double limit, void* out) {
    const T* g = static_cast<const T*>(data);
    const T f = T(factor), most = T(limit);
    T* result = static_cast<T*>(out);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T x = g[i] * f;
        result[i] = x > most ? most : x < -most ? -most : x;
    }
}

template <class T> void average(void* data, const void* param, int64_t n, double weight) {
    T* a = static_cast<T*>(data);
    const T* p = static_cast<const T*>(param);
    const T w = T(weight);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) a[i] += w * (p[i] - a[i]);
}

template <class T> void subtract(const void* data, const void* taken, int64_t n, void* out) {
    const T* a = static_cast<const T*>(data);
    const T* b = static_cast<const T*>(taken);
    T* result = static_cast<T*>(out);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) result[i] = a[i] - b[i];
}

// Two vectors of a sum's 16 lanes: additions of two do not wait for each other, and those of all
// sums stay in registers.
struct Pair {
    Doubles half[2];

    explicit Pair(const double* from) {
        for (int h = 0; h < 2; ++h) half[h] = doubles(from + h * width);
    }
    void keep(double* to) const { __builtin_memcpy(to, half, sizeof half); }
};
constexpr int pair = 2 * width;
static_assert(lanes % pair == 0);

// Sums of the gradient and of the momentum before it changes, of n elements, a multiple of 16.
// as_given: the rule gets the gradient as it was given.
template <class T, bool has_momentum, bool as_given>
void measure_gradients(const T* raw, const T* g, const T* m, int64_t n, LaneSums& sums) {
    for (int lane = 0; lane < lanes; lane += pair) {
        Pair raw_gradient(sums.raw_gradient + lane), gradient(sums.gradient + lane),
            gradient_momentum(sums.gradient_momentum + lane), momentum(sums.momentum + lane);
        for (int64_t i = lane; i < n; i += lanes) {
            for (int h = 0; h < 2; ++h) {
                const Doubles given = doubles(raw + i + h * width);
                const Doubles used = as_given ? given : doubles(g + i + h * width);
                raw_gradient.half[h] += given * given;
                gradient.half[h] += used * used;
                if (!has_momentum) continue;
                const Doubles average = doubles(m + i + h * width);
                gradient_momentum.half[h] += used * average;
                momentum.half[h] += average * average;
            }
        }
        raw_gradient.keep(sums.raw_gradient + lane);
        gradient.keep(sums.gradient + lane);
        gradient_momentum.keep(sums.gradient_momentum + lane);
        momentum.keep(sums.momentum + lane);
    }
}

// Sums of the parameter and of its update. ratio: the squared gradient over the second moment.
template <class T, bool has_moment>
void measure_updates(const T* before, const T* p, const T* ratios, int64_t n, LaneSums& sums) {
    for (int lane = 0; lane < lanes; lane += pair) {
        Pair update(sums.update + lane), param(sums.param + lane), ratio(sums.ratio + lane);
        for (int64_t i = lane; i < n; i += lanes) {
            for (int h = 0; h < 2; ++h) {
                const Doubles x = doubles(p + i + h * width);
                const Doubles u = x - doubles(before + i + h * width);
                update.half[h] += u * u;
                param.half[h] += x * x;
                if (has_moment) ratio.half[h] += doubles(ratios + i + h * width);
            }
        }
        update.keep(sums.update + lane);
        param.keep(sums.param + lane);
        ratio.keep(sums.ratio + lane);
    }
}

template <class T, bool has_momentum, bool as_given>
void measure_before(const Measured& block, LaneSums& sums) {
    const T* raw = static_cast<const T*>(block.raw);
    const T* g = static_cast<const T*>(block.gradient);
    const T* m = has_momentum ? static_cast<const T*>(block.momentum) : raw;
    const int64_t n = block.n, whole = n / lanes * lanes;
    measure_gradients<T, has_momentum, as_given>(raw, g, m, whole, sums);
    if (whole < n)
        measure_gradients<T, has_momentum, as_given>(Last<T>(raw, whole, n).values,
                                                     Last<T>(g, whole, n).values,
                                                     Last<T>(m, whole, n).values, lanes, sums);
}

template <class T, bool has_moment> void measure_after(const Measured& block, LaneSums& sums) {
    const T* g = static_cast<const T*>(block.gradient);
    const T* before = static_cast<const T*>(block.p_before);
    const T* p = static_cast<const T*>(block.p);
    const T* v = static_cast<const T*>(block.second_moment);
    const int64_t n = block.n, whole = n / lanes * lanes;
    alignas(64) T ratio[gradstep::block_elements];
    if (has_moment) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const T quotient = g[i] * g[i] / v[i];
            ratio[i] = v[i] != 0 ? quotient : T(0);
        }
    }
    const T* ratios = has_moment ? ratio : g;
    measure_updates<T, has_moment>(before, p, ratios, whole, sums);
    if (whole < n)
        measure_updates<T, has_moment>(Last<T>(before, whole, n).values,
                                       Last<T>(p, whole, n).values,
                                       Last<T>(ratios, whole, n).values, lanes, sums);
    sums.elements += double(n);
}

template <class T> void measure(const Measured& block, LaneSums& sums) {
    const bool as_given = block.gradient == block.raw;
    if (block.part == Measured::gradients)
        (block.momentum
             ? (as_given ? measure_before<T, true, true> : measure_before<T, true, false>)
             : (as_given ? measure_before<T, false, true> : measure_before<T, false, false>))(block,
                                                                                              sums);
    else
        (block.second_moment ? measure_after<T, true> : measure_after<T, false>)(block, sums);
}

template <class T> constexpr Stages stages_of = {clip<T>,    average<T>,     subtract<T>,
                                                 measure<T>, add_squares<T>, multiply<T>};
constexpr Stages stages[] = {stages_of<float>, stages_of<double>};
