// The kernels without Python: for emulators, cross builds and race detectors.
//
// Each rule, set of optional states and size runs on each target against a plain loop over the same
// equation, compiled here without vectors; every array lies against a page that must not be
// touched. So do the arrays of a step in every storage, with all stages. Then whole steps run over
// many tensors on many threads. It prints a hash of all results: two processors that print the same
// hash computed the same bits. Exits 1 on a difference. Names of rules as arguments leave out the
// others: so a hash can be held against that of a commit which did not have them. With a name that
// no rule has, `threads` for one, only schedules and threads are left.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "guarded.hpp"
#include "parallel.hpp"
#include "pipeline.hpp"

namespace {
using gradstep::Loops;
using gradstep::Role;
using gradstep::Shape;
using gradstep::State;
using gradstep::When;
#include "rules/catalogue.hpp"
}    // namespace

namespace {

using namespace gradstep;

int failures = 0;
uint64_t hash = 14695981039346656037u;    // FNV-1a

void add_to_hash(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        hash ^= static_cast<const unsigned char*>(data)[i];
        hash *= 1099511628211u;
    }
}

// Any NaN equals any NaN.
template <class T> void canonical(T* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        if (x[i] != x[i]) x[i] = T(__builtin_nan(""));
}

// Numbers of many magnitudes, some odd ones among them, the same on every machine.
class Numbers {
public:
    template <class T> T next() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        uint32_t bits = uint32_t(state_ >> 33);
        static const double odd[] = {0.0, -0.0, 1e-310, 1e-41, 1e38, -1e300, 1.0, -1.0};
        if (bits % 61 == 0) return T(odd[bits / 61 % 8]);
        if (bits % 251 == 0) return T(__builtin_inf());
        if (bits % 257 == 0) return T(__builtin_nan(""));
        static const double scale[] = {1e-9, 1e-6, 1e-3, 1, 1e3};
        return T((double(bits) / 1073741824.0 - 1) * scale[bits % 5]);
    }
    template <class T> void fill(void* x, int64_t n) {
        for (int64_t i = 0; i < n; ++i) static_cast<T*>(x)[i] = next<T>();
    }

private:
    uint64_t state_ = 1;
};

constexpr int64_t guard_sizes = 72;
constexpr int64_t most = 3 * block_elements + 7;
const double hypers[][16] = {{0.1, 0.9, 0.5, 0.25, 1, 0.5, 0, 0, 0, 0.25, 1, 2},
                             {0.01, 0.5, 0.75, 0, 0.125, 0, 0, 0, 1, 0.125, 0.5, 4}};

Guarded memory[2 + max_states] = {Guarded(most * 8), Guarded(most * 8), Guarded(most * 8),
                                  Guarded(most * 8), Guarded(most * 8), Guarded(most * 8)};

template <class Rule, class = void> constexpr bool has_memory = false;
template <class Rule> constexpr bool has_memory<Rule, std::void_t<typename Rule::Memory>> = true;
template <class Rule, class = void> constexpr bool has_gather = false;
template <class Rule> constexpr bool has_gather<Rule, std::void_t<decltype(&Rule::gather)>> = true;

constexpr double memory_before[max_memory] = {0.25, 0.5, 0.75, 1};

template <class Rule> Rule made(const double* hyper, const When& when) {
    typename Rule::Hyper h;
    std::memcpy(&h, hyper, sizeof h);
    if constexpr (has_memory<Rule>) {
        typename Rule::Memory kept;
        std::memcpy(&kept, memory_before, sizeof kept);
        return Rule(h, when, kept);
    } else {
        return Rule(h, when);
    }
}

template <class Rule, class... Arguments> constexpr size_t arguments(void (Rule::*)(Arguments...)) {
    return sizeof...(Arguments);
}

template <class Rule, size_t... K>
void settle(Rule& rule, const double* totals, std::index_sequence<K...>) {
    if constexpr (has_memory<Rule>) {
        typename Rule::Memory kept;
        std::memcpy(&kept, memory_before, sizeof kept);
        rule.settle(kept, totals[K]...);
    } else {
        rule.settle(totals[K]...);
    }
}

// The equation in a loop that no compiler setting here vectorises.
template <template <class, unsigned> class R, class T, unsigned options, size_t... S>
void plain(const Table& table, const double* hyper, const When& when, double factor,
           const Piece& piece, std::index_sequence<S...>) {
    using Rule = R<T, options>;
    Rule rule = made<Rule>(hyper, when);
    T none[sizeof...(S) + 1] = {};
    auto state = [&](size_t s, int64_t i) -> T& {
        return piece.state[s] ? static_cast<T*>(piece.state[s])[i] : none[s] = 0;
    };
    if constexpr (has_gather<Rule>) {
        GatherLanes sums = {};
        double totals[max_gathered] = {};
        constexpr size_t count =
            sizeof(decltype(rule.gather(T(0), T(0), none[S]...))) / sizeof(double);
        for (int64_t i = 0; i < piece.n; ++i) {
            volatile T fence = static_cast<const T*>(piece.g)[i];
            const auto part =
                rule.gather(static_cast<T*>(piece.p)[i], fence * T(factor), state(S, i)...);
            for (size_t k = 0; k < count; ++k) sums.sum[k][i % lanes] += part.value[k];
        }
        table.fold_gathered(sums, max_gathered, totals);
        totals[count] = double(piece.n);
        settle(rule, totals,
               std::make_index_sequence<arguments(&Rule::settle) - has_memory<Rule>>());
    }
    for (int64_t i = 0; i < piece.n; ++i) {
        volatile T fence = static_cast<const T*>(piece.g)[i];
        rule(static_cast<T*>(piece.p)[i], fence * T(factor), state(S, i)...);
    }
}

void run_kernel(const Table& table, const RuleInfo& rule, const Kernel& kernel, const double* hyper,
                const When& when, const Piece& piece) {
    alignas(double) unsigned char scalars[max_scalar_bytes];
    double kept[max_memory];
    std::memcpy(kept, memory_before, sizeof kept);
    kernel.resolve(hyper, when, kept, scalars);
    if (kernel.gather) {
        GatherLanes sums = {};
        double totals[max_gathered] = {};
        kernel.gather(scalars, -1, piece, sums);
        table.fold_gathered(sums, rule.gathered, totals);
        totals[rule.gathered] = double(piece.n);
        kernel.settle(scalars, kept, totals);
    }
    kernel.update(scalars, -1, piece);
}

template <template <class, unsigned> class R, class T, unsigned options>
void check(const Table& table, const RuleInfo& rule, int pairing, int64_t n, bool at_end) {
    constexpr int states = sizeof(R<T, options>::states) / sizeof(State);
    const size_t bytes = size_t(n) * sizeof(T);
    Piece piece = {};
    piece.p = memory[0].place(bytes, at_end);
    piece.g = memory[1].place(bytes, at_end);
    piece.n = n;
    std::vector<void*> streams = {piece.p};
    int bit = 0;
    for (int s = 0; s < states; ++s) {
        const bool optional = rule.states[s].option != nullptr;
        if (!optional || (options >> bit & 1)) {
            piece.state[s] = memory[2 + s].place(bytes, at_end);
            streams.push_back(piece.state[s]);
        }
        bit += optional;
    }
    Numbers numbers;
    numbers.fill<T>(const_cast<void*>(piece.g), n);
    for (void* stream : streams) numbers.fill<T>(stream, n);
    std::vector<std::vector<T>> before;
    for (void* stream : streams)
        before.emplace_back(static_cast<T*>(stream), static_cast<T*>(stream) + n);

    for (const double* hyper : {hypers[0], hypers[1]}) {
        for (int64_t t : {int64_t(1), int64_t(7)}) {
            std::vector<std::vector<T>> wanted;
            auto restore = [&] {
                for (size_t s = 0; s < streams.size(); ++s)
                    if (n) std::memcpy(streams[s], before[s].data(), bytes);
            };
            restore();
            const When when = {t, t == 1};
            plain<R, T, options>(table, hyper, when, -1, piece, std::make_index_sequence<states>());
            for (void* stream : streams) {
                canonical(static_cast<T*>(stream), n);
                wanted.emplace_back(static_cast<T*>(stream), static_cast<T*>(stream) + n);
            }
            restore();
            run_kernel(table, rule, rule.kernel(pairing, options), hyper, when, piece);
            for (size_t s = 0; s < streams.size(); ++s) {
                canonical(static_cast<T*>(streams[s]), n);
                if (n && std::memcmp(streams[s], wanted[s].data(), bytes) != 0) {
                    ++failures;
                    std::printf("%s: %s<%s, %u>, %" PRId64 " elements, t = %" PRId64
                                ": stream %zu differs\n",
                                table.name, rule.name,
                                table.storages[table.pairings[pairing].param].name, options, n, t,
                                s);
                }
                add_to_hash(streams[s], bytes);
            }
        }
    }
}

template <template <class, unsigned> class R, unsigned... options> void
check_rule(const Table& table, const RuleInfo& rule, std::integer_sequence<unsigned, options...>) {
    std::vector<int64_t> sizes;
    for (int64_t n = 0; n < guard_sizes; ++n) sizes.push_back(n);
    for (int64_t n : {block_elements - 1, block_elements, block_elements + 1, most})
        sizes.push_back(n);
    for (int64_t n : sizes) {
        for (bool at_end : {false, true}) {
            (check<R, float, options>(table, rule, 0, n, at_end), ...);
            (check<R, double, options>(table, rule, 1, n, at_end), ...);
        }
    }
}

std::vector<std::string> wanted_rules;    // none: all

bool is_wanted(const char* name) {
    for (const std::string& wanted : wanted_rules)
        if (wanted == name) return true;
    return wanted_rules.empty();
}

template <template <class, unsigned> class R> void check_on(const Table& table) {
    if (!is_wanted(R<float, 0>::name)) return;
    constexpr int states = sizeof(R<float, 0>::states) / sizeof(State);
    constexpr auto count_optional = [] {
        int count = 0;
        for (int s = 0; s < states; ++s) count += R<float, 0>::states[s].option != nullptr;
        return count;
    };
    for (int i = 0; i < table.rule_count; ++i)
        if (std::strcmp(table.rules[i].name, R<float, 0>::name) == 0)
            check_rule<R>(table, table.rules[i],
                          std::make_integer_sequence<unsigned, 1u << count_optional()>());
}

const RuleInfo* rule_named(const Table& table, const char* name) {
    for (int i = 0; i < table.rule_count; ++i)
        if (std::strcmp(table.rules[i].name, name) == 0) return &table.rules[i];
    return nullptr;
}

// One tensor in every storage of parameter, gradient and states, rounded both ways, with and
// without all stages.
class StorageCheck {
public:
    StorageCheck(const Table& table, const char* name, unsigned options)
        : table_(table), rule_(*rule_named(table, name)), options_(options) {
        while (std::strcmp(table.storages[bfloat16_].name, "bfloat16") != 0) ++bfloat16_;
    }

    void every() {
        for (int p = 0; p < table_.storage_count; ++p)
            for (int g = 0; may(p, as_param) && g < table_.storage_count; ++g)
                for (int s = 0; may(g, as_gradient) && s < table_.storage_count; ++s)
                    for (int64_t n = 0; may(s, as_role(Role::momentum)) && n < most;
                         n += n < 20 ? 1 : 101)
                        for (unsigned way = 0; way < 4; ++way)
                            for (bool at_end : {false, true})
                                run({p, g, s, bool(way & 1), bool(way & 2), n, at_end});
    }

private:
    struct Case {
        int p, g, s;
        bool stochastic, staged;
        int64_t n;
        bool at_end;
    };

    bool may(int storage, unsigned role) const {
        return (table_.storages[storage].roles & role) != 0;
    }

    void* place(Guarded& where, int64_t bytes, const Case& now) {
        void* data = where.place(size_t(bytes), now.at_end);
        std::memset(data, 0, size_t(bytes));
        written_.emplace_back(data, bytes);
        return data;
    }

    void fill(int storage, int64_t n, void* data, void* second) {
        for (float& x : values_) x = numbers_.next<float>();
        table_.storages[storage].encode[single_precision](values_.data(), n, data, second, {});
    }

    pipeline::Tensor tensor_of(const Case& now) {
        const StorageInfo& param = table_.storages[now.p];
        pipeline::Tensor tensor;
        tensor.n = now.n;
        tensor.storage = now.p;
        tensor.options = options_;
        tensor.first = false;
        tensor.stochastic = now.stochastic ? 7 : 0;
        tensor.start = now.n % 2 * 256;
        tensor.p = place(memory[0], param.bytes(now.n), now);
        if (param.low_bytes) tensor.low = place(low_, now.n * param.low_bytes, now);
        fill(now.p, now.n, tensor.p, tensor.low);
        if (rule_.factored >= 0 && now.n > 0) place_rows(now, tensor);
        for (int i = 0; i < rule_.state_count && rule_.factored < 0; ++i) {
            if (rule_.states[i].option && !options_) continue;
            const bool fits = may(now.s, as_role(rule_.states[i].role));
            tensor.state_storage[i] = fits ? now.s : 0;
            const StorageInfo& storage = table_.storages[tensor.state_storage[i]];
            tensor.state[i] = place(memory[2 + i], storage.bytes(now.n), now);
        }
        if (now.staged) {
            const int bytes = param.compute == double_precision ? 8 : 4;
            tensor.average = place(average_, now.n * bytes, now);
            tensor.copy = place(copy_, now.n * 2, now);
            tensor.copy_storage = bfloat16_;
        }
        return tensor;
    }

    // Matrices of seven columns and up to three rows, or one of one row.
    void place_rows(const Case& now, pipeline::Tensor& tensor) {
        const int bytes = table_.storages[now.p].compute == double_precision ? 8 : 4;
        pipeline::Matrices& of = tensor.matrices;
        of.columns = now.n % 7 ? now.n : 7;
        of.rows = now.n / of.columns % 3 ? now.n / of.columns : 3;
        tensor.start = 0;
        of.row = place(memory[2], now.n / of.columns * bytes, now);
        of.column = place(memory[3], now.n / of.rows * bytes, now);
    }

    pipeline::Settings settings_of(const Case& now) {
        std::fill(averages_.begin(), averages_.end(), 0.0);
        pipeline::Settings settings;
        settings.average_weight = 0.25;
        settings.seed = 3;
        settings.zero_gradients = now.staged;
        settings.measure = !now.staged ? pipeline::Settings::nothing
                           : now.n % 2 ? pipeline::Settings::sample
                                       : pipeline::Settings::everything;
        settings.averages = reinterpret_cast<char*>(averages_.data());
        if (now.staged) settings.clip_norm = settings.clip_value = settings.loss_scale = 2;
        return settings;
    }

    void run(const Case& now) {
        written_.clear();
        values_.assign(size_t(now.n) + 1, 0);
        const pipeline::Tensor tensor = tensor_of(now);
        const int64_t gradient_bytes = table_.storages[now.g].bytes(now.n);
        std::vector<pipeline::Gradient> gradients = {
            {memory[1].place(size_t(gradient_bytes), now.at_end), now.g}};
        fill(now.g, now.n, gradients[0].data, nullptr);
        const pipeline::Settings settings = settings_of(now);
        pipeline::Scratch scratch;
        Sums sums = {};
        int64_t count = 1;
        std::vector<pipeline::Tensor> tensors = {tensor};
        pipeline::step(table_, tensors, gradients, &count, {{&rule_, hyper, -1, false}}, settings,
                       scratch, &sums);
        hash_arrays(now, tensor);
        if (now.staged) {
            hash_sums(sums);
            want_zeros(static_cast<const char*>(gradients[0].data), gradient_bytes);
        }
    }

    // In numbers where a NaN may have any sign and payload.
    void hash_arrays(const Case& now, const pipeline::Tensor& tensor) {
        const pipeline::Matrices& of = tensor.matrices;
        for (const auto& [data, bytes] : written_) {
            const bool numbers = data == tensor.p || data == tensor.average ||
                                 data == tensor.copy || data == of.row || data == of.column;
            const bool blocks = bytes > 0 && table_.storages[now.s].block > 1 && !numbers;
            if (blocks || data == tensor.low) add_to_hash(data, size_t(bytes));
        }
        hash_numbers(now.p, tensor.p, tensor.low, Role::momentum, now.n);
        for (int i = 0; i < rule_.state_count; ++i)
            if (tensor.state[i])
                hash_numbers(tensor.state_storage[i], tensor.state[i], nullptr,
                             rule_.states[i].role, now.n);
        if (!of.row) return;
        const int plain = table_.storages[now.p].compute == double_precision;    // float32, float64
        hash_numbers(plain, of.row, nullptr, Role::second_moment, now.n / of.columns);
        hash_numbers(plain, of.column, nullptr, Role::second_moment, now.n / of.rows);
    }

    void hash_numbers(int storage, void* data, void* low, Role role, int64_t n) {
        table_.storages[storage].decode[single_precision](data, low, role, n, values_.data());
        canonical(values_.data(), n);
        add_to_hash(values_.data(), size_t(n) * sizeof(float));
    }

    void hash_sums(const Sums& sums) {
        double numbers[sum_count];
        std::memcpy(numbers, &sums, sizeof sums);
        canonical(numbers, sum_count);
        add_to_hash(numbers, sizeof numbers);
    }

    void want_zeros(const char* data, int64_t bytes) {
        for (int64_t i = 0; i < bytes; ++i) {
            if (data[i] == 0) continue;
            ++failures;
            std::printf("%s: a gradient was not zeroed\n", table_.name);
            return;
        }
    }

    static constexpr double hyper[] = {0.1, 0.9, 0.5, 0.25, 0.125, 1};
    const Table& table_;
    const RuleInfo& rule_;
    const unsigned options_;
    int bfloat16_ = 0;
    Guarded low_{most * 2}, average_{most * 8}, copy_{most * 2};
    // of what a sample keeps of the gradients
    std::vector<double> averages_ =
        std::vector<double>(size_t(pipeline::sample_blocks * block_elements));
    Numbers numbers_;
    std::vector<float> values_;
    std::vector<std::pair<void*, int64_t>> written_;
};

// Every form of a schedule, with arguments for it.
const struct ScheduleCase {
    const char* name;
    std::vector<double> arguments;
} schedule_cases[] = {
    {"constant", {0.1}},
    {"linear", {0.1, 1e-7, 999983}},
    {"linear", {-3, 5, 1e12}},
    {"step", {0.1, 30, 0.999}},
    {"exponential", {0.1, 1 - 1e-9, 1000, 7}},
    {"exponential", {0.1, 0.3, 1e9, 0}},
    {"geometric", {1e-7, 10, 999983}},
    {"inverse_time", {0.1, 0.5, 1000}},
    {"inverse_sqrt", {0.1, 977}},
    {"noam", {1, 512, 4000}},
    {"polynomial", {0.1, 1e-7, 999983, 0.9}},
    {"polynomial", {0, 0.1, 1e12, 3}},
    {"polynomial_cycle", {0.1, 1e-7, 977, 0.9}},
    {"polynomial_rise", {0.1, 1e-7, 999983, 0.5}},
    {"polynomial_square", {0.1, 1e-7, 999983}},
    {"polynomial_root", {0.1, 1e-7, 999983}},
    {"polynomial_rise_square", {0.1, 1e-7, 999983}},
    {"polynomial_rise_root", {0.1, 1e-7, 999983}},
    {"cosine", {0.1, 1e-7, 999983}},
    {"cosine", {0, 0.1, 1e12}},
    {"cosine_power", {0.1, 1e-7, 999983, 1.7}},
    {"cosine_wave", {0.1, 1e-7, 76.5}},
    {"tanh", {0.1, 1e-7, 999983, -7, 3}},
    {"cyclic", {0.1, 0.2, 2000, 300}},
    {"cyclic_halving", {0.1, 0.2, 2000, 300}},
    {"cyclic_exponential", {0.1, 0.2, 20, 30, 0.999999}},
    {"piecewise_hold", {-1, 30, 60, 60, 1e6, 0.1, 0.05, 0.02, 0.01, 0.001}},
    {"piecewise_linear", {0, 30, 60.5, 60.5, 1e6, 0.1, 0.05, 0.02, 0.01, 0.001}},
    {"piecewise_cosine", {0, 30, 60.5, 60.5, 1e6, 0.1, 0.05, 0.02, 0.01, 0.001}},
    {"table", {0.1, 0.05, 0.02, 0.01, 0.001}},
};

std::vector<double> schedule_steps() {
    std::vector<double> t;
    for (int k = 0; k < 300; ++k) t.push_back(k);
    for (int shift = 8; shift < 52; ++shift)
        for (int k : {-1, 0, 1, 977}) t.push_back(double((int64_t(1) << shift) + k));
    for (int k : {-1, 0, 1}) t.insert(t.end(), {999983. + k, 1e12 + k});
    return t;
}

// One step at a time as many at once, in a row or not.
void check_schedule(const Table& table, const ScheduleInfo& schedule, const ScheduleCase& known,
                    const std::vector<double>& t) {
    alignas(double) unsigned char resolved[max_schedule_bytes];
    schedule.resolve(known.arguments.data(), int64_t(known.arguments.size()), resolved);
    std::vector<double> many(t.size()), single;
    schedule.fill(resolved, t.data(), many.data(), int64_t(t.size()));
    for (double k : t) single.push_back(schedule.at(resolved, k));
    bool same = std::memcmp(many.data(), single.data(), many.size() * sizeof(double)) == 0;
    for (double start : {0., 7., 999900.}) {
        std::vector<double> row(150), alone;
        schedule.range(resolved, start, row.data(), int64_t(row.size()));
        for (size_t k = 0; k < row.size(); ++k)
            alone.push_back(schedule.at(resolved, start + double(k)));
        same &= std::memcmp(row.data(), alone.data(), row.size() * sizeof(double)) == 0;
    }
    if (!same) {
        ++failures;
        std::printf("%s: %s: many are not as one at a time\n", table.name, schedule.name);
    }
    add_to_hash(many.data(), many.size() * sizeof(double));
}

void check_schedules(const Table& table) {
    const std::vector<double> t = schedule_steps();
    for (int i = 0; i < table.schedule_count; ++i) {
        const ScheduleInfo& schedule = table.schedules[i];
        bool checked = false;
        for (const ScheduleCase& known : schedule_cases) {
            if (std::strcmp(known.name, schedule.name) != 0) continue;
            checked = true;
            check_schedule(table, schedule, known, t);
        }
        if (!checked) {
            ++failures;
            std::printf("%s: no case\n", schedule.name);
        }
    }
}

// Fifty whole steps over many tensors, sleeping now and then so that workers fall asleep.
// Parameters and gradients are odd numbers, or all the one constant.
using Settings = pipeline::Settings;

std::vector<float> whole_steps(float constant = 0, Settings::Measure measured = Settings::nothing) {
    const Table& table = dispatch::current();
    const RuleInfo* rule = rule_named(table, "AdamW");
    Numbers numbers;
    std::vector<std::vector<float>> arrays;
    std::vector<pipeline::Tensor> tensors;
    std::vector<pipeline::Gradient> gradients;
    std::vector<int64_t> counts;
    for (int i = 0; i < 60; ++i) {
        pipeline::Tensor tensor;
        tensor.n = i * i * 7 % 9000;
        for (int stream = 0; stream < 4; ++stream) {
            arrays.emplace_back(size_t(tensor.n));
            for (float& x : arrays.back())
                x = stream >= 2 ? 0 : constant != 0 ? constant : numbers.next<float>();
        }
        tensor.p = arrays[arrays.size() - 4].data();
        gradients.push_back({i % 7 == 3 ? nullptr : arrays[arrays.size() - 3].data(), 0});
        tensor.state[0] = arrays[arrays.size() - 2].data();
        tensor.state[1] = arrays[arrays.size() - 1].data();
        tensors.push_back(tensor);
        counts.push_back(i % 3);
    }
    Settings settings;
    settings.average_weight = 0;
    settings.measure = measured;
    pipeline::Scratch scratch;
    Sums sums = {};
    for (int k = 0; k < 50; ++k) {
        pipeline::step(table, tensors, gradients, counts.data(), {{rule, hypers[0], 1, false}},
                       settings, scratch, &sums);
        for (int64_t& count : counts) ++count;
        if (k % 10 == 9) std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    std::vector<float> results;
    for (auto& array : arrays) results.insert(results.end(), array.begin(), array.end());
    if (measured) {
        const float* parts = reinterpret_cast<const float*>(&sums);
        results.assign(parts, parts + sizeof sums / sizeof(float));
    }
    canonical(results.data(), int64_t(results.size()));
    return results;
}

void expect(bool equal, const std::vector<float>& a, const std::vector<float>& b,
            const char* what) {
    if ((std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) == equal) return;
    ++failures;
    std::printf("%s\n", what);
}

// Flushes denormals to zero in this thread until it is destroyed.
class Flushing {
#if defined(__x86_64__)
    unsigned before_ = _mm_getcsr();

public:
    Flushing() { _mm_setcsr(before_ | 0x8040); }
    ~Flushing() { _mm_setcsr(before_); }
#elif defined(__aarch64__)
    uint64_t before_;

public:
    Flushing() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | uint64_t(1) << 24));
    }
    ~Flushing() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#endif
};

// Any number of threads gives the bits of one, from several callers at once, and in the mode for
// denormals that the caller has.
void check_threads() {
    parallel::set_eager(true);
    parallel::set_threads(1);
    const std::vector<float> one = whole_steps();
    for (int threads : {2, 3, 4, 2, 4, 1}) {
        parallel::set_threads(threads);
        expect(true, one, whole_steps(), "several threads: other results than one");
    }
    parallel::set_threads(1);
    const std::vector<float> sums = whole_steps(0, Settings::everything);
    parallel::set_threads(4);
    expect(true, sums, whole_steps(0, Settings::everything),
           "several threads: other sums than one");
    parallel::set_threads(3);
    std::vector<float> other;
    std::thread caller([&] { other = whole_steps(); });
    expect(true, one, whole_steps(), "two callers: other results than one");
    caller.join();
    expect(true, one, other, "two callers: the other's results differ");
#if defined(__x86_64__) || defined(__aarch64__)
    // Denormals everywhere, so that each chunk shows in which mode it was computed.
    parallel::set_threads(1);
    const std::vector<float> tiny = whole_steps(1e-41f);
    {
        const Flushing flushing;
        const std::vector<float> flushed = whole_steps(1e-41f);
        expect(false, tiny, flushed,
               "flushing denormals changes nothing: the check checks nothing");
        parallel::set_threads(4);
        expect(true, flushed, whole_steps(1e-41f), "workers do not flush as their caller does");
    }
    expect(true, tiny, whole_steps(1e-41f), "workers kept another caller's mode for denormals");
#endif
    add_to_hash(one.data(), one.size() * sizeof(float));
}

}    // namespace

int main(int count, char** arguments) {
    wanted_rules.assign(arguments + 1, arguments + count);
    const uint64_t start = hash;
    uint64_t first = 0;
    for (const std::string& name : dispatch::available()) {
        dispatch::force(name);
        hash = start;
#define CHECK(rule) check_on<rule>(dispatch::current());
        GRADSTEP_RULES(CHECK)
        if (is_wanted("AdamW")) StorageCheck(dispatch::current(), "AdamW", 1).every();
        if (is_wanted("LAMB")) StorageCheck(dispatch::current(), "LAMB", 0).every();
        if (is_wanted("Adafactor")) StorageCheck(dispatch::current(), "Adafactor", 0).every();
        check_schedules(dispatch::current());
        check_threads();
        if (first == 0) first = hash;
        if (hash != first) ++failures;
        std::printf("%-8s %016" PRIx64 "\n", name.c_str(), hash);
    }
    for (const auto& [name, why] : dispatch::refused())
        std::printf("%-8s not offered: %s\n", name.c_str(), why.c_str());
    std::printf(failures ? "%d failures\n" : "ok\n", failures);
    return failures != 0;
}
