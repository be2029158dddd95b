// Rules: each one's equation in a loop for every common combination of storages.

template <class Rule> constexpr int hyper_count = sizeof(Rule::hyper_names) / sizeof(const char*);
template <class Rule> constexpr int state_count = sizeof(Rule::states) / sizeof(State);

// Which of a rule's states has this shape; -1: none.
template <class Rule> constexpr int state_of(Shape shape) {
    for (int s = 0; s < state_count<Rule>; ++s)
        if (Rule::states[s].shape == shape) return s;
    return -1;
}
template <class Rule> constexpr int direction_of() {
    for (int s = 0; s < state_count<Rule>; ++s)
        if (Rule::states[s].role == Role::direction) return s;
    return -1;
}
template <class Rule> constexpr bool has_rows = state_of<Rule>(Shape::rows) >= 0;

// Whether state s exists element by element under these options: bit j stands for the j-th optional
// state.
template <class Rule> constexpr bool present(unsigned options, int s) {
    if (Rule::states[s].shape == Shape::rows || Rule::states[s].shape == Shape::columns)
        return false;
    int bit = 0;
    for (int i = 0; i < s; ++i) bit += Rule::states[i].option != nullptr;
    return Rule::states[s].option == nullptr || (options >> bit & 1);
}

// What a rule may have besides its equation, see rules/rule.hpp.
template <class Rule, class = void> constexpr int memory_count = 0;
template <class Rule> constexpr int memory_count<Rule, std::void_t<typename Rule::Memory>> =
    sizeof(Rule::memory_names) / sizeof(const char*);
template <class Rule, class = void> constexpr int gathered = 0;
template <class Result, class Rule, class... Arguments>
constexpr int count_summands(Result (Rule::*)(Arguments...) const) {
    return sizeof(Result) / sizeof(double);
}
template <class Rule> constexpr int gathered<Rule, std::void_t<decltype(&Rule::gather)>> =
    count_summands(&Rule::gather);
// Whether what is gathered is settled once for all tensors of the rule.
template <class Rule, class = void> constexpr int common_count = 0;
template <class Rule> constexpr int common_count<Rule, std::void_t<decltype(Rule::common)>> =
    sizeof(Rule::common) / sizeof(const char*);
template <class Rule, class = void> constexpr bool takes_loss = false;
template <class Rule> constexpr bool takes_loss<Rule, std::void_t<decltype(Rule::takes_loss)>> =
    Rule::takes_loss;
template <class Rule, class = void> constexpr bool scales_moment = false;
template <class Rule>
constexpr bool scales_moment<Rule, std::void_t<decltype(Rule::scales_moment)>> =
    Rule::scales_moment;
template <class Rule, class = void> constexpr bool has_shown = false;
template <class Rule> constexpr bool has_shown<Rule, std::void_t<typename Rule::Shown>> = true;
template <class Rule, class = void> constexpr bool takes_sign = false;
template <class Rule> constexpr bool takes_sign<Rule, std::void_t<decltype(Rule::takes_sign)>> =
    Rule::takes_sign;
template <class Rule, class = void> constexpr bool takes_rows = false;
template <class Rule>
constexpr bool takes_rows<Rule, std::void_t<decltype(Rule::moves_every_row)>> = true;
template <class Rule, class = void> constexpr Loops loops_of = Loops::few;
template <class Rule> constexpr Loops loops_of<Rule, std::void_t<decltype(Rule::loops)>> =
    Rule::loops;
template <class Rule, class = void> constexpr unsigned rare_options = 0;
template <class Rule> constexpr unsigned rare_options<Rule, std::void_t<decltype(Rule::rare)>> =
    Rule::rare;
template <class Rule, class = void> constexpr bool has_correction = false;
template <class Rule>
constexpr bool has_correction<Rule, std::void_t<decltype(&Rule::moment_correction)>> = true;

template <class Rule>
void resolve(const double* hyper, const When& when, double* memory, void* scalars) {
    typename Rule::Hyper h;
    __builtin_memcpy(&h, hyper, sizeof h);
    static_assert(sizeof(Rule) <= gradstep::max_scalar_bytes, "the rule has too many scalars");
    if constexpr (memory_count<Rule> > 0) {
        typename Rule::Memory kept;
        static_assert(sizeof kept == memory_count<Rule> * sizeof(double),
                      "Memory is a double for each of memory_names");
        __builtin_memcpy(&kept, memory, sizeof kept);
        const Rule rule(h, when, kept);
        __builtin_memcpy(memory, &kept, sizeof kept);
        __builtin_memcpy(scalars, &rule, sizeof rule);
    } else {
        const Rule rule(h, when);
        __builtin_memcpy(scalars, &rule, sizeof rule);
    }
}

template <class Rule> constexpr bool is_signed(int s) {
    return Rule::states[s].role == Role::momentum;
}

// How a state is rounded in a loop of its own: as it is unless somebody asks for another way.
template <class Rule, class S> constexpr bool stochastic_state(int s) {
    const Role role = Rule::states[s].role;
    return gradstep::stochastic_by_default(role) ||
           (S::stochastic_momentum && role == Role::momentum);
}

// Whether a pass changes state s: in a rule of two passes each state belongs to one of them.
enum class Pass { gather, update };
template <class Rule> constexpr bool changes(unsigned options, int s, Pass pass) {
    return present<Rule>(options, s) && !Rule::states[s].fixed &&
           Rule::states[s].gathered == (pass == Pass::gather);
}

template <class Rule, class S, unsigned options, Pass pass, size_t I, class T>
inline void store_state(typename S::pointer x, int64_t i, T value, RandomKey key, uint32_t steps) {
    if constexpr (changes<Rule>(options, I, pass))
        store<S, stochastic_state<Rule, S>(I)>(x, i, value, key, steps);
}

// P, G and S: the storages of parameter, gradient and states. Numbers become the compute type as
// they are loaded and are rounded as they are stored. parts: of what is published, for parameters
// that are stored as they are computed.
template <class Rule, class P, class G, class S, bool stochastic, unsigned options, int parts = 0,
          size_t... I>
void update_elements(const Rule rule, typename P::compute factor, const Piece& piece,
                     std::index_sequence<I...>, const Published& published = {}) {
    using T = typename P::compute;
    T* const average = static_cast<T*>(published.average);
    const T weight = T(published.weight);
    const auto copy = bfloat16::at(published.copy, nullptr);
    const auto p = P::at(piece.p, piece.low);
    const auto g = G::at(const_cast<void*>(piece.g), nullptr);
    [[maybe_unused]] const typename S::pointer state[sizeof...(I) + 1] = {
        S::at(piece.state[I], nullptr)...};
    const RandomKey param_key = piece.key[0];
    [[maybe_unused]] const RandomKey key[sizeof...(I) + 1] = {piece.key[1 + I]...};
    const int64_t n = piece.n;
    uint32_t steps = 0;
    constexpr uint32_t step = RandomKey::step;
    GRADSTEP_SIMD_STEPS()
    for (int64_t i = 0; i < n; ++i) {
        T parameter = P::template load<T>(p, i);
        T s[sizeof...(I) + 1] = {present<Rule>(options, I) ? S::template load<T>(state[I], i)
                                                           : T(0)...};
        rule(parameter, G::template load<T>(g, i) * factor, s[I]...);
        store<P, stochastic>(p, i, parameter, param_key, steps);
        (store_state<Rule, S, options, Pass::update, I>(state[I], i, s[I], key[I], steps), ...);
        if (parts & gradstep::publish_average) average[i] += weight * (parameter - average[i]);
        if (parts & gradstep::publish_copy) bfloat16::store<false>(copy, i, parameter, 0);
        steps += step;
    }
}

// The same where the states lie in blocks: a block's scale is known only when all of it has been
// computed, so the states of a few blocks are encoded after them.
template <class Rule, class P, class G, class S, bool stochastic, unsigned options, size_t... I>
void update_blocks(const Rule rule, float factor, const Piece& piece, std::index_sequence<I...>) {
    constexpr int states = sizeof...(I), block = S::block;
    constexpr int at_once = gradstep::block_elements / block;
    alignas(64) float number[states][at_once][block];
    int32_t largest[states][at_once];
    uint8_t* state[] = {static_cast<uint8_t*>(piece.state[I])...};
    for (int64_t start = 0; start < piece.n; start += at_once * block) {
        const int64_t left = piece.n - start;
        const int total = left < at_once * block ? int(left) : at_once * block;
        for (int b = 0; b * block < total; ++b) {
            const int n = total - b * block < block ? total - b * block : block;
            const int64_t begin = start + b * block;
            const auto p = P::plus(P::at(piece.p, piece.low), begin);
            const auto g = G::plus(G::at(const_cast<void*>(piece.g), nullptr), begin);
            const RandomKey param_key = piece.key[0].from(begin);
            ((present<Rule>(options, I) ? S::template decode<is_signed<Rule>(I)>(
                                              state[I] + b * S::bytes(block), n, number[I][b])
                                        : void()),
             ...);
            static_assert(gradstep::max_states == 4, "a largest number for each");
            int32_t most0 = 0, most1 = 0, most2 = 0, most3 = 0;
            uint32_t steps = 0;
            constexpr uint32_t step = RandomKey::step;
            GRADSTEP_SIMD_STEPS(reduction(max : most0, most1, most2, most3))
            for (int i = 0; i < n; ++i) {
                float parameter = P::template load<float>(p, i);
                float s[] = {present<Rule>(options, I) ? number[I][b][i] : 0.0f ...};
                rule(parameter, G::template load<float>(g, i) * factor, s[I]...);
                store<P, stochastic>(p, i, parameter, param_key, steps);
                steps += step;
                ((present<Rule>(options, I) ? void(number[I][b][i] = s[I]) : void()), ...);
                const int32_t now[gradstep::max_states] = {
                    (present<Rule>(options, I) ? S::magnitude(s[I]) : 0)...};
                most0 = S::larger(most0, now[0]);
                most1 = S::larger(most1, now[1]);
                most2 = S::larger(most2, now[2]);
                most3 = S::larger(most3, now[3]);
            }
            const int32_t most[] = {most0, most1, most2, most3};
            ((largest[I][b] = most[I]), ...);
        }
        for (int b = 0; b * block < total; ++b) {
            const int n = total - b * block < block ? total - b * block : block;
            ((present<Rule>(options, I)
                  ? S::template encode<is_signed<Rule>(I), stochastic_state<Rule, S>(I)>(
                        number[I][b], n, largest[I][b], state[I] + b * S::bytes(block),
                        piece.key[1 + I].from(start + b * block))
                  : void()),
             ...);
        }
        for (uint8_t*& s : state) s += at_once * S::bytes(block);
    }
}

template <class Rule, class P, class G, class S, bool stochastic, unsigned options, size_t... I>
void update_here(const Rule& rule, typename P::compute factor, const Piece& piece,
                 std::index_sequence<I...> states) {
    if constexpr (S::block == 1)
        update_elements<Rule, P, G, S, stochastic, options>(rule, factor, piece, states);
    else
        update_blocks<Rule, P, G, S, stochastic, options>(rule, factor, piece, states);
}

// Conversions in the rule's loop want registers, of which some targets have too few: there they
// have loops of their own, over a block in the first-level cache.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool many_registers = true;
#else
constexpr bool many_registers = false;
#endif

template <class T> using Plain = std::conditional_t<sizeof(T) == sizeof(double), float64, float32>;

// Through scratch: the parameter, if it does not lie as it is computed with, and such states,
// unless they lie in blocks.
template <class Rule, class P, class G, class S, bool stochastic, unsigned options, size_t... I>
void update_apart(const Rule& rule, typename P::compute factor, const Piece& piece,
                  std::index_sequence<I...> states) {
    using T = typename P::compute;
    using States = std::conditional_t<S::block == 1, Plain<T>, S>;
    constexpr int64_t most = gradstep::block_elements;
    constexpr bool param_apart = !std::is_same_v<P, Plain<T>>;
    constexpr bool states_apart = !std::is_same_v<S, States>;
    alignas(64) T param[param_apart ? most : 1];
    alignas(64) T numbers[sizeof...(I) + 1][states_apart ? most : 1];
    for (int64_t begin = 0; begin < piece.n; begin += most) {
        Piece part = {};
        part.n = piece.n - begin < most ? piece.n - begin : most;
        const auto p = P::plus(P::at(piece.p, piece.low), begin);
        part.g = G::plus(G::at(const_cast<void*>(piece.g), nullptr), begin);
        if constexpr (param_apart) {
            decode_elements<P>(p, part.n, param);
            part.p = param;
        } else {
            part.p = p;
        }
        [[maybe_unused]] auto load = [&](auto index) {
            constexpr int s = decltype(index)::value;
            part.state[s] = static_cast<char*>(piece.state[s]) + S::bytes(begin);
            part.key[1 + s] = piece.key[1 + s].from(begin);
            if constexpr (states_apart) {
                decode_elements<S>(S::at(part.state[s], nullptr), part.n, numbers[s]);
                part.state[s] = numbers[s];
            }
        };
        ((present<Rule>(options, I) ? load(std::integral_constant<int, I>()) : void()), ...);
        update_here<Rule, Plain<T>, G, States, false, options>(rule, factor, part, states);
        if constexpr (param_apart)
            encode_elements<P, T, stochastic>(param, part.n, p, piece.key[0].from(begin));
        if constexpr (states_apart) {
            auto keep = [&](auto index) {
                constexpr int s = decltype(index)::value;
                if constexpr (changes<Rule>(options, s, Pass::update))
                    encode_elements<S, T, stochastic_state<Rule, S>(s)>(
                        numbers[s], part.n, S::plus(S::at(piece.state[s], nullptr), begin),
                        part.key[1 + s]);
            };
            (keep(std::integral_constant<int, I>()), ...);
        }
    }
}

template <class Rule, class P, class G, class S, bool stochastic, unsigned options>
void update(const void* scalars, double gradient_factor, const Piece& piece) {
    const Rule& rule = *static_cast<const Rule*>(scalars);
    const auto factor = typename P::compute(gradient_factor);
    constexpr auto states = std::make_index_sequence<state_count<Rule>>();
    using Numbers = Plain<typename P::compute>;
    constexpr bool is_plain =
        std::is_same_v<P, Numbers> && (S::block > 1 || std::is_same_v<S, Numbers>);
    if constexpr (many_registers || is_plain)
        update_here<Rule, P, G, S, stochastic, options>(rule, factor, piece, states);
    else
        update_apart<Rule, P, G, S, stochastic, options>(rule, factor, piece, states);
}

template <class Rule, class P, class G, class S, unsigned options, int parts>
void publish(const void* scalars, double gradient_factor, const Piece& piece,
             const Published& published) {
    update_elements<Rule, P, G, S, false, options, parts>(
        *static_cast<const Rule*>(scalars), typename P::compute(gradient_factor), piece,
        std::make_index_sequence<state_count<Rule>>(), published);
}

// The first of two passes at one element. It is a function of its own, not a part of the loop: of
// what a simd loop declares, gcc keeps aggregates in memory, once per lane, and then does not
// vectorize the loop.
template <class Rule, class P, class G, class S, unsigned options, size_t... I>
inline void gather_element(const Rule& rule, typename P::pointer p, typename G::pointer g,
                           typename P::compute factor, const typename S::pointer* state,
                           const RandomKey* key, uint32_t steps, int j, GatherLanes& sums,
                           std::index_sequence<I...>) {
    using T = typename P::compute;
    [[maybe_unused]] T s[sizeof...(I) + 1] = {
        present<Rule>(options, I) ? S::template load<T>(state[I], j) : T(0)...};
    const auto summands =
        rule.gather(P::template load<T>(p, j), G::template load<T>(g, j) * factor, s[I]...);
    for (int k = 0; k < gathered<Rule>; ++k) sums.sum[k][j] += summands.value[k];
    (store_state<Rule, S, options, Pass::gather, I>(state[I], j, s[I], key[I], steps), ...);
}

// The first of two passes over up to 16 elements: states change, and what they add to the sums is
// kept apart for each place, so that the width of a vector does not change the result.
template <class Rule, class P, class G, class S, unsigned options, size_t... I>
void gather_lanes(const Rule& rule, typename P::compute factor, const Piece& piece, int64_t begin,
                  int n, GatherLanes& sums, std::index_sequence<I...> states) {
    const auto p = P::plus(P::at(piece.p, piece.low), begin);
    const auto g = G::plus(G::at(const_cast<void*>(piece.g), nullptr), begin);
    [[maybe_unused]] const typename S::pointer state[sizeof...(I) + 1] = {
        S::plus(S::at(piece.state[I], nullptr), begin)...};
    [[maybe_unused]] const RandomKey key[sizeof...(I) + 1] = {piece.key[1 + I].from(begin)...};
    constexpr uint32_t step = RandomKey::step;
    uint32_t steps = 0;
    GRADSTEP_SIMD_STEPS()
    for (int j = 0; j < n; ++j) {
        gather_element<Rule, P, G, S, options>(rule, p, g, factor, state, key, steps, j, sums,
                                               states);
        steps += step;
    }
}

template <class Rule, class P, class G, class S, unsigned options>
void gather(const void* scalars, double gradient_factor, const Piece& piece, GatherLanes& sums) {
    const Rule rule = *static_cast<const Rule*>(scalars);
    const auto factor = typename P::compute(gradient_factor);
    constexpr auto states = std::make_index_sequence<state_count<Rule>>();
    GatherLanes own = sums;    // not aliased: they stay in registers
    int64_t i = 0;
    for (; i + lanes <= piece.n; i += lanes)
        gather_lanes<Rule, P, G, S, options>(rule, factor, piece, i, lanes, own, states);
    if (i < piece.n)
        gather_lanes<Rule, P, G, S, options>(rule, factor, piece, i, int(piece.n - i), own, states);
    sums = own;
}

template <class Rule, size_t... K>
void settle_with(Rule& rule, double* memory, const double* sums, std::index_sequence<K...>) {
    if constexpr (memory_count<Rule> > 0) {
        typename Rule::Memory kept;
        __builtin_memcpy(&kept, memory, sizeof kept);
        rule.settle(kept, sums[K]...);
        __builtin_memcpy(memory, &kept, sizeof kept);
    } else {
        rule.settle(sums[K]...);
    }
}

template <class Rule, class... Arguments>
constexpr int count_arguments(void (Rule::*)(Arguments...)) {
    return sizeof...(Arguments);
}

template <class Rule> void settle(void* scalars, double* memory, const double* sums) {
    constexpr int count = count_arguments(&Rule::settle) - (memory_count<Rule> > 0);
    static_assert(count == gathered<Rule> || count == gathered<Rule> + 1,
                  "settle takes the sums that are gathered, and perhaps their count");
    settle_with(*static_cast<Rule*>(scalars), memory, sums, std::make_index_sequence<count>());
}

// A direction, which Python does not count as a state, comes last. Until it is replaced, which may
// fail, nothing else changes.
template <class Rule> constexpr bool direction_is_safe() {
    constexpr int direction = direction_of<Rule>();
    if (direction < 0) return true;
    for (int s = 0; s < direction; ++s)
        if (Rule::states[s].gathered) return false;
    return direction == state_count<Rule> - 1 && Rule::states[direction].gathered &&
           gathered<Rule> > 0 && memory_count<Rule> == 0 && common_count<Rule> == 0 &&
           !has_rows<Rule>;
}

template <class Rule> constexpr int optional_states() {
    int count = 0;
    for (const State& s : Rule::states) count += s.option != nullptr;
    return count;
}

template <class Rule> constexpr bool is_never_in_blocks() {
    for (const State& s : Rule::states)
        if (s.role == Role::parameter || s.role == Role::rate) return true;
    return false;
}

constexpr int pairing_count = 0
#define GRADSTEP_ONE(...) +1
    GRADSTEP_PAIRINGS(GRADSTEP_ONE);
#undef GRADSTEP_ONE

// Which pairings get a loop of their own under a set of options: all, if the rule asks for it, the
// options are not rare and the target is not for old processors, on which few people will run what
// would be half of the code.
#ifdef GRADSTEP_FEW_LOOPS
constexpr bool old_target = true;
#else
constexpr bool old_target = false;
#endif
template <class Rule> constexpr Loops loops_under(unsigned options) {
    return old_target || options & rare_options<Rule> ? Loops::few : loops_of<Rule>;
}

// Whether what is published has a loop of its own: for float32 alone.
template <class Rule, class P, class S> constexpr bool publishes(unsigned options) {
    return !old_target && !(options & rare_options<Rule>) && std::is_same_v<P, float32> &&
           std::is_same_v<S, float32>;
}

template <class Rule, class P, class G, class S, bool stochastic, unsigned options>
constexpr Kernel kernel() {
    Kernel made = {};
    made.resolve = resolve<Rule>;
    made.update = update<Rule, P, G, S, stochastic, options>;
    if constexpr (gathered<Rule> > 0) {
        made.gather = gather<Rule, P, G, S, options>;
        made.settle = settle<Rule>;
    }
    if constexpr (has_rows<Rule>) made.factor = factor<Rule, typename P::compute>;
    if constexpr (publishes<Rule, P, S>(options)) {
        made.publish[1] = publish<Rule, P, G, S, options, 1>;
        made.publish[2] = publish<Rule, P, G, S, options, 2>;
        made.publish[3] = publish<Rule, P, G, S, options, 3>;
    }
    return made;
}

template <template <class, unsigned> class Rule, class P, class G, class S, bool stochastic,
          Loops loops, unsigned options>
constexpr void fill_one(Kernel& kernel_of) {
    using T = typename P::compute;
    using R = Rule<T, 0>;
    // What is gathered over blocks goes through scratch, since a block's scale comes after its
    // numbers; a point among the parameters and a rate are never kept in blocks.
    constexpr bool possible = S::block == 1 || (gathered<R> == 0 && !is_never_in_blocks<R>());
    if constexpr (possible && (loops == Loops::few || loops_under<R>(options) == Loops::all))
        kernel_of = kernel<Rule<T, options>, P, G, S, stochastic, options>();
}

template <template <class, unsigned> class Rule, class P, class G, class S, bool stochastic,
          Loops loops, unsigned... O>
constexpr void fill(Kernel* row, std::integer_sequence<unsigned, O...>) {
    (fill_one<Rule, P, G, S, stochastic, loops, O>(row[O]), ...);
}

// One row per pairing, in it one kernel for each set of options.
template <template <class, unsigned> class Rule> struct Kernels {
    Kernel kernel[pairing_count << gradstep::max_options] = {};

    constexpr Kernels() {
        constexpr int count = optional_states<Rule<float, 0>>();
        static_assert(count <= gradstep::max_options, "a rule has at most max_options options");
        Kernel* row = kernel;
#define GRADSTEP_ROW(p, g, s, stochastic, loops)                                                   \
    fill<Rule, p, g, s, stochastic, Loops::loops>(                                                 \
        row, std::make_integer_sequence<unsigned, 1u << count>());                                 \
    row += 1 << gradstep::max_options;
        GRADSTEP_PAIRINGS(GRADSTEP_ROW)
#undef GRADSTEP_ROW
    }
};

template <template <class, unsigned> class Rule> constexpr Kernels<Rule> kernels;

template <class Rule> double moment_correction(const double* hyper, int64_t t) {
    if constexpr (has_correction<Rule>) {
        typename Rule::Hyper h;
        __builtin_memcpy(&h, hyper, sizeof h);
        return Rule::moment_correction(h, t);
    } else {
        return 1;
    }
}

template <class Rule, class T, size_t... I> void show(const double* hyper, const void* param,
                                                      const void* const* states, int64_t n,
                                                      void* result, std::index_sequence<I...>) {
    typename Rule::Hyper h;
    __builtin_memcpy(&h, hyper, sizeof h);
    const typename Rule::Shown shown(h);
    const T* p = static_cast<const T*>(param);
    const T* s[] = {static_cast<const T*>(states[I])...};
    T* out = static_cast<T*>(result);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = shown(p[i], s[I][i]...);
}

template <class Rule, class T>
void shown(const double* hyper, const void* p, const void* const* states, int64_t n, void* out) {
    show<Rule, T>(hyper, p, states, n, out, std::make_index_sequence<state_count<Rule>>());
}

constexpr bool same_text(const char* a, const char* b) {
    while (*a && *a == *b) ++a, ++b;
    return *a == *b;
}

// Which of a rule's hyperparameters has this name.
template <class R> constexpr int column_of(const char* name) {
    for (int h = 0; h < hyper_count<R>; ++h)
        if (same_text(name, R::hyper_names[h])) return h;
    return -1;
}

template <template <class, unsigned> class Rule> constexpr RuleInfo rule_info() {
    using R = Rule<float, 0>;
    static_assert(sizeof(typename R::Hyper) == hyper_count<R> * sizeof(double),
                  "Hyper is a double for each of hyper_names");
    static_assert(state_count<R> <= gradstep::max_states, "a rule has at most max_states states");
    static_assert(memory_count<R> <= gradstep::max_memory, "a rule has too much memory");
    static_assert(gathered<R> < gradstep::max_gathered, "a rule gathers too many sums");
    RuleInfo info = {};
    info.name = R::name;
    info.hyper_names = R::hyper_names;
    info.hyper_count = hyper_count<R>;
    info.states = first_state(R::states);
    info.state_count = state_count<R>;
    if constexpr (memory_count<R> > 0) info.memory_names = R::memory_names;
    info.memory_count = memory_count<R>;
    info.gathered = gathered<R>;
    info.factored = state_of<R>(Shape::vector);
    info.direction = direction_of<R>();
    static_assert(direction_is_safe<R>(),
                  "a direction is the last state and all that its rule's first pass changes");
    static_assert(has_rows<R> == (state_of<R>(Shape::columns) >= 0) &&
                      has_rows<R> == (state_of<R>(Shape::vector) >= 0) &&
                      (!has_rows<R> || gathered<R> > 0),
                  "rows, columns and what they stand for come together, in a rule that gathers");
    if constexpr (common_count<R> > 0) info.common = R::common;
    info.common_count = common_count<R>;
    info.takes_loss = takes_loss<R>;
    info.takes_sign = takes_sign<R>;
    info.scales_moment = scales_moment<R>;
    int bit = 0;
    for (int& column : info.option_columns) column = -1;
    for (const State& state : R::states)
        if (state.option) info.option_columns[bit++] = column_of<R>(state.option);
    info.takes_rows = takes_rows<R>;
    if constexpr (takes_rows<R>) {
        static_assert(gathered<R> == 0 && memory_count<R> == 0, "such a rule wants every row");
        for (const char* name : R::moves_every_row)
            info.moves_every_row |= 1u << column_of<R>(name);
    }
    info.moment_correction = moment_correction<R>;
    if constexpr (has_shown<R>) {
        info.shown[gradstep::single_precision] = shown<Rule<float, 0>, float>;
        info.shown[gradstep::double_precision] = shown<Rule<double, 0>, double>;
    }
    info.kernels = kernels<Rule>.kernel;
    return info;
}

#define GRADSTEP_ROW(rule) rule_info<rule>(),
constexpr RuleInfo rules[] = {GRADSTEP_RULES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW
