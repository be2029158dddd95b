// The loops. Each file in targets/ defines GRADSTEP_TARGET and includes this one, so it is compiled
// once per instruction set, into an unnamed namespace: no function of one target can be chosen by
// the linker for another. For the same reason nothing of std:: that has code may be used here.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "table.hpp"

namespace {

using gradstep::Kernel;
using gradstep::Piece;
using gradstep::RuleInfo;
using gradstep::ScheduleInfo;
using gradstep::State;
using gradstep::StorageInfo;

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

template <class Rule, class Storage, unsigned options, size_t... S>
void update_loop(const Rule rule, typename Storage::compute factor, const Piece& piece,
                 std::index_sequence<S...>) {
    using T = typename Storage::compute;
    using Memory = typename Storage::memory;
    auto* p = static_cast<Memory*>(piece.p);
    auto* g = static_cast<const Memory*>(piece.g);
    Memory* state[] = {static_cast<Memory*>(piece.state[S])...};
    const int64_t n = piece.n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        T parameter = Storage::template load<T>(p, i);
        T s[] = {present<Rule>(options, S) ? Storage::template load<T>(state[S], i) : T(0)...};
        rule(parameter, Storage::template load<T>(g, i) * factor, s[S]...);
        Storage::store(p, i, parameter);
        ((present<Rule>(options, S) ? Storage::store(state[S], i, s[S]) : void()), ...);
    }
}

template <class Rule, class Storage, unsigned options>
void update(const void* scalars, double gradient_factor, const Piece& piece) {
    update_loop<Rule, Storage, options>(*static_cast<const Rule*>(scalars),
                                        typename Storage::compute(gradient_factor), piece,
                                        std::make_index_sequence<state_count<Rule>>());
}

template <class Rule> constexpr int optional_states() {
    int count = 0;
    for (const State& s : Rule::states) count += s.option != nullptr;
    return count;
}

constexpr int storage_count = 0
#define GRADSTEP_ONE(storage) +1
    GRADSTEP_STORAGES(GRADSTEP_ONE);
#undef GRADSTEP_ONE

template <template <class, unsigned> class Rule, class Storage, unsigned... O>
constexpr void fill(Kernel* row, std::integer_sequence<unsigned, O...>) {
    using T = typename Storage::compute;
    ((row[O] = {resolve<Rule<T, O>>, update<Rule<T, O>, Storage, O>}), ...);
}

// One row a storage, in it one kernel for each set of options.
template <template <class, unsigned> class Rule> struct Kernels {
    Kernel kernel[storage_count << gradstep::max_options] = {};

    constexpr Kernels() {
        constexpr int count = optional_states<Rule<float, 0>>();
        static_assert(count <= gradstep::max_options);
        Kernel* row = kernel;
#define GRADSTEP_ROW(storage)                                                                      \
    fill<Rule, storage>(row, std::make_integer_sequence<unsigned, 1u << count>());                 \
    row += 1 << gradstep::max_options;
        GRADSTEP_STORAGES(GRADSTEP_ROW)
#undef GRADSTEP_ROW
    }
};

template <template <class, unsigned> class Rule> constexpr Kernels<Rule> kernels;

template <template <class, unsigned> class Rule> constexpr RuleInfo rule_info() {
    using R = Rule<float, 0>;
    static_assert(sizeof(typename R::Hyper) == hyper_count<R> * sizeof(double));
    static_assert(state_count<R> <= gradstep::max_states);
    return {R::name,   R::hyper_names, hyper_count<R>,
            R::states, state_count<R>, kernels<Rule>.kernel};
}

#define GRADSTEP_ROW(rule) rule_info<rule>(),
constexpr RuleInfo rules[] = {GRADSTEP_RULES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

// ---- storages and sums ----

// Element i adds to sum i mod 16 and the sums fold in a fixed tree, so the width of a vector does
// not change the result. One block at most.
template <class Storage> double sum_squares(const void* data, int64_t n) {
    constexpr int lanes = 16;
    auto* x = static_cast<const typename Storage::memory*>(data);
    double sum[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
#pragma omp simd
        for (int j = 0; j < lanes; ++j) {
            double value = Storage::template load<double>(x, i + j);
            sum[j] += value * value;
        }
    }
    for (int j = 0; i + j < n; ++j) {
        double value = Storage::template load<double>(x, i + j);
        sum[j] += value * value;
    }
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) sum[j] += sum[j + half];
    return sum[0];
}

#define GRADSTEP_ROW(storage) {storage::name, sizeof(storage::memory), sum_squares<storage>},
constexpr StorageInfo storages[] = {GRADSTEP_STORAGES(GRADSTEP_ROW)};
#undef GRADSTEP_ROW

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
    storage_count,
    schedules::infos,
    sizeof(schedules::infos) / sizeof(ScheduleInfo),
    move,
};
}    // namespace gradstep::targets
