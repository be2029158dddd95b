#include "functional.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "pipeline.hpp"
#include "schedule.hpp"

namespace gradstep::functional {
namespace {

using Refusal = std::invalid_argument;

// ---- reading the text ----

std::string_view next_word(std::string_view& line) {
    const size_t begin = std::min(line.find_first_not_of(' '), line.size());
    const size_t end = std::min(line.find(' ', begin), line.size());
    const std::string_view word = line.substr(begin, end - begin);
    line.remove_prefix(end);
    return word;
}

std::string rest_of(std::string_view line) {
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    return std::string(line);
}

int64_t integer_of(std::string_view word) {
    return std::strtoll(std::string(word).c_str(), nullptr, 10);
}

// A number of a step that is not in the text.
struct Driven {
    enum Where { hyper, clip_norm, clip_value, average, loss, loss_scale, norm } where;
    size_t group = 0, column = 0;
    SchedulePointer schedule;    // null: an input
    double least, most, smallest;
    std::string words;
};

struct Group {
    double sign;
    std::string kernels;
    std::vector<double> hyper;
};

struct Spec {
    bool takes_norm = false, is_after = false, begins = false, updates = false, split = false,
         skips = false, measures = false;
    std::vector<Group> groups;
    std::vector<std::pair<int64_t, int>> leaves;    // how many, of which group
    uint64_t first_key = 0;
    std::vector<std::string> states;
    unsigned stochastic[8] = {};    // by type
    int copy = -1;                  // its storage
    std::vector<Driven> driven;
    double clip_norm = __builtin_inf(), clip_value = __builtin_inf(), average = -1;
    uint64_t seed = 0;
    std::vector<std::string> report;
};

constexpr const char* type_names[] = {"float32", "float64", "bfloat16", "float16"};

int type_of(std::string_view name) {
    for (int type = 0; type < 4; ++type)
        if (name == type_names[type]) return type;
    throw Refusal("type: got an unknown one, " + std::string(name));
}

Driven read_driven(std::string_view line) {
    Driven driven = {};
    std::string_view where = next_word(line);
    if (where.substr(0, 6) == "hyper:") {
        where.remove_prefix(6);
        const size_t colon = where.find(':');
        driven.where = Driven::hyper;
        driven.group = size_t(integer_of(where.substr(0, colon)));
        driven.column = size_t(integer_of(where.substr(colon + 1)));
    } else {
        constexpr std::pair<const char*, Driven::Where> places[] = {
            {"clip_norm", Driven::clip_norm},   {"clip_value", Driven::clip_value},
            {"average", Driven::average},       {"loss", Driven::loss},
            {"loss_scale", Driven::loss_scale}, {"norm", Driven::norm}};
        const auto* const place = std::find_if(std::begin(places), std::end(places),
                                               [&](const auto& one) { return where == one.first; });
        if (place == std::end(places)) throw Refusal("number: got an unknown place");
        driven.where = place->second;
    }
    if (next_word(line) == "(") {
        const size_t end = line.find(')');
        driven.schedule = read_schedule(line.substr(0, end));
        line.remove_prefix(end + 1);
    }
    driven.least = read_number(next_word(line));
    driven.most = read_number(next_word(line));
    driven.smallest = read_number(next_word(line));
    driven.words = rest_of(line);
    return driven;
}

void read_line(std::string_view line, Spec& spec) {
    const std::string_view key = next_word(line);
    if (key == "norm") {
        spec.takes_norm = true;
    } else if (key == "after") {
        spec.is_after = true;
    } else if (key == "begins") {
        spec.begins = true;
    } else if (key == "first") {
        spec.first_key = uint64_t(integer_of(next_word(line)));
    } else if (key == "update") {
        spec.updates = true;
    } else if (key == "group") {
        const double sign = double(integer_of(next_word(line)));
        spec.groups.push_back({sign, rest_of(line), {}});
    } else if (key == "hyper") {
        for (std::string_view word; !(word = next_word(line)).empty();)
            spec.groups.back().hyper.push_back(read_number(word));
    } else if (key == "leaves") {
        const int64_t count = integer_of(next_word(line));
        spec.leaves.emplace_back(count, int(integer_of(next_word(line))));
    } else if (key == "state") {
        spec.states.emplace_back(next_word(line));
    } else if (key == "stochastic") {
        const int type = type_of(next_word(line));
        spec.stochastic[type] = unsigned(integer_of(next_word(line)));
    } else if (key == "split") {
        spec.split = true;
    } else if (key == "copy") {
        spec.copy = find_storage(dispatch::current(), next_word(line));
    } else if (key == "number") {
        spec.driven.push_back(read_driven(line));
    } else if (key == "clip_norm") {
        spec.clip_norm = read_number(next_word(line));
    } else if (key == "clip_value") {
        spec.clip_value = read_number(next_word(line));
    } else if (key == "average") {
        spec.average = read_number(next_word(line));
    } else if (key == "seed") {
        spec.seed = uint64_t(integer_of(next_word(line)));
    } else if (key == "skip") {
        spec.skips = true;
    } else if (key == "stats") {
        spec.measures = true;
    } else if (key == "report") {
        for (std::string_view word; !(word = next_word(line)).empty();)
            spec.report.emplace_back(word);
    } else {
        throw Refusal("got an unknown line, " + std::string(key));
    }
}

Spec read(std::string_view text) {
    Spec spec;
    bool first = true;
    while (!text.empty()) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (first && line != "version " GRADSTEP_VERSION)
            throw Refusal("got a step that was compiled by another gradstep, " + std::string(line) +
                          ", wanted " GRADSTEP_VERSION ": trace and compile it anew");
        if (!first) read_line(line, spec);
        first = false;
    }
    return spec;
}

// ---- a step ----

// Buffers one after the other, each of what is asked for.
class Stream {
public:
    Stream(const Buffer* buffers, size_t count) : next_(buffers), end_(buffers + count) {}
    const Buffer& take() {
        if (next_ == end_) throw Refusal("got fewer buffers than the step has");
        return *next_++;
    }
    bool is_empty() const { return next_ == end_; }

private:
    const Buffer *next_, *end_;
};

int64_t elements(const Buffer& buffer) {
    int64_t n = 1;
    for (int d = 0; d < buffer.rank; ++d) n *= buffer.shape[d];
    return n;
}

double as_number(const Buffer& buffer) {
    switch (buffer.type) {
    case f64: return *static_cast<const double*>(buffer.data);
    case f32: return double(*static_cast<const float*>(buffer.data));
    case u32: {    // the two halves of a double
        double x;
        std::memcpy(&x, buffer.data, sizeof x);
        return x;
    }
    default: throw Refusal("a number: got another type than float32 or float64");
    }
}

// Blocks of memory that are copied, by all threads.
void copy(void* to, const void* from, int64_t bytes) {
    if (to == from || bytes == 0) return;
    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        const int64_t begin = bytes * chunk / chunks, end = bytes * (chunk + 1) / chunks;
        std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                    size_t(end - begin));
    });
}

// What a compiled step is, read once, and what it needs besides its buffers.
class Prepared {
public:
    explicit Prepared(std::string_view text)
        : table_(dispatch::current()), text_(text), spec_(read(text)) {
        storages_ = {{f32, find_storage(table_, "float32")},
                     {f64, find_storage(table_, "float64")},
                     {bf16, find_storage(table_, "bfloat16")},
                     {f16, find_storage(table_, "float16")}};
        for (Group& group : spec_.groups) {
            const RuleInfo& rule = rule_called(group.kernels);
            if (int(group.hyper.size()) != rule.hyper_count ||
                int(spec_.states.size()) != rule.state_count)
                throw Refusal("got other numbers or states than the rule has");
            groups_.push_back({&rule, group.hyper.data(), group.sign, false});
        }
        for (const auto& [count, group] : spec_.leaves) {
            pipeline::Tensor tensor;
            tensor.group = group;
            tensors_.resize(tensors_.size() + size_t(count), tensor);
        }
        gradients_.resize(tensors_.size());
        counts_.resize(tensors_.size());
        sums_.resize(groups_.size());
    }

    const std::string& text() const { return text_; }
    bool is_of(const Table& table) const { return &table == &table_; }

    void run(const Call& call) { spec_.takes_norm ? norm(call) : step(call); }

private:
    const Table& table_;
    std::string text_;
    Spec spec_;
    std::vector<std::pair<int, int>> storages_;    // of each type
    std::vector<pipeline::Group> groups_;
    std::vector<pipeline::Tensor> tensors_;
    std::vector<pipeline::Gradient> gradients_;
    std::vector<int64_t> counts_;
    std::vector<double> memory_;
    std::vector<Sums> sums_;
    pipeline::Scratch scratch_;

    void norm(const Call& call) const {
        std::vector<pipeline::Span> spans;
        for (size_t i = 0; i < call.in_count; ++i)
            spans.push_back({call.in[i].data, elements(call.in[i]), storage_of(call.in[i])});
        const double x = pipeline::norm(table_, spans);
        std::memcpy(call.out[0].data, &x, sizeof x);
    }

    void step(const Call& call) {
        Stream in(call.in, call.in_count), out(call.out, call.out_count);
        const Buffer& count = in.take();
        if (spec_.is_after) in.take();
        const int32_t k = *static_cast<const int32_t*>(count.data);
        if (k < 0)
            throw Refusal("count: got " + std::to_string(k) + ", wanted the count of steps made");
        const bool has_begun = spec_.begins ? *static_cast<const bool*>(in.take().data) : k > 0;
        pipeline::Settings settings = numbers(k, in);
        const RuleInfo& rule = *groups_[0].rule;
        void* const new_count = out.take().data;
        void* const begun = spec_.begins ? out.take().data : nullptr;
        memory_.resize(tensors_.size() * size_t(rule.memory_count));
        void* memory = nullptr;
        if (rule.memory_count) {
            const Buffer& kept = in.take();
            if (kept.type != u32 || size_t(elements(kept)) != 2 * memory_.size())
                throw Refusal("got memory of another size");
            memory = in_place(kept, out.take());
        }
        std::vector<void*> reported;
        for (size_t i = 0; i < spec_.report.size(); ++i) reported.push_back(out.take().data);
        if (memory) std::memcpy(memory_.data(), memory, memory_.size() * sizeof(double));
        take(!has_begun, rule, in, out);
        if (k == 0) begin();
        std::fill(counts_.begin(), counts_.end(), k);
        const pipeline::Result result = pipeline::step(table_, tensors_, gradients_, counts_.data(),
                                                       groups_, settings, scratch_, sums_.data());
        const bool skipped = result.not_finite >= 0;
        if (skipped) stand_still();
        if (memory && !skipped)
            std::memcpy(memory, memory_.data(), memory_.size() * sizeof(double));
        const bool counts = !skipped && k < std::numeric_limits<int32_t>::max();
        const int32_t made = k + counts;
        std::memcpy(new_count, &made, sizeof made);
        if (begun) {
            const bool begins = !skipped && std::any_of(tensors_.begin(), tensors_.end(),
                                                        [](const auto& one) { return !one.first; });
            *static_cast<bool*>(begun) = has_begun || begins;
        }
        report(result, skipped, settings.loss_scale, reported);
    }

    const RuleInfo& rule_called(const std::string& name) const {
        for (int i = 0; i < table_.rule_count; ++i)
            if (name == table_.rules[i].name) return table_.rules[i];
        throw Refusal("got the unknown rule " + name);
    }

    int storage_of(const Buffer& buffer) const {
        for (const auto& [type, storage] : storages_)
            if (type == buffer.type) return storage;
        throw Refusal("got a buffer of a type that no number is stored in");
    }

    // The numbers of step k, those that are driven checked.
    pipeline::Settings numbers(int32_t k, Stream& in) {
        pipeline::Settings settings;
        settings.clip_norm = spec_.clip_norm;
        settings.clip_value = spec_.clip_value;
        settings.seed = spec_.seed;
        settings.check_finite = spec_.skips;
        settings.measure =
            spec_.measures ? pipeline::Settings::everything : pipeline::Settings::nothing;
        double average = spec_.average;
        for (const Driven& driven : spec_.driven) {
            double x;
            try {
                x = driven.schedule ? driven.schedule->at(double(k)) : as_number(in.take());
            } catch (const Refusal& error) {
                throw Refusal(driven.words.substr(0, driven.words.find(':')) + ": " + error.what());
            }
            if (driven.least == 0 && -1e-12 < x && x < 0) x = 0;
            // Those may be what a step is skipped for.
            const bool lost = !std::isfinite(x) && (driven.where == Driven::norm ||
                                                    (driven.where == Driven::loss && spec_.skips));
            if (!lost &&
                (!(x >= driven.least && x <= driven.most) || (x > 0 && x < driven.smallest)))
                refuse(driven, x, k);
            switch (driven.where) {
            case Driven::hyper: spec_.groups[driven.group].hyper[driven.column] = x; break;
            case Driven::clip_norm: settings.clip_norm = x; break;
            case Driven::clip_value: settings.clip_value = x; break;
            case Driven::average: average = x; break;
            case Driven::loss: settings.loss = x; break;
            case Driven::loss_scale: settings.loss_scale = x; break;
            case Driven::norm: settings.norm = x; break;
            }
        }
        settings.average_weight = 1 - average;
        return settings;
    }

    // The words are "NAME: wanted ...".
    [[noreturn]] static void refuse(const Driven& driven, double x, int32_t k) {
        char got[48];
        std::snprintf(got, sizeof got, "got %.9g at step %d, ", x, k);
        std::string words = driven.words;
        words.insert(std::min(words.find(':') + 2, words.size()), got);
        throw Refusal(words);
    }

    // What the leaves' buffers are, as the pipeline wants it.
    void take(bool first, const RuleInfo& rule, Stream& in, Stream& out) {
        int64_t blocks = 0;
        bool is_same = true;
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const pipeline::Tensor before = tensors_[i];
            pipeline::Tensor& tensor = tensors_[i];
            tensor = {};    // a program with other leaves may have the same text
            tensor.group = before.group;
            const Buffer& param = in.take();
            const int64_t n = elements(param);
            tensor.n = n;
            tensor.storage = spec_.split ? find_storage(table_, "split") : storage_of(param);
            tensor.stochastic = spec_.stochastic[param.type];
            tensor.key = spec_.first_key + i;
            tensor.first_block = blocks;
            blocks += pipeline::count_blocks(tensor);
            tensor.p = param.data;
            const Buffer& changed = out.take();
            if (spec_.updates)
                tensor.change = changed.data;
            else
                in_place(param, changed);
            if (spec_.split) tensor.low = in_place(in.take(), out.take());
            const Buffer& gradient = in.take();
            if (elements(gradient) != n) throw Refusal("got a gradient of another size");
            static char nothing;    // a buffer without elements may have no address
            gradients_[i] = {gradient.data ? gradient.data : &nothing, storage_of(gradient)};
            take_states(rule, param, tensor, in, out);
            is_same = is_same && are_alike(before, tensor);
            for (int m = 0; m < rule.memory_count; ++m)
                tensor.memory[m] = &memory_[i * size_t(rule.memory_count) + size_t(m)];
            if (spec_.average >= 0) tensor.average = in_place(in.take(), out.take());
            if (spec_.copy >= 0) {
                tensor.copy = out.take().data;
                tensor.copy_storage = spec_.copy;
            }
            tensor.first = first;
        }
        if (!is_same) scratch_ = {};    // its choices are of other tensors
        if (!in.is_empty() || !out.is_empty()) throw Refusal("got more buffers than the step has");
    }

    // Whether what was chosen for a tensor in the last call holds in this one.
    static bool are_alike(const pipeline::Tensor& a, const pipeline::Tensor& b) {
        return a.n == b.n && a.storage == b.storage && !a.matrices.row == !b.matrices.row &&
               std::equal(a.state_storage, a.state_storage + max_states, b.state_storage);
    }

    void take_states(const RuleInfo& rule, const Buffer& param, pipeline::Tensor& tensor,
                     Stream& in, Stream& out) {
        const bool by_rows = rule.factored >= 0 && param.rank >= 2;
        if (by_rows) {
            tensor.matrices.rows = param.shape[param.rank - 2];
            tensor.matrices.columns = param.shape[param.rank - 1];
        }
        int bit = 0;
        for (int s = 0; s < rule.state_count; ++s) {
            const State& state = rule.states[s];
            const bool is_there = spec_.states[size_t(s)] != "-";
            const bool is_factor = state.shape == Shape::rows || state.shape == Shape::columns;
            const bool beside = is_factor                      ? by_rows
                                : state.shape == Shape::vector ? !by_rows
                                                               : true;
            if (is_there && beside) {
                const Buffer& kept = in.take();
                void* const data = in_place(kept, out.take());
                if (is_factor) {
                    (state.shape == Shape::rows ? tensor.matrices.row : tensor.matrices.column) =
                        data;
                    continue;
                }
                const int storage = kept.type == u8 ? find_storage(table_, spec_.states[size_t(s)])
                                                    : storage_of(kept);
                if (storage < 0) throw Refusal("got a state in an unknown storage");
                tensor.state[s] = data;
                tensor.state_storage[s] = storage;
                if (state.option) tensor.options |= 1u << bit;
            }
            bit += state.option != nullptr;
        }
    }

    static void* in_place(const Buffer& before, const Buffer& after) {
        if (before.data != after.data && elements(before) > 0)
            throw Refusal("got a buffer that is not in place");
        return after.data;
    }

    // Before the first step: what starts from a parameter is the parameter as it is found.
    void begin() const {
        for (const pipeline::Tensor& tensor : tensors_) {
            const RuleInfo& rule = *groups_[size_t(tensor.group)].rule;
            for (int s = 0; s < rule.state_count; ++s)
                if (tensor.state[s] && rule.states[s].role == Role::parameter)
                    put(tensor, tensor.state[s], tensor.state_storage[s]);
            const Compute compute = table_.storages[tensor.storage].compute;
            if (tensor.average)
                put(tensor, tensor.average,
                    find_storage(table_, compute == double_precision ? "float64" : "float32"));
        }
    }

    // A parameter into an array of a storage, rounded to nearest.
    void put(const pipeline::Tensor& tensor, void* to, int storage) const {
        const StorageInfo &from = table_.storages[tensor.storage], &into = table_.storages[storage];
        if (storage == tensor.storage) return copy(to, tensor.p, from.bytes(tensor.n));
        alignas(64) char numbers[block_elements * sizeof(double)];
        for (int64_t i = 0; i < tensor.n; i += block_elements) {
            const int64_t n = std::min(block_elements, tensor.n - i);
            char* const low = static_cast<char*>(tensor.low);
            from.decode[from.compute](static_cast<char*>(tensor.p) + from.offset(i),
                                      low ? low + i * from.low_bytes : nullptr, Role::parameter, n,
                                      numbers);
            into.encode[from.compute](numbers, n, static_cast<char*>(to) + into.offset(i), nullptr,
                                      {});
        }
    }

    // Of a step that is skipped: no change, and copies of what is there.
    void stand_still() const {
        for (const pipeline::Tensor& tensor : tensors_) {
            if (tensor.change)
                std::memset(tensor.change, 0,
                            size_t(table_.storages[tensor.storage].bytes(tensor.n)));
            if (tensor.copy) put(tensor, tensor.copy, tensor.copy_storage);
        }
    }

    // ---- the report ----

    void report(const pipeline::Result& result, bool skipped, double loss_scale,
                const std::vector<void*>& to) const {
        Sums total = {};
        for (const Sums& sums : sums_) pipeline::add(sums, total);
        if (skipped) total = {};
        const RuleInfo& rule = *groups_[0].rule;
        const auto known = [&](const std::string& name) -> double {
            if (name == "lr") return groups_[0].hyper[lr_column(rule)];
            if (name == "grad_norm")
                return std::isnan(result.gradient_norm) && spec_.measures && !skipped
                           ? std::sqrt(total.raw_gradient) / loss_scale
                           : result.gradient_norm;
            if (name == "update_norm") return std::sqrt(total.update);
            if (name == "param_norm") return std::sqrt(total.param);
            if (name == "cosine")
                return total.gradient_momentum /
                       (std::sqrt(total.momentum) * std::sqrt(total.gradient));
            if (name == "g2_over_v") return total.ratio / total.elements;
            throw Refusal("report: got the unknown " + name);
        };
        for (size_t i = 0; i < to.size(); ++i) {
            if (spec_.report[i] == "skipped") {
                *static_cast<bool*>(to[i]) = skipped;
            } else {
                const float x = float(known(spec_.report[i]));
                std::memcpy(to[i], &x, sizeof x);
            }
        }
    }

    static int lr_column(const RuleInfo& rule) {
        int h = 0;
        while (h < rule.hyper_count && rule.hyper_names[h] != std::string_view("lr")) ++h;
        return h;
    }
};

// Prepared steps by their text, those that nobody is at work with. A program has few, and a look at
// each is quicker than a hash of the text.
class Shelf {
public:
    std::unique_ptr<Prepared> take(std::string_view text) {
        const Table& table = dispatch::current();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto found =
                std::find_if(idle_.begin(), idle_.end(), [&](const std::unique_ptr<Prepared>& one) {
                    return one->text() == text && one->is_of(table);
                });
            if (found != idle_.end()) {
                std::unique_ptr<Prepared> prepared = std::move(*found);
                idle_.erase(found);
                return prepared;
            }
        }
        return std::make_unique<Prepared>(text);
    }

    void put_back(std::unique_ptr<Prepared> prepared) {
        constexpr size_t most = 256;
        const std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.size() == most) idle_.erase(idle_.begin());    // the one that rested longest
        idle_.push_back(std::move(prepared));
    }

private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Prepared>> idle_;
};

Shelf& shelf() {
    static Shelf* const one = new Shelf;    // never destroyed: a thread may still step at the end
    return *one;
}

}    // namespace

int step(const Call& call) {
    const std::string_view text(call.text, call.text_size);
    const parallel::PlainFloats plain;    // a host may have denormals flushed in its threads
    try {
        std::unique_ptr<Prepared> prepared = shelf().take(text);
        prepared->run(call);
        shelf().put_back(std::move(prepared));
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(call.error, call.error_size, "%s", error.what());
        return 1;
    }
}

}    // namespace gradstep::functional
