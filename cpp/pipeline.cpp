#include "pipeline.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "dispatch.hpp"
#include "factored.hpp"
#include "measure.hpp"
#include "parallel.hpp"

namespace gradstep::pipeline {

namespace {

// Brings the rows of gradients of some rows into their order.
void coalesce(const Table& table, const std::vector<Tensor>& tensors,
              std::vector<Gradient>& gradients) {
    for (size_t i = 0; i < tensors.size(); ++i) {
        Gradient& gradient = gradients[i];
        if (!gradient.data || !gradient.rows) continue;
        const Rows::Values values =
            gradient.rows->coalesce(table, table.storages[tensors[i].storage].compute);
        gradient.data = values.data;
        gradient.storage = values.storage;
    }
}

// The gradients of a step, those that are only zeroed, and the tensor of each of the former.
struct Spans {
    std::vector<Span> used, idle;
    std::vector<size_t> tensors;
};

Spans spans_of(const std::vector<Tensor>& tensors, const std::vector<Gradient>& gradients,
               const std::vector<Group>& groups) {
    Spans spans;
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (!gradients[i].data) continue;
        const Span span = {gradients[i].data, elements_of(tensors[i], gradients[i]),
                           gradients[i].storage};
        if (const Rows* rows = gradients[i].rows)    // as they were given
            spans.idle.push_back(
                {rows->values, int64_t(rows->given.size()) * rows->width, rows->storage});
        if (groups[size_t(tensors[i].group)].frozen) {
            spans.idle.push_back(span);
        } else {
            spans.used.push_back(span);
            spans.tensors.push_back(i);
        }
    }
    return spans;
}

void zero(const Table& table, const std::vector<Span>& spans) {
    Flat flat;
    int64_t bytes = 0;
    for (const Span& span : spans) {
        flat.add(span.n);
        bytes += table.storages[span.storage].bytes(span.n);
    }
    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        flat.each(chunk, chunks, [&](size_t item, int64_t first, int64_t end) {
            const Span& span = spans[item];
            const StorageInfo& storage = table.storages[span.storage];
            char* const data =
                static_cast<char*>(const_cast<void*>(span.data)) + storage.offset(first);
            std::memset(data, 0, size_t(storage.offset(end - first)));
        });
    });
}

// The first tensor with a gradient that is not finite; -1: none.
int64_t first_not_finite(const Table& table, const std::vector<Tensor>& tensors,
                         const Spans& spans) {
    for (size_t i = 0; i < spans.used.size(); ++i) {
        const Compute compute = table.storages[tensors[spans.tensors[i]].storage].compute;
        const Span& span = spans.used[i];
        if (!table.storages[span.storage].all_finite[compute](span.data, span.n))
            return int64_t(spans.tensors[i]);
    }
    return -1;
}

// Which of a tensor's optional states are used: not one whose hyperparameter is 0 now.
unsigned options_of(const Tensor& tensor, const Group& group) {
    unsigned options = tensor.options;
    for (int bit = 0; bit < max_options; ++bit) {
        const int column = group.rule->option_columns[bit];
        if (column >= 0 && group.hyper[column] == 0) options &= ~(1u << bit);
    }
    return options;
}

// One step, from the choice of kernels to the sums of the first pass.
class Step {
public:
    Step(const Table& table, std::vector<Tensor>& tensors, const std::vector<Gradient>& gradients,
         const int64_t* counts, const std::vector<Group>& groups, const Settings& settings,
         Scratch& scratch)
        : table_(table), tensors_(tensors), gradients_(gradients), counts_(counts), groups_(groups),
          settings_(settings), scratch_(scratch),
          walk_(table, tensors, gradients, groups, settings, scratch) {}

    // What each tensor's step is, except for its scalars. factor: what all gradients are multiplied
    // by.
    void choose(double factor) {
        const bool everything = settings_.measure == Settings::everything;
        scratch_.segmented = everything;
        for (const Group& group : groups_) scratch_.segmented |= group.rule->gathered > 0;
        scratch_.flat.clear(scratch_.segmented ? segment_elements : block_elements);
        scratch_.active.clear();
        scratch_.scalars.clear();
        scratch_.resolved.assign(groups_.size(), {});
        scratch_.choices.resize(tensors_.size());
        for (size_t i = 0; i < tensors_.size(); ++i) {
            const Tensor& tensor = tensors_[i];
            const Group& group = groups_[size_t(tensor.group)];
            // Without elements, as a shard may be, a tensor has its memory and its part in sums.
            if (takes_part(i)) note_passes(*group.rule);
            if (tensor.n == 0 && group.rule->memory_count == 0) continue;
            if (takes_part(i))
                add_update(i, factor);
            else if (tensor.average)
                add_average(i);
        }
        if (settings_.measure)
            scratch_.sums.assign(everything ? segment_count_ : size_t(sample_blocks), {});
    }

    // The first pass of rules with a direction, and the call that replaces it. That may fail, so
    // nothing but directions changes before it has returned.
    void direct(const Between& between) {
        if (!directs_) return;
        resolve(Part::directed);
        sum_up(Part::directed, between.add_up);
        if (between.redirect) between.redirect(scratch_.totals[0].sum);
        settle(Part::directed);
    }

    // The scalars of all other rules, and for those of two passes the first one and `settle`.
    void gather(const Between& between) {
        for (const RuleInfo* rule : together_) take_memory_over(*rule);
        resolve(Part::others);
        if (!gathers_) return;
        FactoredPass(table_, tensors_, gradients_, settings_, scratch_).run();
        sum_up(Part::others, between.add_up);
        share_keys();
        share_rules();
        settle(Part::others);
        for (const RuleInfo* rule : together_) share_memory(*rule);
    }

    void update() const {
        walk(Pass::update, [](const Scratch::Active&) { return true; });
    }

    // Notes whose states have been used.
    void note_first() {
        for (const Scratch::Active& active : scratch_.active) {
            Tensor& tensor = tensors_[active.tensor];
            if (active.kernel && scratch_.choices[active.tensor].options == tensor.options)
                tensor.first = false;
        }
    }

private:
    const Table& table_;
    std::vector<Tensor>& tensors_;
    const std::vector<Gradient>& gradients_;
    const int64_t* counts_;
    const std::vector<Group>& groups_;
    const Settings& settings_;
    Scratch& scratch_;
    const Walk walk_;
    size_t segment_count_ = 0;
    int64_t bytes_ = 0;
    bool directs_ = false, gathers_ = false;    // whether such a rule takes part
    std::vector<const RuleInfo*> together_;     // such rules that settle together, once each

    // Which rules: those whose direction is replaced between the passes come before all others.
    enum class Part { directed, others };

    const RuleInfo& rule_of(size_t tensor) const {
        return *groups_[size_t(tensors_[tensor].group)].rule;
    }

    bool takes_part(size_t tensor) const {
        return gradients_[tensor].data && !groups_[size_t(tensors_[tensor].group)].frozen;
    }

    bool is_in(const Scratch::Active& active, Part part) const {
        return (rule_of(active.tensor).direction >= 0) == (part == Part::directed);
    }

    void note_passes(const RuleInfo& rule) {
        directs_ |= rule.direction >= 0;
        gathers_ |= rule.direction < 0 && rule.gathered > 0;
        if (rule.settles_together() &&
            std::find(together_.begin(), together_.end(), &rule) == together_.end())
            together_.push_back(&rule);
    }

    void read_memory(size_t tensor, double* memory) const {
        for (int k = 0; k < rule_of(tensor).memory_count; ++k)
            memory[k] = *tensors_[tensor].memory[k];
    }

    void write_memory(size_t tensor, const double* memory) const {
        for (int k = 0; k < rule_of(tensor).memory_count; ++k)
            *tensors_[tensor].memory[k] = memory[k];
    }

    // Where a rule has one memory for all tensors, each of them has a copy, whether it takes part
    // or not. A new tensor takes it over from the first one that has it.
    void take_memory_over(const RuleInfo& rule) {
        for (size_t i = 0; i < tensors_.size(); ++i) {
            if (&rule_of(i) != &rule) continue;
            for (int k = 0; k < rule.memory_count; ++k)
                if (*tensors_[i].memory[k] != 0) return spread_memory(rule, tensors_[i]);
        }
    }

    void spread_memory(const RuleInfo& rule, const Tensor& from) {
        for (size_t i = 0; i < tensors_.size(); ++i)
            for (int k = 0; &rule_of(i) == &rule && k < rule.memory_count; ++k)
                *tensors_[i].memory[k] = *from.memory[k];
    }

    // Copies it to all of them once it has settled.
    void share_memory(const RuleInfo& rule) {
        for (const Scratch::Active& active : scratch_.active)
            if (active.kernel && &rule_of(active.tensor) == &rule)
                return spread_memory(rule, tensors_[active.tensor]);
    }

    void settle(Part part) {
        for (const Scratch::Active& active : scratch_.active) {
            if (!active.kernel || !active.kernel->settle || !is_in(active, part)) continue;
            double memory[max_memory];
            read_memory(active.tensor, memory);
            active.kernel->settle(scratch_.scalars[active.scalars].bytes, memory,
                                  scratch_.totals[active.tensor].sum);
            write_memory(active.tensor, memory);
        }
    }

    void add_update(size_t i, double factor) {
        const Tensor& tensor = tensors_[i];
        const Group& group = groups_[size_t(tensor.group)];
        const bool clips = std::isfinite(settings_.clip_value);
        const bool everything = settings_.measure == Settings::everything;
        const unsigned options = options_of(tensor, group);
        Choice& choice = scratch_.choices[i];
        if (choice.gradient != gradients_[i].storage || choice.table != &table_ ||
            choice.clips != clips || choice.options != options)
            choice = pipeline::choose(table_, *group.rule, tensor, gradients_[i].storage, options,
                                      clips);
        const int64_t n = elements_of(tensor, gradients_[i]);
        bytes_ += n == tensor.n ? choice.bytes : choice.bytes / tensor.n * n;
        scratch_.active.emplace_back();
        Scratch::Active& active = scratch_.active.back();
        active.tensor = i;
        active.kernel = choice.kernel;
        active.used = used_states(*group.rule, tensor, options);
        active.direct = choice.direct;
        active.publish = choice.publish;
        const bool in_one_loop = choice.publish || (!tensor.average && !tensor.copy);
        active.whole = choice.direct && tensor.stochastic == 0 && in_one_loop && !clips &&
                       !tensor.change && !settings_.zero_gradients && !everything;
        active.factor = group.sign * factor;
        const int64_t t = counts_[i] + 1;
        for (int b = 0; b <= group.rule->state_count && tensor.stochastic >> b; ++b)
            if (tensor.stochastic >> b & 1)
                active.key[b] = random_base(settings_.seed, t, tensor.key, b);
        flatten(active, n, gradients_[i].rows ? 0 : tensor.start);
    }

    // A parameter that the step leaves alone, whose average moves all the same.
    void add_average(size_t i) {
        const Tensor& tensor = tensors_[i];
        const StorageInfo& storage = table_.storages[tensor.storage];
        scratch_.active.emplace_back();
        Scratch::Active& active = scratch_.active.back();
        active.tensor = i;
        active.kernel = nullptr;
        active.whole = false;
        bytes_ += storage.bytes(tensor.n) + storage.low_bytes * tensor.n +
                  2 * tensor.n * (storage.compute == double_precision ? 8 : 4);
        flatten(active, tensor.n, tensor.start);
    }

    void flatten(Scratch::Active& active, int64_t n, int64_t start) {
        active.first_segment = segment_count_;
        active.segments = scratch_.segmented ? size_t(segments(n, start)) : 0;
        segment_count_ += active.segments;
        scratch_.flat.add(n, start);
    }

    void resolve(Part part) {
        for (Scratch::Active& active : scratch_.active)
            if (active.kernel && is_in(active, part))
                active.scalars = resolve(active.tensor, scratch_.choices[active.tensor]);
    }

    // Where the scalars of a tensor's update are: those of a group are the same at the same count,
    // unless the tensor has a say in them.
    size_t resolve(size_t i, const Choice& choice) {
        const Tensor& tensor = tensors_[i];
        const Group& group = groups_[size_t(tensor.group)];
        const When when = {counts_[i] + 1, tensor.first, tensor.matrices.row != nullptr,
                           table_.storages[tensor.storage].epsilon, group.sign * settings_.loss};
        const bool own = group.rule->memory_count > 0 || choice.kernel->gather;
        auto& last = scratch_.resolved[size_t(tensor.group)];
        if (!own && last.kernel == choice.kernel && last.t == when.t && last.first == when.first)
            return last.scalars;
        last.kernel = choice.kernel;
        last.t = when.t;
        last.first = when.first;
        last.scalars = scratch_.scalars.size();
        double memory[max_memory];
        read_memory(i, memory);
        scratch_.scalars.emplace_back();
        choice.kernel->resolve(group.hyper, when, memory, scratch_.scalars.back().bytes);
        write_memory(i, memory);
        return last.scalars;
    }

    template <class Takes> void walk(Pass pass, const Takes& takes) const {
        const int64_t chunks = parallel::chunks_for(bytes_);
        parallel::for_chunks(chunks, bytes_, [&](int64_t chunk) {
            scratch_.flat.each(chunk, chunks, [&](size_t item, int64_t first, int64_t end) {
                const Scratch::Active& active = scratch_.active[item];
                if (takes(active)) walk_.run(active, first, end, pass);
            });
        });
    }

    // Makes the first pass, and adds up what each tensor has gathered in all processes.
    void sum_up(Part part, const std::function<void(double*)>& add_up) {
        const auto takes = [&](const Scratch::Active& active) {
            return active.kernel && active.kernel->gather && is_in(active, part);
        };
        scratch_.gathered.assign(segment_count_, {});
        walk(Pass::gather, takes);
        scratch_.totals.assign(tensors_.size(), {});
        for (const Scratch::Active& active : scratch_.active)
            if (takes(active)) sum_up(active);
        if (add_up) add_up(scratch_.totals[0].sum);
    }

    void sum_up(const Scratch::Active& active) {
        const size_t end = active.first_segment + active.segments;
        const Tensor& tensor = tensors_[active.tensor];
        const int sums = groups_[size_t(tensor.group)].rule->gathered;
        for (size_t s = active.first_segment; s < end; ++s)
            for (int k = 0; k < max_gathered; ++k)
                scratch_.totals[active.tensor].sum[k] += scratch_.gathered[s].sum[k];
        scratch_.totals[active.tensor].sum[sums] = double(tensor.n);
    }

    // Shards of one tensor have one sum: their parts', in their order.
    void share_keys() {
        std::vector<std::pair<uint64_t, size_t>> order;
        for (const Scratch::Active& active : scratch_.active)
            if (active.kernel && active.kernel->gather && is_in(active, Part::others) &&
                !rule_of(active.tensor).settles_together())
                order.emplace_back(tensors_[active.tensor].key, active.tensor);
        std::sort(order.begin(), order.end());
        for (size_t begin = 0, end; begin < order.size(); begin = end) {
            Scratch::Gathered total;
            for (end = begin; end < order.size() && order[end].first == order[begin].first; ++end)
                for (int k = 0; k < max_gathered; ++k)
                    total.sum[k] += scratch_.totals[order[end].second].sum[k];
            for (size_t i = begin; i < end; ++i) scratch_.totals[order[i].second] = total;
        }
    }

    // Rules that settle together have one sum: that of all their tensors, in their order. A shard
    // without elements counts, too: its row has what other processes have gathered of its tensor.
    void share_rules() {
        std::vector<std::pair<const RuleInfo*, Scratch::Gathered>> totals;
        auto total_of = [&](const RuleInfo& rule) -> Scratch::Gathered& {
            for (auto& [known, total] : totals)
                if (known == &rule) return total;
            totals.emplace_back(&rule, Scratch::Gathered());
            return totals.back().second;
        };
        for (size_t i = 0; i < tensors_.size(); ++i)
            if (takes_part(i) && rule_of(i).settles_together())
                for (int k = 0; k < max_gathered; ++k)
                    total_of(rule_of(i)).sum[k] += scratch_.totals[i].sum[k];
        for (size_t i = 0; i < tensors_.size(); ++i)
            if (takes_part(i) && rule_of(i).settles_together())
                scratch_.totals[i] = total_of(rule_of(i));
    }
};

// By what the gradients are multiplied, and what the result says of them; sets not_finite if the
// step must not be made.
double gather_norm(const Table& table, const std::vector<Tensor>& tensors, const Spans& spans,
                   const Settings& settings, Result& result) {
    const bool clips = std::isfinite(settings.clip_norm);
    if (settings.check_finite && !std::isfinite(settings.loss)) result.not_finite = 0;
    if (!settings.check_finite && !clips) return 1 / settings.loss_scale;
    const bool known = !(settings.norm < 0);    // a NaN is one
    const double whole = known ? settings.norm : norm(table, spans.used);
    result.gradient_norm = whole / settings.loss_scale;
    // Only a sum so large, or NaN, leaves the question open; it may be large by finite numbers.
    if (settings.check_finite && result.not_finite < 0 && !(whole <= double(__FLT_MAX__)))
        result.not_finite = !known                 ? first_not_finite(table, tensors, spans)
                            : std::isfinite(whole) ? -1
                                                   : 0;
    if (!clips) return 1 / settings.loss_scale;
    const double k = settings.clip_norm / (result.gradient_norm + 1e-6);
    return (k > 1 ? 1 : k) / settings.loss_scale;    // a NaN stays one
}

}    // namespace

Result step(const Table& table, std::vector<Tensor>& tensors, std::vector<Gradient>& gradients,
            const int64_t* counts, const std::vector<Group>& groups, const Settings& settings,
            Scratch& scratch, Sums* group_sums, const Between& between) {
    Result result = {-1, std::nan("")};
    coalesce(table, tensors, gradients);
    Spans spans;
    if (settings.check_finite || std::isfinite(settings.clip_norm) || settings.zero_gradients)
        spans = spans_of(tensors, gradients, groups);
    const double factor = gather_norm(table, tensors, spans, settings, result);
    if (result.not_finite >= 0) {
        if (settings.zero_gradients) {
            zero(table, spans.used);
            zero(table, spans.idle);
        }
        return result;
    }
    Step step(table, tensors, gradients, counts, groups, settings, scratch);
    step.choose(factor);
    step.direct(between);
    step.gather(between);
    step.update();
    step.note_first();
    if (settings.zero_gradients) zero(table, spans.idle);
    if (settings.measure) measure(tensors, groups, counts, settings, scratch, group_sums);
    return result;
}

namespace {

// Numbers as double, multiplied by a scale, a block at a time; then squared and added.
double sum_scaled(const Table& table, const Span& span, int64_t at, int64_t n, double scale) {
    const StorageInfo& storage = table.storages[span.storage];
    alignas(64) double numbers[block_elements];
    char* const data = static_cast<char*>(const_cast<void*>(span.data)) + storage.offset(at);
    storage.decode[double_precision](data, nullptr, Role::momentum, n, numbers);
    for (int64_t i = 0; i < n; ++i) numbers[i] *= scale;
    return table.storages[find_storage(table, "float64")].sum_squares(numbers, n);
}

}    // namespace

std::vector<double> segment_sums(const Table& table, const std::vector<Span>& spans, double scale) {
    std::vector<size_t> first_segment{0};
    int64_t bytes = 0;
    for (const Span& span : spans) {
        first_segment.push_back(first_segment.back() + size_t(segments(span.n, 0)));
        bytes += table.storages[span.storage].bytes(span.n);
    }
    std::vector<double> sums(first_segment.back());
    parallel::for_chunks(int64_t(sums.size()), bytes, [&](int64_t segment) {
        const size_t i =
            size_t(std::upper_bound(first_segment.begin(), first_segment.end(), size_t(segment)) -
                   first_segment.begin()) -
            1;
        const Span& span = spans[i];
        const StorageInfo& storage = table.storages[span.storage];
        const int64_t begin = (segment - int64_t(first_segment[i])) * segment_elements;
        const int64_t end = std::min(begin + segment_elements, span.n);
        double sum = 0;
        for (int64_t at = begin; at < end; at += block_elements) {
            const int64_t n = std::min(block_elements, end - at);
            sum += scale == 1 ? storage.sum_squares(
                                    static_cast<const char*>(span.data) + storage.offset(at), n)
                              : sum_scaled(table, span, at, n, scale);
        }
        sums[size_t(segment)] = sum;
    });
    return sums;
}

double sum_squares(const Table& table, const std::vector<Span>& spans, double scale) {
    double total = 0;
    for (double sum : segment_sums(table, spans, scale)) total += sum;
    return total;
}

double norm(const Table& table, const std::vector<Span>& spans) {
    const double sum = sum_squares(table, spans);
    if (!std::isinf(sum)) return std::sqrt(sum);
    // Squares overflow above 1e154; where an element is infinite itself, this is, too.
    return std::sqrt(sum_squares(table, spans, overflow_scale)) / overflow_scale;
}

void show(const Table& table, const Tensor& tensor, const Group& group, void* out) {
    const StorageInfo& storage = table.storages[tensor.storage];
    const Compute compute = storage.compute;
    const StorageInfo& shown =
        tensor.low ? table.storages[find_storage(table, "bfloat16")] : storage;
    alignas(64) double numbers[2 + max_states][block_elements];    // of either type
    const char* const bytes = static_cast<const char*>(tensor.p);
    for (int64_t at = 0; at < tensor.n; at += block_elements) {
        const int64_t n = std::min(block_elements, tensor.n - at);
        char* const low =
            tensor.low ? static_cast<char*>(tensor.low) + at * storage.low_bytes : nullptr;
        storage.decode[compute](const_cast<char*>(bytes) + storage.offset(at), low, Role::parameter,
                                n, numbers[0]);
        const void* states[max_states] = {};
        for (int s = 0; s < group.rule->state_count; ++s) {
            if (!tensor.state[s]) continue;
            const StorageInfo& kept = table.storages[tensor.state_storage[s]];
            kept.decode[compute](static_cast<char*>(tensor.state[s]) + kept.offset(at), nullptr,
                                 group.rule->states[s].role, n, numbers[2 + s]);
            states[s] = numbers[2 + s];
        }
        group.rule->shown[compute](group.hyper, numbers[0], states, n, numbers[1]);
        shown.encode[compute](numbers[1], n, static_cast<char*>(out) + shown.offset(at), nullptr,
                              {});
    }
}

void move(const Table& table, const Streams& streams) {
    Flat flat;
    flat.add(streams.n);
    const int changed = int(streams.changed.size()), read = int(streams.read.size());
    const int64_t bytes = streams.n * (2 * changed + read) * int64_t(sizeof(float));
    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        flat.each(chunk, chunks, [&](size_t, int64_t first, int64_t end) {
            float* to[max_states + 1];
            const float* from[max_states + 1];
            for (int i = 0; i < changed; ++i) to[i] = streams.changed[size_t(i)] + first;
            for (int i = 0; i < read; ++i) from[i] = streams.read[size_t(i)] + first;
            table.move(to, changed, from, read, end - first);
        });
    });
}

}    // namespace gradstep::pipeline
