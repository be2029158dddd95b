#include "pipeline.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.hpp"

namespace gradstep::pipeline {

namespace {
// What a tensor costs besides its elements, in elements: finding it, resolving, the loop's ends.
constexpr int64_t tensor_cost = 64;
// A sum's unit: fixed, so that the order of additions does not follow the threads.
constexpr int64_t segment_elements = 128 * block_elements;
}    // namespace

void Flat::clear(int64_t unit) {
    unit_ = unit;
    items_.clear();
    begin_.assign(1, 0);
}

void Flat::add(int64_t n, int64_t start) {
    items_.push_back({n, start % unit_});
    begin_.push_back(begin_.back() + tensor_cost + n);
}

Flat::Cut Flat::cut(int64_t share, int64_t shares) const {
    // total * share / shares without the overflow of the product
    int64_t at = total() / shares * share + total() % shares * share / shares;
    size_t item = size_t(std::upper_bound(begin_.begin(), begin_.end(), at) - begin_.begin()) - 1;
    if (item == items_.size()) return {item, 0};
    const int64_t phase = items_[item].phase;
    int64_t element = std::max<int64_t>(at - begin_[item] - tensor_cost, 0) + phase;
    return {item, std::max<int64_t>(element / unit_ * unit_ - phase, 0)};
}

namespace {

// Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

constexpr uint64_t golden = 0x9E3779B97F4A7C15;

int64_t segments(int64_t n, int64_t start) {
    return (start % segment_elements + n + segment_elements - 1) / segment_elements;
}

// Which of a rule's states has a role first; -1: none.
int first_state(const RuleInfo& rule, const Tensor& tensor, Role role) {
    for (int s = 0; s < rule.state_count; ++s)
        if (rule.states[s].role == role && tensor.state[s]) return s;
    return -1;
}

char* at(void* start, const StorageInfo& storage, int64_t element) {
    return start ? static_cast<char*>(start) + storage.offset(element) : nullptr;
}

// The pairing that fits a tensor and its gradient as they lie in memory; -1: none.
int find_pairing(const Table& table, const RuleInfo& rule, const Tensor& tensor, int gradient) {
    for (int i = 0; i < table.pairing_count; ++i) {
        const Pairing& pairing = table.pairings[i];
        if (pairing.param != tensor.storage || pairing.gradient != gradient ||
            pairing.stochastic_param != ((tensor.stochastic & 1) != 0))
            continue;
        bool fits = true;
        for (int s = 0; s < rule.state_count && fits; ++s) {
            const bool stochastic = tensor.stochastic >> (1 + s) & 1;
            const bool usual = stochastic == (rule.states[s].role == Role::second_moment);
            const int storage = tensor.state_storage[s];
            fits = !tensor.state[s] ||
                   (storage == pairing.states && (usual || !table.storages[storage].rounds));
        }
        if (fits) return i;
    }
    return -1;
}

int plain_pairing(const Table& table, Compute compute) {
    int i = 0;
    while (table.storages[table.pairings[i].param].compute != compute) ++i;
    return i;
}

// Each tensor's update, block by block: everything that is done to a block is done while it lies in
// the first-level cache.
class Walk {
public:
    Walk(const Table& table, const RuleInfo& rule, const std::vector<Tensor>& tensors,
         const std::vector<Gradient>& gradients, const Settings& settings, Scratch& scratch)
        : table_(table), rule_(rule), tensors_(tensors), gradients_(gradients), settings_(settings),
          scratch_(scratch) {}

    void run(const Scratch::Active& active, int64_t first, int64_t end) const {
        const Tensor& tensor = tensors_[active.tensor];
        LaneSums sums = {};
        for (int64_t begin = first; begin < end;) {
            const int64_t to_boundary = block_elements - (tensor.start + begin) % block_elements;
            int64_t n = std::min(to_boundary, end - begin);
            const int64_t index = block_index(tensor, begin);
            const bool sampled =
                settings_.measure == Settings::sample && index % settings_.sample_every == 0;
            if (active.whole && !sampled) {
                n = end - begin;
                if (settings_.measure == Settings::sample) {    // up to the next that is sampled
                    const int64_t blocks =
                        settings_.sample_every - index % settings_.sample_every - 1;
                    n = std::min(n, to_boundary + blocks * block_elements);
                }
                whole(active, begin, n);
            } else if (table_.storages[tensor.storage].compute == double_precision) {
                block<double>(active, begin, n, index, sums);
            } else {
                block<float>(active, begin, n, index, sums);
            }
            begin += n;
            const int64_t at = tensor.start % segment_elements + begin;
            if (settings_.measure == Settings::everything &&
                (at % segment_elements == 0 || begin == end)) {
                scratch_.sums[active.first_segment + size_t((at - 1) / segment_elements)] =
                    table_.fold(sums);
                sums = {};
            } else if (sampled) {
                scratch_.sums[size_t(index / settings_.sample_every)] = table_.fold(sums);
                sums = {};
            }
        }
    }

private:
    const Table& table_;
    const RuleInfo& rule_;
    const std::vector<Tensor>& tensors_;
    const std::vector<Gradient>& gradients_;
    const Settings& settings_;
    Scratch& scratch_;

    // Of the block that an element is in, counted over all tensors.
    static int64_t block_index(const Tensor& tensor, int64_t element) {
        return tensor.first_block + (tensor.start % block_elements + element) / block_elements;
    }

    Piece piece_of(const Tensor& tensor, int64_t first, int64_t n) const {
        Piece piece;
        piece.p = at(tensor.p, table_.storages[tensor.storage], first);
        piece.low = tensor.low ? static_cast<char*>(tensor.low) +
                                     first * table_.storages[tensor.storage].low_bytes
                               : nullptr;
        piece.g = nullptr;
        for (int s = 0; s < rule_.state_count; ++s)
            piece.state[s] = at(tensor.state[s], table_.storages[tensor.state_storage[s]], first);
        piece.n = n;
        return piece;
    }

    void whole(const Scratch::Active& active, int64_t first, int64_t n) const {
        const Gradient& gradient = gradients_[active.tensor];
        Piece piece = piece_of(tensors_[active.tensor], first, n);
        piece.g = at(gradient.data, table_.storages[gradient.storage], first);
        active.kernel->update(scratch_.scalars[active.scalars].bytes, active.factor, piece);
    }

    // Asks for the bytes of the next block while this one is computed: loops that go over a block
    // one after the other do not read ahead in all arrays as a single one does.
    static void prefetch(const void* data, const StorageInfo& storage) {
        const char* next = static_cast<const char*>(data) + storage.offset(block_elements);
        for (int64_t i = 0; i < storage.offset(block_elements); i += 64)
            __builtin_prefetch(next + i);
    }

    // index: of the block among those of all tensors
    template <class T> void block(const Scratch::Active& active, int64_t first, int64_t n,
                                  int64_t index, LaneSums& sums) const {
        constexpr Compute compute =
            sizeof(T) == sizeof(double) ? double_precision : single_precision;
        const Stages& stages = table_.stages[compute];
        const Tensor& tensor = tensors_[active.tensor];
        const Gradient& gradient = gradients_[active.tensor];
        const StorageInfo& storage = table_.storages[tensor.storage];
        const StorageInfo& gradient_storage = table_.storages[gradient.storage];
        const int plain = table_.pairings[plain_pairing(table_, compute)].param;

        Piece memory = piece_of(tensor, first, n);
        for (int b = 0; b <= rule_.state_count; ++b)
            memory.key[b] = tensor.stochastic >> b & 1
                                ? random_key(active.key[b], tensor.start + first)
                                : RandomKey();
        void* const raw = at(gradient.data, gradient_storage, first);

        if (active.several_loops) {
            prefetch(memory.p, storage);
            prefetch(raw, gradient_storage);
            for (int s = 0; s < rule_.state_count; ++s)
                if (memory.state[s])
                    prefetch(memory.state[s], table_.storages[tensor.state_storage[s]]);
        }

        // Numbers as the compute type: where they lie if they are stored so, or a copy.
        alignas(64) T numbers[max_buffers + 1][block_elements];
        auto load = [&](void* x, void* low, int stored, Role role, T* copy) -> T* {
            if (stored == plain) return static_cast<T*>(x);
            table_.storages[stored].decode[compute](x, low, role, n, copy);
            return copy;
        };
        auto load_state = [&](int s, T* copy) {
            return load(memory.state[s], nullptr, tensor.state_storage[s], rule_.states[s].role,
                        copy);
        };

        // What the statistics compare with, before it changes.
        alignas(64) T before[2][block_elements];
        const int momentum = first_state(rule_, tensor, Role::momentum);
        const int second_moment = first_state(rule_, tensor, Role::second_moment);
        const bool measured_here =
            settings_.measure == Settings::everything ||
            (settings_.measure == Settings::sample && index % settings_.sample_every == 0);
        if (measured_here) {
            const T* p = load(memory.p, memory.low, tensor.storage, Role::momentum, before[0]);
            if (p != before[0]) std::memcpy(before[0], p, size_t(n) * sizeof(T));
            if (momentum >= 0) {
                const T* m = load_state(momentum, before[1]);
                if (m != before[1]) std::memcpy(before[1], m, size_t(n) * sizeof(T));
            }
        }

        Piece piece = memory;
        double factor = active.factor;
        if (std::isfinite(settings_.clip_value)) {
            T* const g = numbers[max_buffers];
            const double sign = factor < 0 ? -1 : 1;
            stages.clip(load(raw, nullptr, gradient.storage, Role::momentum, g), n, sign * factor,
                        settings_.clip_value, g);
            piece.g = g;
            factor = sign;
        } else {
            piece.g = active.direct ? raw
                                    : load(raw, nullptr, gradient.storage, Role::momentum,
                                           numbers[max_buffers]);
        }
        if (!active.direct) {
            piece.p = load(memory.p, memory.low, tensor.storage, Role::momentum, numbers[0]);
            for (int s = 0; s < rule_.state_count; ++s)
                if (tensor.state[s]) piece.state[s] = load_state(s, numbers[1 + s]);
        }
        active.kernel->update(scratch_.scalars[active.scalars].bytes, factor, piece);
        if (!active.direct) {
            if (piece.p != memory.p)
                storage.encode[compute](
                    piece.p, n, memory.p, memory.low,
                    {Role::momentum, (tensor.stochastic & 1) != 0, memory.key[0]});
            for (int s = 0; s < rule_.state_count; ++s)
                if (piece.state[s] != memory.state[s])
                    table_.storages[tensor.state_storage[s]].encode[compute](
                        piece.state[s], n, memory.state[s], nullptr,
                        {rule_.states[s].role, (tensor.stochastic >> (1 + s) & 1) != 0,
                         memory.key[1 + s]});
        }

        if (tensor.average || tensor.copy || measured_here) {
            const T* p = load(memory.p, memory.low, tensor.storage, Role::momentum, numbers[0]);
            if (tensor.average)
                stages.average(static_cast<T*>(tensor.average) + first, p, n,
                               settings_.average_weight);
            if (tensor.copy) {
                const StorageInfo& copy = table_.storages[tensor.copy_storage];
                copy.encode[compute](p, n, at(tensor.copy, copy, first), nullptr, {});
            }
            if (measured_here) {
                Measured measured = {};
                measured.raw =
                    load(raw, nullptr, gradient.storage, Role::momentum, numbers[max_buffers]);
                measured.p_before = before[0];
                measured.p = p;
                if (momentum >= 0) measured.momentum = before[1];
                if (second_moment >= 0)
                    measured.second_moment = load_state(second_moment, numbers[1 + second_moment]);
                measured.n = n;
                measured.factor = active.factor;
                measured.limit = settings_.clip_value;
                T* const average =
                    momentum < 0 && settings_.averages
                        ? reinterpret_cast<T*>(settings_.averages + index / settings_.sample_every *
                                                                        block_elements *
                                                                        int64_t(sizeof(double)))
                        : nullptr;
                if (average) measured.momentum = average;
                stages.measure(measured, sums);
                if (average) {    // of the gradient as the rule got it
                    stages.clip(measured.raw, n, active.factor, settings_.clip_value, before[1]);
                    stages.average(average, before[1], n, 0.1);
                }
            }
        }
        if (settings_.zero_gradients) std::memset(raw, 0, size_t(gradient_storage.offset(n)));
    }
};

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
            std::memset(at(const_cast<void*>(span.data), storage, first), 0,
                        size_t(storage.offset(end - first)));
        });
    });
}

Scratch::Choice choose(const Table& table, const RuleInfo& rule, const Tensor& tensor, int gradient,
                       bool clips) {
    const StorageInfo& storage = table.storages[tensor.storage];
    const int plain = plain_pairing(table, storage.compute);
    const int pairing =
        find_pairing(table, rule, tensor, clips ? table.pairings[plain].gradient : gradient);
    Scratch::Choice choice = {&table, gradient, clips, pairing >= 0, pairing < 0, nullptr, 0};
    choice.kernel = &rule.kernel(choice.direct ? pairing : plain, tensor.options);
    const int64_t n = tensor.n;
    choice.bytes =
        2 * (storage.bytes(n) + storage.low_bytes * n) + table.storages[gradient].bytes(n);
    for (int s = 0; s < rule.state_count; ++s) {
        if (!tensor.state[s]) continue;
        const StorageInfo& state = table.storages[tensor.state_storage[s]];
        choice.bytes += 2 * state.bytes(n);
        choice.several_loops |= state.block > 1;
    }
    if (tensor.average) choice.bytes += 2 * n * (storage.compute == double_precision ? 8 : 4);
    if (tensor.copy) choice.bytes += table.storages[tensor.copy_storage].bytes(n);
    return choice;
}

// Scales the sums of a sample to those of all elements.
void stand_for(int64_t elements, size_t groups, Sums* sums) {
    double measured = 0;
    for (size_t g = 0; g < groups; ++g) measured += sums[g].count;
    if (measured == 0) return;
    const double factor = double(elements) / measured;
    for (size_t g = 0; g < groups; ++g)
        for (double* sum : {&sums[g].gradient, &sums[g].update, &sums[g].param,
                            &sums[g].gradient_momentum, &sums[g].momentum, &sums[g].used})
            *sum *= factor;
}

}    // namespace

int64_t count_blocks(const Tensor& tensor) {
    return (tensor.start % block_elements + tensor.n + block_elements - 1) / block_elements;
}

uint64_t random_base(uint64_t seed, int64_t t, uint64_t key, int buffer) {
    uint64_t h = 0;
    for (uint64_t x : {seed, uint64_t(t), key, uint64_t(buffer)}) h = mix(h + golden + x);
    return h;
}

RandomKey random_key(uint64_t base, int64_t element) {
    const uint64_t h = mix(base + golden + uint64_t(element / block_elements));
    return RandomKey{uint32_t(h >> 32), uint32_t(h) | 1}.from(element % block_elements);
}

Result step(const Table& table, const RuleInfo& rule, const std::vector<Tensor>& tensors,
            const std::vector<Gradient>& gradients, const int64_t* counts,
            const std::vector<Group>& groups, const Settings& settings, Scratch& scratch,
            Sums* group_sums) {
    Result result = {-1, std::nan("")};
    double factor = 1 / settings.loss_scale;
    const bool clips_norm = std::isfinite(settings.clip_norm);
    std::vector<Span> spans, idle;    // the gradients of a step, and those that are only zeroed
    std::vector<size_t> tensor_of;    // of each span
    if (settings.check_finite || clips_norm || settings.zero_gradients) {
        for (size_t i = 0; i < tensors.size(); ++i) {
            if (!gradients[i].data) continue;
            const Span span = {gradients[i].data, tensors[i].n, gradients[i].storage};
            if (groups[size_t(tensors[i].group)].frozen) {
                idle.push_back(span);
            } else {
                spans.push_back(span);
                tensor_of.push_back(i);
            }
        }
    }
    if (settings.check_finite || clips_norm) {    // what depends on all gradients together
        const double norm = std::sqrt(sum_squares(table, spans));
        result.gradient_norm = norm / settings.loss_scale;
        // Only a sum so large, or NaN, leaves the question open; it may be large by finite numbers.
        if (settings.check_finite && !(norm <= double(__FLT_MAX__))) {
            for (size_t i = 0; i < spans.size() && result.not_finite < 0; ++i) {
                const Compute compute = table.storages[tensors[tensor_of[i]].storage].compute;
                const StorageInfo& storage = table.storages[spans[i].storage];
                if (!storage.all_finite[compute](spans[i].data, spans[i].n))
                    result.not_finite = int64_t(tensor_of[i]);
            }
            if (result.not_finite >= 0) {
                if (settings.zero_gradients) {
                    zero(table, spans);
                    zero(table, idle);
                }
                return result;
            }
        }
        if (clips_norm) {
            const double k = settings.clip_norm / (result.gradient_norm + 1e-6);
            factor = (k > 1 ? 1 : k) / settings.loss_scale;    // a NaN stays one
        }
    }

    Flat& flat = scratch.flat;
    const bool segmented = settings.measure == Settings::everything;
    flat.clear(segmented ? segment_elements : block_elements);
    scratch.active.clear();
    scratch.scalars.clear();
    scratch.resolved.assign(groups.size(), {});
    scratch.choices.resize(tensors.size());
    const bool clips = std::isfinite(settings.clip_value);
    size_t segment_count = 0;
    int64_t bytes = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
        const Tensor& tensor = tensors[i];
        const Group& group = groups[size_t(tensor.group)];
        if (!gradients[i].data || group.frozen || tensor.n == 0) continue;
        Scratch::Choice& choice = scratch.choices[i];
        if (choice.gradient != gradients[i].storage || choice.table != &table ||
            choice.clips != clips)
            choice = choose(table, rule, tensor, gradients[i].storage, clips);
        bytes += choice.bytes;
        auto& last = scratch.resolved[size_t(tensor.group)];
        const int64_t t = counts[i] + 1;
        if (last.kernel != choice.kernel || last.t != t) {
            last = {choice.kernel, t, scratch.scalars.size()};
            scratch.scalars.emplace_back();
            choice.kernel->resolve(group.hyper, t, scratch.scalars.back().bytes);
        }
        scratch.active.emplace_back();
        Scratch::Active& active = scratch.active.back();
        active.tensor = i;
        active.kernel = choice.kernel;
        active.scalars = last.scalars;
        active.direct = choice.direct;
        active.whole = choice.direct && tensor.stochastic == 0 && !tensor.average && !tensor.copy &&
                       !clips && !settings.zero_gradients && !segmented;
        active.several_loops = choice.several_loops || segmented;
        active.factor = group.sign * factor;
        active.first_segment = segment_count;
        if (segmented) segment_count += size_t(segments(tensor.n, tensor.start));
        for (int b = 0; b <= rule.state_count && tensor.stochastic >> b; ++b)
            if (tensor.stochastic >> b & 1)
                active.key[b] = random_base(settings.seed, t, tensor.key, b);
        flat.add(tensor.n, tensor.start);
    }
    if (settings.measure) scratch.sums.assign(segmented ? segment_count : sample_blocks, {});

    const Walk walk(table, rule, tensors, gradients, settings, scratch);
    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        flat.each(chunk, chunks, [&](size_t item, int64_t first, int64_t end) {
            walk.run(scratch.active[item], first, end);
        });
    });
    if (settings.zero_gradients) zero(table, idle);

    if (settings.measure) {
        int64_t elements = 0;    // of those that a sample stands for
        for (size_t g = 0; g < groups.size(); ++g) group_sums[g] = {};
        for (size_t i = 0; i < scratch.active.size(); ++i) {
            const Scratch::Active& active = scratch.active[i];
            const Tensor& tensor = tensors[active.tensor];
            size_t first = active.first_segment;
            size_t end =
                i + 1 < scratch.active.size() ? scratch.active[i + 1].first_segment : segment_count;
            if (!segmented) {
                const int64_t every = settings.sample_every;
                first = size_t((tensor.first_block + every - 1) / every);
                end = size_t((tensor.first_block + count_blocks(tensor) + every - 1) / every);
                elements += tensor.n;
            }
            const int group = tensors[active.tensor].group;
            const double correction =
                rule.moment_correction(groups[size_t(group)].hyper, counts[active.tensor] + 1);
            double* total = reinterpret_cast<double*>(&group_sums[group]);
            for (size_t segment = first; segment < end; ++segment) {
                scratch.sums[segment].ratio *= correction;
                const double* part = reinterpret_cast<const double*>(&scratch.sums[segment]);
                for (int c = 0; c < sum_count; ++c) total[c] += part[c];
            }
        }
        if (!segmented) stand_for(elements, groups.size(), group_sums);
    }
    return result;
}

double sum_squares(const Table& table, const std::vector<Span>& spans) {
    std::vector<size_t> first_segment{0};
    int64_t bytes = 0;
    for (const Span& span : spans) {
        first_segment.push_back(first_segment.back() +
                                size_t((span.n + segment_elements - 1) / segment_elements));
        bytes += table.storages[span.storage].bytes(span.n);
    }
    std::vector<double> sums(first_segment.back());
    parallel::for_chunks(int64_t(sums.size()), bytes, [&](int64_t segment) {
        size_t i =
            size_t(std::upper_bound(first_segment.begin(), first_segment.end(), size_t(segment)) -
                   first_segment.begin()) -
            1;
        const Span& span = spans[i];
        const StorageInfo& storage = table.storages[span.storage];
        const int64_t begin = (segment - int64_t(first_segment[i])) * segment_elements;
        const int64_t end = std::min(begin + segment_elements, span.n);
        double sum = 0;
        for (int64_t at = begin; at < end; at += block_elements)
            sum += storage.sum_squares(static_cast<const char*>(span.data) + storage.offset(at),
                                       std::min(block_elements, end - at));
        sums[size_t(segment)] = sum;
    });
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
}

void move(const Table& table, const std::vector<Streams>& tensors) {
    Flat flat;
    int64_t bytes = 0;
    for (const Streams& tensor : tensors) {
        flat.add(tensor.n);
        bytes += tensor.n * (2 * tensor.count + 1) * int64_t(sizeof(float));
    }
    const int64_t chunks = parallel::chunks_for(bytes);
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        flat.each(chunk, chunks, [&](size_t item, int64_t first, int64_t end) {
            const Streams& tensor = tensors[item];
            float* arrays[max_states + 1];
            for (int i = 0; i < tensor.count; ++i) arrays[i] = tensor.arrays[i] + first;
            table.move(arrays, tensor.count, tensor.gradient + first, end - first);
        });
    });
}

}    // namespace gradstep::pipeline
