// Sums that have the same bits whatever the width of a vector.

// Element i adds to sum i mod 16 and the sums fold in a fixed tree.

inline double fold(double* sums) {
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
    return sums[0];
}

// The elements from i on, fewer than 16, followed by zeros.
template <class T> struct Last {
    T values[lanes] = {};
    Last(const T* x, int64_t i, int64_t n) {
        for (int64_t j = i; j < n; ++j) values[j - i] = x[j];
    }
};

// As many doubles as fit a vector of the target: its sums stay in registers.
#if defined(__AVX512F__)
constexpr int width = 8;
#elif defined(__AVX2__)
constexpr int width = 4;
#else
constexpr int width = 2;
#endif
using Doubles __attribute__((vector_size(width * sizeof(double)))) = double;

template <class T> [[gnu::always_inline]] inline Doubles doubles(const T* from) {
    Doubles result;    // (gcc makes two conversions of __builtin_convertvector here)
    for (int k = 0; k < width; ++k) result[k] = double(from[k]);
    return result;
}

// Of a block of the walk at most.
template <class T> double sum_squares_of(const T* x, int64_t n) {
    Doubles sums[lanes / width] = {};
    auto add = [&](const T* from) {
        for (int k = 0; k < lanes / width; ++k) {
            const Doubles value = doubles(from + k * width);
            sums[k] += value * value;
        }
    };
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) add(x + i);
    if (i < n) add(Last<T>(x, i, n).values);
    double all[lanes];
    __builtin_memcpy(all, sums, sizeof all);
    return fold(all);
}

template <class Storage> double sum_squares(const void* data, int64_t n) {
    using T = typename Storage::compute;
    const auto x = Storage::at(const_cast<void*>(data), nullptr);
    if constexpr (std::is_same_v<typename Storage::memory, T>) {
        return sum_squares_of(x, n);
    } else {
        alignas(64) T numbers[gradstep::block_elements];
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) numbers[i] = Storage::template load<T>(x, i);
        return sum_squares_of<T>(numbers, n);
    }
}

template <class Storage, class T> bool all_finite(const void* data, int64_t n) {
    const auto x = Storage::at(const_cast<void*>(data), nullptr);
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) {
        const T value = Storage::template load<T>(x, i);
        finite &= value - value == 0;
    }
    return finite;
}

Sums fold_all(LaneSums& sums) {
    Sums folded;
    folded.raw_gradient = fold(sums.raw_gradient);
    folded.update = fold(sums.update);
    folded.param = fold(sums.param);
    folded.gradient_momentum = fold(sums.gradient_momentum);
    folded.momentum = fold(sums.momentum);
    folded.gradient = fold(sums.gradient);
    folded.ratio = fold(sums.ratio);
    folded.elements = sums.elements;
    return folded;
}

void fold_gathered(GatherLanes& sums, int count, double* totals) {
    for (int k = 0; k < count; ++k) totals[k] += fold(sums.sum[k]);
}
