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

// Which of the sums an element adds to.
template <class T, bool has_momentum, bool has_moment, Measured::Part part>
void measure_lanes(const T* raw, const T* before, const T* p, const T* m, const T* v, T factor,
                   T most, LaneSums& sums) {
    constexpr bool of_gradients = part != Measured::updates,
                   of_updates = part != Measured::gradients;
#pragma omp simd
    for (int j = 0; j < lanes; ++j) {
        T g = raw[j] * factor;
        g = g > most ? most : g < -most ? -most : g;
        if (of_gradients) {
            const double r = double(raw[j]), used = double(g);
            sums.raw_gradient[j] += r * r;
            sums.gradient[j] += used * used;
            if (has_momentum) {
                const double average = double(m[j]);
                sums.gradient_momentum[j] += used * average;
                sums.momentum[j] += average * average;
            }
        }
        if (of_updates) {
            const double x = double(p[j]), u = x - double(before[j]);
            sums.update[j] += u * u;
            sums.param[j] += x * x;
            if (has_moment) {
                const T quotient = g * g / v[j];
                sums.ratio[j] += double(v[j] != 0 ? quotient : T(0));
            }
        }
    }
}

template <class T, bool has_momentum, bool has_moment, Measured::Part part>
void measure_these(const Measured& block, LaneSums& sums) {
    // What a part does not look at may be missing.
    const T* raw = static_cast<const T*>(block.raw);
    const T* p = part == Measured::gradients ? raw : static_cast<const T*>(block.p);
    const T* before = part == Measured::gradients ? raw : static_cast<const T*>(block.p_before);
    const T* m = has_momentum ? static_cast<const T*>(block.momentum) : raw;
    const T* v = has_moment ? static_cast<const T*>(block.second_moment) : raw;
    const T factor = T(block.factor), most = T(block.limit);
    LaneSums own = sums;    // not aliased: they stay in registers
    int64_t i = 0;
    for (; i + lanes <= block.n; i += lanes)
        measure_lanes<T, has_momentum, has_moment, part>(raw + i, before + i, p + i, m + i, v + i,
                                                         factor, most, own);
    if (i < block.n)
        measure_lanes<T, has_momentum, has_moment, part>(
            Last<T>(raw, i, block.n).values, Last<T>(before, i, block.n).values,
            Last<T>(p, i, block.n).values, Last<T>(m, i, block.n).values,
            Last<T>(v, i, block.n).values, factor, most, own);
    if (part != Measured::gradients) own.elements += double(block.n);
    sums = own;
}

template <class T, Measured::Part part> void measure_part(const Measured& block, LaneSums& sums) {
    if (block.momentum && block.second_moment)
        return measure_these<T, true, true, part>(block, sums);
    if (block.momentum) return measure_these<T, true, false, part>(block, sums);
    if (block.second_moment) return measure_these<T, false, true, part>(block, sums);
    return measure_these<T, false, false, part>(block, sums);
}

template <class T> void measure(const Measured& block, LaneSums& sums) {
    switch (block.part) {
    case Measured::everything: return measure_part<T, Measured::everything>(block, sums);
    case Measured::gradients: return measure_part<T, Measured::gradients>(block, sums);
    case Measured::updates: return measure_part<T, Measured::updates>(block, sums);
    }
}

constexpr Stages stages[] = {{clip<float>, average<float>, measure<float>},
                             {clip<double>, average<double>, measure<double>}};
