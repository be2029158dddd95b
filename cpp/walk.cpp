#include "walk.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

namespace gradstep::pipeline {

namespace {

// Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

constexpr uint64_t golden = 0x9E3779B97F4A7C15;

// Which of a rule's states has a role first; -1: none.
int first_state(const RuleInfo& rule, const Tensor& tensor, Role role) {
    for (int s = 0; s < rule.state_count; ++s)
        if (rule.states[s].role == role && tensor.state[s]) return s;
    return -1;
}

char* at(void* start, const StorageInfo& storage, int64_t element) {
    return start ? static_cast<char*>(start) + storage.offset(element) : nullptr;
}

// Of the block that an element is in, counted over all tensors.
int64_t block_index(const Tensor& tensor, int64_t element) {
    return tensor.first_block + (tensor.start % block_elements + element) / block_elements;
}

// Whether a pairing takes a tensor and its gradient as they lie in memory.
bool fits(const Table& table, const RuleInfo& rule, const Tensor& tensor, int gradient,
          const Pairing& pairing) {
    if (pairing.param != tensor.storage || pairing.gradient != gradient ||
        pairing.stochastic_param != ((tensor.stochastic & 1) != 0))
        return false;
    for (int s = 0; s < rule.state_count; ++s) {
        if (!tensor.state[s]) continue;
        const StorageInfo& storage = table.storages[tensor.state_storage[s]];
        const bool stochastic = tensor.stochastic >> (1 + s) & 1;
        if (tensor.state_storage[s] != pairing.states ||
            (storage.rounds && stochastic != storage.rounds_stochastically(rule.states[s].role)))
            return false;
    }
    return true;
}

int find_pairing(const Table& table, const RuleInfo& rule, const Tensor& tensor, int gradient,
                 unsigned options) {
    for (int i = 0; i < table.pairing_count; ++i)
        if (rule.kernel(i, options).update &&
            fits(table, rule, tensor, gradient, table.pairings[i]))
            return i;
    return -1;
}

int plain_pairing(const Table& table, Compute compute) {
    int i = 0;
    while (table.storages[table.pairings[i].param].compute != compute) ++i;
    return i;
}

}    // namespace

// One block of one tensor, with every stage that a step has for it. Numbers lie where they are
// stored if they are stored as the compute type, else in the buffers.
template <class T> class Block {
public:
    Block(const Walk& walk, const Scratch::Active& active, const Walk::Run& run, int64_t index)
        : walk_(walk), settings_(walk.settings_), active_(active),
          tensor_(walk.tensors_[active.tensor]), rule_(walk.rule_of(tensor_)),
          gradient_(walk.gradients_[active.tensor]),
          storage_(walk.table_.storages[tensor_.storage]), first_(run.first), n_(run.n),
          index_(index), plain_(walk.table_.pairings[plain_pairing(walk.table_, compute)].param),
          memory_(walk.piece_of(tensor_, run.first, run.n)) {
        for (int b = 0; b <= rule_.state_count; ++b)
            memory_.key[b] = tensor_.stochastic >> b & 1
                                 ? random_key(active.key[b], tensor_.start + first_)
                                 : RandomKey();
        if (gradient_.data)
            raw_ = at(gradient_.data, walk.table_.storages[gradient_.storage], run.in_gradient);
    }

    // The first pass of a rule that has two.
    void gather(bool measured, LaneSums& sums, GatherLanes& gathered) {
        if (measured) measure_gradient(used_gradient(), sums);
        load(clip());
        active_.kernel->gather(scalars(), factor_, piece_, gathered);
        store(Pass::gather);
    }

    void update(bool measured, LaneSums& sums) {
        const T* used = measured ? used_gradient() : nullptr;
        if (measured && !active_.kernel->gather) measure_gradient(used, sums);
        if (measured)
            copy(numbers(memory_.p, memory_.low, tensor_.storage, Role::parameter, param_before_),
                 param_before_, n_);
        load(clip());
        active_.kernel->update(scalars(), factor_, piece_);
        store(Pass::update);
        publish();
        if (measured) measure_update(used, sums);
        if (settings_.zero_gradients) zero();
    }

    // Moves the average alone, of a parameter that the step leaves as it is.
    void average() {
        walk_.table_.stages[compute].average(static_cast<T*>(tensor_.average) + first_, parameter(),
                                             n_, settings_.average_weight);
    }

private:
    static constexpr Compute compute =
        sizeof(T) == sizeof(double) ? double_precision : single_precision;

    const Walk& walk_;
    const Settings& settings_;
    const Scratch::Active& active_;
    const Tensor& tensor_;
    const RuleInfo& rule_;
    const Gradient& gradient_;
    const StorageInfo& storage_;
    const int64_t first_, n_, index_;
    const int plain_;        // the storage of the compute type
    Piece memory_;           // as it lies in memory
    Piece piece_;            // as the kernel gets it
    void* raw_ = nullptr;    // the gradient as it was given
    double factor_ = 1;      // of the gradient that the kernel gets

    alignas(64) T param_[block_elements];
    alignas(64) T grad_[block_elements];
    alignas(64) T state_[max_states][block_elements];
    // For the statistics: the parameter before it changes, and the gradient as the rule gets it.
    alignas(64) T param_before_[block_elements];
    alignas(64) T used_[block_elements];

    const void* scalars() const { return walk_.scratch_.scalars[active_.scalars].bytes; }

    T* numbers(void* x, void* low, int stored, Role role, T* buffer) const {
        if (stored == plain_) return static_cast<T*>(x);
        walk_.table_.storages[stored].decode[compute](x, low, role, n_, buffer);
        return buffer;
    }
    T* parameter() {
        return numbers(memory_.p, memory_.low, tensor_.storage, Role::parameter, param_);
    }
    T* raw_gradient() { return numbers(raw_, nullptr, gradient_.storage, Role::momentum, grad_); }
    T* state(int s, T* buffer) const {
        return numbers(memory_.state[s], nullptr, tensor_.state_storage[s], rule_.states[s].role,
                       buffer);
    }

    static void copy(const T* from, T* to, int64_t n) {
        if (from != to) std::memcpy(to, from, size_t(n) * sizeof(T));
    }

    // The gradient within its limits; null: nothing limits it.
    T* clip() {
        factor_ = active_.factor;
        if (!std::isfinite(settings_.clip_value)) return nullptr;
        const double sign = factor_ < 0 ? -1 : 1;
        walk_.table_.stages[compute].clip(raw_gradient(), n_, sign * factor_, settings_.clip_value,
                                          grad_);
        factor_ = sign;
        return grad_;
    }

    void load(const T* clipped) {
        piece_ = memory_;
        piece_.g = clipped ? clipped : active_.direct ? raw_ : raw_gradient();
        if (tensor_.change) piece_.p = param_;
        if (tensor_.change) copy(parameter(), param_, n_);
        if (active_.direct) return;
        if (piece_.p == memory_.p) piece_.p = parameter();
        for (int s = 0; s < rule_.state_count; ++s)
            if (active_.used >> s & 1) piece_.state[s] = state(s, state_[s]);
        if (tensor_.matrices.row) piece_.state[rule_.factored] = product();
    }

    // What the numbers of its rows and columns say of each element.
    T* product() {
        const void* const relative = walk_.scratch_.relative.data() + active_.relative;
        T* const out = state_[rule_.factored];
        walk_.table_.stages[compute].multiply(tensor_.matrices.by(relative), first_, n_, out);
        return out;
    }

    // Rounds what a pass changed into memory, where the kernel did not work on that.
    void store(Pass pass) {
        if (tensor_.change && pass == Pass::update) store_change();
        if (active_.direct) return;
        if (pass == Pass::update && piece_.p != memory_.p && !tensor_.change)
            storage_.encode[compute](
                piece_.p, n_, memory_.p, memory_.low,
                {Role::parameter, (tensor_.stochastic & 1) != 0, memory_.key[0]});
        for (int s = 0; s < rule_.state_count; ++s) {
            const bool changed = (active_.used >> s & 1) && !rule_.states[s].fixed &&
                                 rule_.states[s].gathered == (pass == Pass::gather);
            if (changed && piece_.state[s] != memory_.state[s])
                walk_.table_.storages[tensor_.state_storage[s]].encode[compute](
                    piece_.state[s], n_, memory_.state[s], nullptr,
                    {rule_.states[s].role, (tensor_.stochastic >> (1 + s) & 1) != 0,
                     memory_.key[1 + s]});
        }
    }

    // What the rule changed, between numbers as they are stored: the parameter itself stays.
    void store_change() {
        void* const out = at(tensor_.change, storage_, first_);
        const T* changed = param_;
        if (tensor_.storage != plain_) {
            storage_.encode[compute](param_, n_, out, nullptr, {});
            storage_.decode[compute](out, nullptr, Role::parameter, n_, param_);
        }
        const T* const before =
            numbers(memory_.p, nullptr, tensor_.storage, Role::parameter, param_before_);
        T* const difference = tensor_.storage == plain_ ? static_cast<T*>(out) : used_;
        walk_.table_.stages[compute].subtract(changed, before, n_, difference);
        if (difference == used_) storage_.encode[compute](used_, n_, out, nullptr, {});
    }

    // The new parameter into its average and its copy.
    void publish() {
        if (!tensor_.average && !tensor_.copy) return;
        const T* p = parameter();
        if (tensor_.average)
            walk_.table_.stages[compute].average(static_cast<T*>(tensor_.average) + first_, p, n_,
                                                 settings_.average_weight);
        if (tensor_.copy) {
            const StorageInfo& copied = walk_.table_.storages[tensor_.copy_storage];
            copied.encode[compute](p, n_, at(tensor_.copy, copied, first_), nullptr, {});
        }
    }

    // The gradient as the rule gets it.
    const T* used_gradient() {
        const T* raw = raw_gradient();
        if (active_.factor == 1 && !std::isfinite(settings_.clip_value)) return raw;
        walk_.table_.stages[compute].clip(raw, n_, active_.factor, settings_.clip_value, used_);
        return used_;
    }

    // Before the rule changes the momentum.
    void measure_gradient(const T* used, LaneSums& sums) {
        const int momentum = first_state(rule_, tensor_, Role::momentum);
        T* const kept = momentum < 0 ? sample_average() : nullptr;
        Measured measured = {};
        measured.part = Measured::gradients;
        measured.raw = raw_gradient();
        measured.gradient = used;
        measured.momentum = momentum >= 0 ? state(momentum, state_[momentum]) : kept;
        measured.n = n_;
        walk_.table_.stages[compute].measure(measured, sums);
        if (kept) walk_.table_.stages[compute].average(kept, used, n_, 0.1);
    }

    void measure_update(const T* used, LaneSums& sums) {
        const int moment = first_state(rule_, tensor_, Role::second_moment);
        Measured measured = {};
        measured.part = Measured::updates;
        measured.gradient = used;
        measured.p_before = param_before_;
        measured.p = parameter();
        measured.second_moment = tensor_.matrices.row ? product()
                                 : moment >= 0        ? state(moment, state_[moment])
                                                      : nullptr;
        measured.n = n_;
        walk_.table_.stages[compute].measure(measured, sums);
    }

    // Where a sample keeps this block's average of gradients; null: it keeps none.
    T* sample_average() const {
        if (!settings_.averages) return nullptr;
        return reinterpret_cast<T*>(settings_.averages + index_ / settings_.sample_every *
                                                             block_elements *
                                                             int64_t(sizeof(double)));
    }

    void zero() const {
        std::memset(raw_, 0, size_t(walk_.table_.storages[gradient_.storage].offset(n_)));
    }
};

Piece Walk::piece_of(const Tensor& tensor, int64_t first, int64_t n) const {
    const StorageInfo& storage = table_.storages[tensor.storage];
    Piece piece;
    piece.p = at(tensor.p, storage, first);
    piece.low = tensor.low ? static_cast<char*>(tensor.low) + first * storage.low_bytes : nullptr;
    piece.g = nullptr;
    const int states = rule_of(tensor).state_count;
    for (int s = 0; s < states; ++s)
        piece.state[s] = at(tensor.state[s], table_.storages[tensor.state_storage[s]], first);
    piece.n = n;
    return piece;
}

// A run without anything to do block by block.
void Walk::whole(const Scratch::Active& active, const Run& run, GatherLanes& gathered,
                 Pass pass) const {
    const Gradient& gradient = gradients_[active.tensor];
    Piece piece = piece_of(tensors_[active.tensor], run.first, run.n);
    piece.g = at(gradient.data, table_.storages[gradient.storage], run.in_gradient);
    const void* scalars = scratch_.scalars[active.scalars].bytes;
    if (pass == Pass::gather)
        active.kernel->gather(scalars, active.factor, piece, gathered);
    else if (active.publish)
        active.publish(scalars, active.factor, piece,
                       published(tensors_[active.tensor], run.first));
    else
        active.kernel->update(scalars, active.factor, piece);
}

// Of a float32 parameter: no other has a loop that publishes.
Published Walk::published(const Tensor& tensor, int64_t first) const {
    Published parts = {};
    if (tensor.average) parts.average = static_cast<float*>(tensor.average) + first;
    parts.weight = settings_.average_weight;
    if (tensor.copy) parts.copy = at(tensor.copy, table_.storages[tensor.copy_storage], first);
    return parts;
}

template <class T> void Walk::visit_as(const Scratch::Active& active, const Run& run, bool measured,
                                       LaneSums& sums, GatherLanes& gathered, Pass pass) const {
    Block<T> block(*this, active, run, block_index(tensors_[active.tensor], run.first));
    if (!active.kernel)
        block.average();
    else if (pass == Pass::gather)
        block.gather(measured, sums, gathered);
    else
        block.update(measured, sums);
}

void Walk::visit(const Scratch::Active& active, const Run& run, bool measured, LaneSums& sums,
                 GatherLanes& gathered, Pass pass) const {
    if (table_.storages[tensors_[active.tensor].storage].compute == double_precision)
        visit_as<double>(active, run, measured, sums, gathered, pass);
    else
        visit_as<float>(active, run, measured, sums, gathered, pass);
}

// Keeps the sums of a segment that ends here, and begins new ones.
void Walk::keep(const Scratch::Active& active, int64_t end, bool is_end, LaneSums& sums,
                GatherLanes& gathered, Pass pass) const {
    const Tensor& tensor = tensors_[active.tensor];
    const int64_t at = tensor.start % segment_elements + end;
    if (!scratch_.segmented || (at % segment_elements != 0 && !is_end)) return;
    const size_t segment = active.first_segment + size_t((at - 1) / segment_elements);
    if (pass == Pass::gather) {
        table_.fold_gathered(gathered, rule_of(tensor).gathered, scratch_.gathered[segment].sum);
        gathered = {};
    }
    if (settings_.measure == Settings::everything) {
        add(table_.fold(sums), scratch_.sums[segment]);
        sums = {};
    }
}

void Walk::run(const Scratch::Active& active, int64_t first, int64_t end, Pass pass) const {
    if (gradients_[active.tensor].rows && active.kernel) return run_rows(active, first, end);
    const Tensor& tensor = tensors_[active.tensor];
    LaneSums sums = {};
    GatherLanes gathered;
    if (pass == Pass::gather) gathered = {};
    for (int64_t begin = first; begin < end;) {
        const int64_t to_boundary = block_elements - (tensor.start + begin) % block_elements;
        int64_t n = std::min(to_boundary, end - begin);
        const int64_t index = block_index(tensor, begin);
        const bool sampled = is_sampled(index);
        if (active.whole && !sampled) {
            n = end - begin;
            if (settings_.measure == Settings::sample) {    // up to the next that is sampled
                const int64_t blocks = settings_.sample_every - index % settings_.sample_every - 1;
                n = std::min(n, to_boundary + blocks * block_elements);
            }
            if (pass == Pass::gather) {    // up to the end of the segment that its sums are of
                const int64_t at = (tensor.start + begin) % segment_elements;
                n = std::min(n, segment_elements - at);
            }
            whole(active, {begin, n, begin}, gathered, pass);
        } else {
            const bool measured = sampled || settings_.measure == Settings::everything;
            visit(active, {begin, n, begin}, measured, sums, gathered, pass);
        }
        begin += n;
        if (sampled && active.kernel) {
            add(table_.fold(sums), scratch_.sums[size_t(index / settings_.sample_every)]);
            sums = {};
        }
        if (active.kernel) keep(active, begin, begin == end, sums, gathered, pass);
    }
}

// Elements of a gradient that has only some rows: rows that follow each other in the tensor are one
// run there, and each run goes block by block as it would in a step of all rows.
void Walk::run_rows(const Scratch::Active& active, int64_t first, int64_t end) const {
    const Tensor& tensor = tensors_[active.tensor];
    const Rows& rows = *gradients_[active.tensor].rows;
    const bool measured = settings_.measure == Settings::everything;
    LaneSums sums = {};
    GatherLanes unused;
    for (int64_t at = first; at < end;) {
        const int64_t segment_end = at - at % segment_elements + segment_elements;
        const Rows::Run run = rows.run(at, std::min(end, segment_end));
        if (active.whole) {
            whole(active, {run.element, run.n, at}, unused, Pass::update);
        } else {
            for (int64_t begin = run.element, n; begin < run.element + run.n; begin += n) {
                n = std::min(block_elements - (tensor.start + begin) % block_elements,
                             run.element + run.n - begin);
                visit(active, {begin, n, at + begin - run.element}, measured, sums, unused,
                      Pass::update);
            }
        }
        at += run.n;
        if (measured && (at == segment_end || at == end)) {
            add(table_.fold(sums),
                scratch_.sums[active.first_segment + size_t((at - 1) / segment_elements)]);
            sums = {};
        }
    }
}

Choice choose(const Table& table, const RuleInfo& rule, const Tensor& tensor, int gradient,
              unsigned options, bool clips) {
    const StorageInfo& storage = table.storages[tensor.storage];
    const int plain = plain_pairing(table, storage.compute);
    // A change is taken between numbers in the compute type, not between those that are stored.
    const bool decodes = tensor.change && tensor.storage != table.pairings[plain].param;
    const int pairing =
        tensor.matrices.row || decodes
            ? -1
            : find_pairing(table, rule, tensor, clips ? table.pairings[plain].gradient : gradient,
                           options);
    Choice choice;
    choice.table = &table;
    choice.gradient = gradient;
    choice.options = options;
    choice.clips = clips;
    choice.direct = pairing >= 0;
    choice.kernel = &rule.kernel(choice.direct ? pairing : plain, options);
    const bool copied =
        tensor.copy && table.storages[tensor.copy_storage].name == std::string_view("bfloat16");
    if (choice.direct && (copied || !tensor.copy))
        choice.publish =
            choice.kernel
                ->publish[(tensor.average ? publish_average : 0) | (copied ? publish_copy : 0)];
    const int64_t n = tensor.n, passes = rule.gathered ? 2 : 1;
    choice.bytes = (1 + passes) * (storage.bytes(n) + storage.low_bytes * n) +
                   passes * table.storages[gradient].bytes(n);
    for (int s = 0; s < rule.state_count; ++s) {
        if (!tensor.state[s]) continue;
        const StorageInfo& state = table.storages[tensor.state_storage[s]];
        choice.bytes += (1 + passes) * state.bytes(n);
    }
    if (tensor.average) choice.bytes += 2 * n * (storage.compute == double_precision ? 8 : 4);
    if (tensor.copy) choice.bytes += table.storages[tensor.copy_storage].bytes(n);
    return choice;
}

unsigned used_states(const RuleInfo& rule, const Tensor& tensor, unsigned options) {
    unsigned used = 0;
    int bit = 0;
    for (int s = 0; s < rule.state_count; ++s) {
        const bool is_on = !rule.states[s].option || (options >> bit & 1);
        bit += rule.states[s].option != nullptr;
        if (tensor.state[s] && is_on) used |= 1u << s;
    }
    return used;
}

void add(const Sums& part, Sums& total) {
    const double* from = reinterpret_cast<const double*>(&part);
    double* to = reinterpret_cast<double*>(&total);
    for (int c = 0; c < sum_count; ++c) to[c] += from[c];
}

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

}    // namespace gradstep::pipeline
