// The bare loop that a step's bytes are held against.

template <size_t... A, size_t... R> void move_loop(float* const* changed, const float* const* read,
                                                   int64_t n, std::index_sequence<A...>,
                                                   std::index_sequence<R...>) {
    float* x[] = {changed[A]..., nullptr};
    const float* r[] = {read[R]...};
    float total = 0;    // used by a pass that only reads
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) {
        const float sum = (r[R][i] + ...);
        if constexpr (sizeof...(A) == 0)
            total += sum;
        else
            ((x[A][i] += sum), ...);
    }
    if constexpr (sizeof...(A) == 0) {
        volatile float sink = total;    // or the compiler would drop the reads
        (void)sink;
    }
}

constexpr size_t most_moved = gradstep::max_states + 1;

template <size_t K> void move_so_many(float* const* changed, const float* const* read, int64_t n) {
    move_loop(changed, read, n, std::make_index_sequence<K / most_moved>(),
              std::make_index_sequence<K % most_moved + 1>());
}

struct Moves {
    void (*by_count[(most_moved + 1) * most_moved])(float* const*, const float* const*, int64_t);
};
template <size_t... K> constexpr Moves each_move(std::index_sequence<K...>) {
    return {{move_so_many<K>...}};
}

void move(float* const* changed, int changed_count, const float* const* read, int read_count,
          int64_t n) {
    static constexpr Moves moves =
        each_move(std::make_index_sequence<(most_moved + 1) * most_moved>());
    const size_t counts = size_t(changed_count) * most_moved + size_t(read_count) - 1;
    moves.by_count[counts](changed, read, n);
}
