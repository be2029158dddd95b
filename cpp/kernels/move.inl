// The bare loop that a step's bytes are held against.

template <size_t... A>
void move_loop(float* const* arrays, const float* g, int64_t n, std::index_sequence<A...>) {
    float* x[] = {arrays[A]...};
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) ((x[A][i] += g[i]), ...);
}

void move(float* const* arrays, int count, const float* g, int64_t n) {
    static_assert(gradstep::max_states + 1 == 5, "a case for each number of arrays");
    switch (count) {
    case 1: return move_loop(arrays, g, n, std::make_index_sequence<1>());
    case 2: return move_loop(arrays, g, n, std::make_index_sequence<2>());
    case 3: return move_loop(arrays, g, n, std::make_index_sequence<3>());
    case 4: return move_loop(arrays, g, n, std::make_index_sequence<4>());
    case 5: return move_loop(arrays, g, n, std::make_index_sequence<5>());
    }
}
