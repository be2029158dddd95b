// The loops. Each file in targets/ defines GRADSTEP_TARGET and includes this one, so it is compiled
// once per instruction set, into an unnamed namespace: no function of one target can be chosen by
// the linker for another. For the same reason nothing of std:: that has code may be used here.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "table.hpp"

namespace {

using gradstep::Coding;
using gradstep::Kernel;
using gradstep::LaneSums;
using gradstep::Measured;
using gradstep::Pairing;
using gradstep::Piece;
using gradstep::Role;
using gradstep::RuleInfo;
using gradstep::ScheduleInfo;
using gradstep::Stages;
using gradstep::State;
using gradstep::StorageInfo;
using gradstep::Sums;

#include "rules/catalogue.hpp"
#include "storage/catalogue.hpp"

// ---- rules ----

template <class Rule> constexpr int hyper_count = sizeof(Rule::hyper_names) / sizeof(const char*);
template <class Rule> constexpr int state_count = sizeof(Rule::states) / sizeof(State);

// Whether state s exists under these options: bit j stands for the j-th optional state.
template <class Rule> constexpr bool present(unsigned options, int s) {
    int bit = 0;
    for (int i = 0; i < s; ++i) bit += Rule::states[i].option != nullptr;
    return Rule::states[s].option == nullptr || (options >> bit & 1);
}

template <class Rule> void resolve(const double* hyper, int64_t t, void* scalars) {
    typename Rule::Hyper h;
    __builtin_memcpy(&h, hyper, sizeof h);
    const Rule rule(h, t);
    static_assert(sizeof rule <= gradstep::max_scalar_bytes);
    __builtin_memcpy(scalars, &rule, sizeof rule);
}

template <class Rule> constexpr bool is_signed(int s) {
    return Rule::states[s].role == Role::momentum;
}

// How a state is rounded where a kernel of its own rounds it. Nearest would stall a second moment:
// what one step adds to it is less than half a unit.
template <class Rule> constexpr bool by_chance(int s) {
    return Rule::states[s].role == Role::second_moment;
}

template <class Storage, bool stochastic, class T>
inline void store(typename Storage::pointer x, int64_t i, T value, RandomKey key, uint32_t steps) {
    constexpr bool draws = Storage::rounds && stochastic;
    Storage::template store<draws>(x, i, value, draws ? random_bits(key, steps) : 0);
}

// P, G and S: the storages of parameter, gradient and states. Numbers become the compute type as
// they are loaded and are rounded as they are stored.
template <class Rule, class P, class G, class S, bool stochastic, unsigned options, size_t... I>
void update_elements(const Rule rule, typename P::compute factor, const Piece& piece,
                     std::index_sequence<I...>) {
    using T = typename P::compute;
    const auto p = P::at(piece.p, piece.low);
    const auto g = G::at(const_cast<void*>(piece.g), nullptr);
    const typename S::pointer state[] = {S::at(piece.state[I], nullptr)...};
    const RandomKey param_key = piece.key[0], key[] = {piece.key[1 + I]...};
    const int64_t n = piece.n;
    uint32_t steps = 0;
    constexpr uint32_t step = RandomKey::step;
#pragma omp simd linear(steps : step)
    for (int64_t i = 0; i < n; ++i) {
        T parameter = P::template load<T>(p, i);
        T s[] = {present<Rule>(options, I) ? S::template load<T>(state[I], i) : T(0)...};
        rule(parameter, G::template load<T>(g, i) * factor, s[I]...);
        store<P, stochastic>(p, i, parameter, param_key, steps);
        ((present<Rule>(options, I) ? store<S, by_chance<Rule>(I)>(state[I], i, s[I], key[I], steps)
                                    : void()),
         ...);
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
            uint32_t steps = 0;
            constexpr uint32_t step = RandomKey::step;
#pragma omp simd linear(steps : step)
            for (int i = 0; i < n; ++i) {
                float parameter = P::template load<float>(p, i);
                float s[] = {present<Rule>(options, I) ? number[I][b][i] : 0.0f ...};
                rule(parameter, G::template load<float>(g, i) * factor, s[I]...);
                store<P, stochastic>(p, i, parameter, param_key, steps);
                steps += step;
                ((present<Rule>(options, I) ? void(number[I][b][i] = s[I]) : void()), ...);
            }
            ((largest[I][b] = present<Rule>(options, I) ? S::largest(number[I][b], n) : 0), ...);
        }
        for (int b = 0; b * block < total; ++b) {
            const int n = total - b * block < block ? total - b * block : block;
            ((present<Rule>(options, I)
                  ? S::template encode<is_signed<Rule>(I), by_chance<Rule>(I)>(
                        number[I][b], n, largest[I][b], state[I] + b * S::bytes(block),
                        piece.key[1 + I].from(start + b * block))
                  : void()),
             ...);
        }
        for (uint8_t*& s : state) s += at_once * S::bytes(block);
    }
}

template <class Rule, class P, class G, class S, bool stochastic, unsigned options>
void update(const void* scalars, double gradient_factor, const Piece& piece) {
    const Rule& rule = *static_cast<const Rule*>(scalars);
    const auto factor = typename P::compute(gradient_factor);
    constexpr auto states = std::make_index_sequence<state_count<Rule>>();
    if constexpr (S::block == 1)
        update_elements<Rule, P, G, S, stochastic, options>(rule, factor, piece, states);
    else
        update_blocks<Rule, P, G, S, stochastic, options>(rule, factor, piece, states);
}

template <class Rule> constexpr int optional_states() {
    int count = 0;
    for (const State& s : Rule::states) count += s.option != nullptr;
    return count;
}

constexpr int pairing_count = 0
#define GRADSTEP_ONE(...) +1
    GRADSTEP_PAIRINGS(GRADSTEP_ONE);
#undef GRADSTEP_ONE

template <template <class, unsigned> class Rule, class P, class G, class S, bool stochastic,
          unsigned... O>
constexpr void fill(Kernel* row, std::integer_sequence<unsigned, O...>) {
    using T = typename P::compute;
    ((row[O] = {resolve<Rule<T, O>>, update<Rule<T, O>, P, G, S, stochastic, O>}), ...);
}

// One row a pairing, in it one kernel for each set of options.
template <template <class, unsigned> class Rule> struct Kernels {
    Kernel kernel[pairing_count << gradstep::max_options] = {};

    constexpr Kernels() {
        constexpr int count = optional_states<Rule<float, 0>>();
        static_assert(count <= gradstep::max_options);
        Kernel* row = kernel;
#define GRADSTEP_ROW(p, g, s, stochastic)                                                          \
    fill<Rule, p, g, s, stochastic>(row, std::make_integer_sequence<unsigned, 1u << count>());     \
    row += 1 << gradstep::max_options;
        GRADSTEP_PAIRINGS(GRADSTEP_ROW)
#undef GRADSTEP_ROW
    }
};

template <template <class, unsigned> class Rule> constexpr Kernels<Rule> kernels;

template <class Rule> auto correction(const typename Rule::Hyper& h, int64_t t, int)
    -> decltype(Rule::moment_correction(h, t)) {
    return Rule::moment_correction(h, t);
}
template <class Rule> double correction(const typename Rule::Hyper&, int64_t, long) { return 1; }

template <class Rule> double moment_correction(const double* hyper, int64_t t) {
    typename Rule::Hyper h;
    __builtin_memcpy(&h, hyper, sizeof h);
    return correction<Rule>(h, t, 0);
}

template <template <class, unsigned> class Rule> constexpr RuleInfo rule_info() {
    using R = Rule<float, 0>;
    static_assert(sizeof(typename R::Hyper) == hyper_count<R> * sizeof(double));
    static_assert(state_count<R> <= gradstep::max_states);
    return {R::name,        R::hyper_names,       hyper_count<R>,      R::states,
            state_count<R>, moment_correction<R>, kernels<Rule>.kernel};
}

#define GRADSTEP_ROW(rule) rule_info<rule>(),
constexpr RuleInfo rules[] = {GRADSTEP_RULES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

// ---- sums ----

// Element i adds to sum i mod 16 and the sums fold in a fixed tree, so the width of a vector does
// not change the result.
using gradstep::lanes;

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

// Of a block of the walk at most. In vectors of 8, whose sums stay in registers.
template <class T> double sum_squares_of(const T* x, int64_t n) {
    constexpr int half = lanes / 2;
    using Numbers __attribute__((vector_size(half * sizeof(T)))) = T;
    using Sums8 __attribute__((vector_size(half * sizeof(double)))) = double;
    Sums8 sums[2] = {};
    auto add = [&](const T* from) {
        for (int h = 0; h < 2; ++h) {
            Numbers numbers;
            __builtin_memcpy(&numbers, from + h * half, sizeof numbers);
            const Sums8 value = __builtin_convertvector(numbers, Sums8);
            sums[h] += value * value;
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

// ---- storages ----

template <class Storage, class T>
void decode(void* data, void* low, Role role, int64_t n, void* result) {
    T* out = static_cast<T*>(result);
    if constexpr (Storage::block == 1) {
        const auto x = Storage::at(data, low);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) out[i] = Storage::template load<T>(x, i);
    } else {
        const uint8_t* x = static_cast<const uint8_t*>(data);
        for (int64_t begin = 0; begin < n; begin += Storage::block) {
            const int count = int(n - begin < Storage::block ? n - begin : Storage::block);
            if (role == Role::momentum)
                Storage::template decode<true>(x, count, out + begin);
            else
                Storage::template decode<false>(x, count, out + begin);
            x += Storage::bytes(Storage::block);
        }
    }
}

template <class Storage, class T, bool stochastic>
void encode_elements(const T* in, int64_t n, typename Storage::pointer x, RandomKey key) {
    uint32_t steps = 0;
    constexpr uint32_t step = RandomKey::step;
#pragma omp simd linear(steps : step)
    for (int64_t i = 0; i < n; ++i) {
        store<Storage, stochastic>(x, i, in[i], key, steps);
        steps += step;
    }
}

template <class Storage, class T>
void encode_blocks(const T* in, int64_t n, uint8_t* x, const Coding& coding) {
    for (int64_t begin = 0; begin < n; begin += Storage::block) {
        const int64_t end = n - begin < Storage::block ? n - begin : Storage::block;
        const RandomKey key = coding.key.from(begin);
        const int32_t count = int32_t(end);
        float copy[sizeof(T) == sizeof(float) ? 1 : Storage::block];
        const float* single = copy;
        if constexpr (sizeof(T) == sizeof(float))
            single = in + begin;
        else
            for (int64_t i = 0; i < end; ++i) copy[i] = float(in[begin + i]);
        const auto code = coding.role == Role::momentum
                              ? (coding.stochastic ? Storage::template encode<true, true>
                                                   : Storage::template encode<true, false>)
                              : (coding.stochastic ? Storage::template encode<false, true>
                                                   : Storage::template encode<false, false>);
        code(single, count, Storage::largest(single, count), x, key);
        x += Storage::bytes(Storage::block);
    }
}

template <class Storage, class T>
void encode(const void* data, int64_t n, void* x, void* low, const Coding& coding) {
    const T* in = static_cast<const T*>(data);
    if constexpr (Storage::block == 1)
        (coding.stochastic
             ? encode_elements<Storage, T, true>
             : encode_elements<Storage, T, false>)(in, n, Storage::at(x, low), coding.key);
    else
        encode_blocks<Storage>(in, n, static_cast<uint8_t*>(x), coding);
}

template <class Storage> int64_t bytes(int64_t n) { return Storage::bytes(n); }

template <class Storage> constexpr StorageInfo storage_info() {
    using gradstep::double_precision;
    using gradstep::single_precision;
    StorageInfo info = {};
    info.name = Storage::name;
    info.roles = Storage::roles;
    info.rounds = Storage::rounds;
    info.block = Storage::block;
    info.block_bytes = Storage::bytes(Storage::block);
    info.low_bytes = Storage::low_bytes;
    info.bytes = bytes<Storage>;
    info.compute =
        sizeof(typename Storage::compute) == sizeof(double) ? double_precision : single_precision;
    info.decode[single_precision] = decode<Storage, float>;
    info.decode[double_precision] = decode<Storage, double>;
    info.encode[single_precision] = encode<Storage, float>;
    info.encode[double_precision] = encode<Storage, double>;
    if constexpr ((Storage::roles & as_gradient) != 0) {
        info.sum_squares = sum_squares<Storage>;
        info.all_finite[single_precision] = all_finite<Storage, float>;
        info.all_finite[double_precision] = all_finite<Storage, double>;
    }
    return info;
}

#define GRADSTEP_ROW(storage) storage_info<storage>(),
constexpr StorageInfo storages[] = {GRADSTEP_STORAGES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

// The position of a storage in the catalogue.
template <class Storage> constexpr int storage_index() {
    int index = 0, found = -1;
#define GRADSTEP_COUNT(storage)                                                                    \
    if (std::is_same_v<storage, Storage>) found = index;                                           \
    ++index;
    GRADSTEP_STORAGES(GRADSTEP_COUNT)
#undef GRADSTEP_COUNT
    return found;
}

#define GRADSTEP_ROW(p, g, s, stochastic)                                                          \
    {storage_index<p>(), storage_index<g>(), storage_index<s>(), stochastic},
constexpr Pairing pairings[] = {GRADSTEP_PAIRINGS(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

// ---- stages ----

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

template <class T, bool has_momentum, bool has_moment>
void measure_lanes(const T* raw, const T* before, const T* p, const T* m, const T* v, T factor,
                   T most, LaneSums& sums) {
#pragma omp simd
    for (int j = 0; j < lanes; ++j) {
        T g = raw[j] * factor;
        g = g > most ? most : g < -most ? -most : g;
        const double r = double(raw[j]), x = double(p[j]), u = x - double(before[j]);
        const double used = double(g);
        sums.gradient[j] += r * r;
        sums.update[j] += u * u;
        sums.param[j] += x * x;
        sums.used[j] += used * used;
        if (has_momentum) {
            const double average = double(m[j]);
            sums.gradient_momentum[j] += used * average;
            sums.momentum[j] += average * average;
        }
        if (has_moment) {
            const T quotient = g * g / v[j];
            sums.ratio[j] += double(v[j] != 0 ? quotient : T(0));
        }
    }
}

template <class T, bool has_momentum, bool has_moment>
void measure_these(const Measured& block, LaneSums& sums) {
    const T* raw = static_cast<const T*>(block.raw);
    const T* before = static_cast<const T*>(block.p_before);
    const T* p = static_cast<const T*>(block.p);
    const T* m = has_momentum ? static_cast<const T*>(block.momentum) : p;
    const T* v = has_moment ? static_cast<const T*>(block.second_moment) : p;
    const T factor = T(block.factor), most = T(block.limit);
    LaneSums own = sums;    // not aliased: they stay in registers
    int64_t i = 0;
    for (; i + lanes <= block.n; i += lanes)
        measure_lanes<T, has_momentum, has_moment>(raw + i, before + i, p + i, m + i, v + i, factor,
                                                   most, own);
    if (i < block.n)
        measure_lanes<T, has_momentum, has_moment>(
            Last<T>(raw, i, block.n).values, Last<T>(before, i, block.n).values,
            Last<T>(p, i, block.n).values, Last<T>(m, i, block.n).values,
            Last<T>(v, i, block.n).values, factor, most, own);
    own.count += double(block.n);
    sums = own;
}

template <class T> void measure(const Measured& block, LaneSums& sums) {
    if (block.momentum)
        (block.second_moment ? measure_these<T, true, true> : measure_these<T, true, false>)(block,
                                                                                             sums);
    else
        (block.second_moment ? measure_these<T, false, true>
                             : measure_these<T, false, false>)(block, sums);
}

Sums fold_all(LaneSums& sums) {
    return {fold(sums.gradient), fold(sums.update), fold(sums.param), fold(sums.gradient_momentum),
            fold(sums.momentum), fold(sums.used),   fold(sums.ratio), sums.count};
}

constexpr Stages stages[] = {{clip<float>, average<float>, measure<float>},
                             {clip<double>, average<double>, measure<double>}};

// ---- schedules ----

namespace schedules {

#include "schedules/catalogue.hpp"

template <class Schedule> void resolve(const double* arguments, int64_t count, void* memory) {
    const Schedule schedule = Schedule::of(arguments, count);
    static_assert(sizeof schedule <= gradstep::max_schedule_bytes);
    __builtin_memcpy(memory, &schedule, sizeof schedule);
}

template <class Schedule> double at(const void* schedule, double t) {
    return (*static_cast<const Schedule*>(schedule))(t);
}

// Flattened: a call that is not inlined would keep the loop from becoming vectors.
template <class Schedule>
[[gnu::flatten]] void fill(const void* memory, const double* t, double* out, int64_t n) {
    const Schedule schedule = *static_cast<const Schedule*>(memory);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = schedule(t[i]);
}

template <class Form>
[[gnu::flatten]] void fill_range(const Form form, double start, double* out, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = form(start + from_integer(i));
}

// What a form has besides operator(): see schedules/catalogue.hpp.
template <class Form, class = void> constexpr bool has_pieces = false;
template <class Form> constexpr bool has_pieces<Form, std::void_t<decltype(&Form::piece)>> = true;
template <class Form, class = void> constexpr bool has_range = false;
template <class Form> constexpr bool has_range<Form, std::void_t<decltype(&Form::range)>> = true;

template <class Schedule> void range(const void* memory, double start, double* out, int64_t n) {
    const Schedule schedule = *static_cast<const Schedule*>(memory);
    if constexpr (has_range<Schedule>) {
        schedule.range(start, out, n);
    } else if constexpr (has_pieces<Schedule>) {
        for (int64_t i = 0; i < n;) {
            const double t = start + from_integer(i);
            const auto piece = schedule.piece(t);
            const double steps = piece.until - t;
            const bool worth_it = steps >= 32;    // its constants took as long as 32 elements
            const int64_t most = n - i < 512 || worth_it ? n - i : 512;
            const int64_t run = worth_it ? int64_t(least(from_integer(most), steps)) : most;
            if (worth_it)
                fill_range(piece, t, out + i, run);
            else
                fill_range(schedule, t, out + i, run);
            i += run;
        }
    } else {
        fill_range(schedule, start, out, n);
    }
}

#define GRADSTEP_ROW(schedule)                                                                     \
    {schedule::name, resolve<schedule>, at<schedule>, fill<schedule>, range<schedule>},
constexpr ScheduleInfo infos[] = {GRADSTEP_SCHEDULES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

}    // namespace schedules

// ---- the bare loop ----

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

}    // namespace

#define GRADSTEP_TEXT_(x) #x
#define GRADSTEP_TEXT(x) GRADSTEP_TEXT_(x)

namespace gradstep::targets {
extern const Table GRADSTEP_TARGET;
const Table GRADSTEP_TARGET = {
    GRADSTEP_TEXT(GRADSTEP_TARGET),
    rules,
    sizeof(rules) / sizeof(RuleInfo),
    storages,
    sizeof(storages) / sizeof(StorageInfo),
    pairings,
    pairing_count,
    stages,
    fold_all,
    schedules::infos,
    sizeof(schedules::infos) / sizeof(ScheduleInfo),
    move,
};
}    // namespace gradstep::targets
