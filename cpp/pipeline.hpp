// The walk of a step over many tensors: tensors -> chunks -> threads -> blocks -> stages.
// Knows pointers and sizes; nothing of Python and nothing of how threads are run.
#pragma once
#include <vector>

#include "table.hpp"

namespace gradstep::pipeline {

// One parameter and what a step does with it; stays the same from step to step.
struct Tensor {
    void* p = nullptr;
    void* low = nullptr;    // of a split parameter
    void* state[max_states] = {};
    void* average = nullptr;    // in the compute type
    void* copy = nullptr;
    int64_t n = 0;
    int64_t start = 0;    // where it begins in a larger tensor that is split into shards
    uint64_t key = 0;     // which tensor that is
    int storage = 0;      // an index into Table::storages, as the next two
    int state_storage[max_states] = {};
    int copy_storage = 0;
    unsigned options = 0;       // which optional states it has
    unsigned stochastic = 0;    // which buffers are rounded by chance: bit 0 the parameter
    int group = 0;
    int64_t first_block = 0;    // how many blocks the tensors before it have
};

struct Gradient {
    void* data;    // null: none; written only to be zeroed
    int storage;
};

// What a group's parameters share in one step.
struct Group {
    const double* hyper;
    double sign;    // -1: maximize
    bool frozen;
};

// What all groups share in one step.
struct Settings {
    double clip_norm, clip_value;    // infinite: none
    double average_weight;           // of the new parameter in the averages
    double loss_scale;
    uint64_t seed;
    bool check_finite, zero_gradients;
    enum Measure { nothing, everything, sample } measure;
    // Of a sample: which blocks, counted over all tensors, and for each of those block_elements
    // numbers of 8 bytes: running averages of the gradients of tensors without a momentum.
    int64_t sample_every;
    char* averages;
};

constexpr int64_t sample_blocks = 64;    // at most
int64_t count_blocks(const Tensor& tensor);

// Flattens a list of lengths, so that it can be cut anywhere into equal shares of work. Cuts fall
// on multiples of `unit`, counted from the start of the tensor that an item is a shard of.
class Flat {
public:
    struct Cut {
        size_t item;
        int64_t element;
    };

    void clear(int64_t unit = block_elements);
    void add(int64_t n, int64_t start = 0);
    int64_t total() const { return begin_.back(); }
    Cut cut(int64_t share, int64_t shares) const;    // the beginning of a share; shares: the end

    // f(item, first element, end element) for each run of elements in the share.
    template <class F> void each(int64_t share, int64_t shares, const F& f) const {
        Cut from = cut(share, shares), to = cut(share + 1, shares);
        for (size_t item = from.item; item <= to.item && item < items_.size(); ++item) {
            int64_t first = item == from.item ? from.element : 0;
            int64_t end = item == to.item ? to.element : items_[item].n;
            if (first < end) f(item, first, end);
        }
    }

private:
    struct Item {
        int64_t n, phase;    // phase: of its start in a unit
    };
    int64_t unit_ = block_elements;
    std::vector<Item> items_;
    std::vector<int64_t> begin_{0};    // in elements, and a few more a tensor for its own cost
};

// What a step needs besides its arguments; kept by the caller so that a plain step allocates
// nothing.
struct Scratch {
    struct alignas(double) Scalars {
        unsigned char bytes[max_scalar_bytes];
    };
    struct Active {
        size_t tensor;
        const Kernel* kernel;
        size_t scalars;
        size_t first_segment;          // of its sums; in a sample, their first block
        uint64_t key[max_buffers];     // of its random bits, but for the block
        double factor;                 // of the gradient
        bool direct, several_loops;    // as in Choice
        bool whole;                    // and there is nothing to do block by block
    };
    struct Resolved {
        const Kernel* kernel = nullptr;
        int64_t t = 0;
        size_t scalars = 0;
    };
    // What one tensor's kernel is, as long as nothing it depends on changes.
    struct Choice {
        const Table* table = nullptr;
        int gradient = -1;    // its storage
        bool clips = false;
        bool direct = false;           // the kernel takes the buffers as they lie in memory
        bool several_loops = false;    // go over a block one after the other
        const Kernel* kernel = nullptr;
        int64_t bytes = 0;    // that a step moves for it
    };
    Flat flat;
    std::vector<Choice> choices;
    std::vector<Active> active;
    std::vector<Scalars> scalars;
    std::vector<Resolved> resolved;    // the last of each group
    std::vector<Sums> sums;            // of each segment, or sampled block
};

struct Result {
    int64_t not_finite;      // the first tensor with such a gradient: nothing was written; -1: none
    double gradient_norm;    // before clipping, unscaled; NaN where nothing wanted it
};

// One update of every tensor that has a gradient and whose group is not frozen.
// counts: the updates each tensor has had so far. group_sums: one a group, filled in if
// settings.measure; of a sample, but for ratio and count, as if all blocks were such.
Result step(const Table& table, const RuleInfo& rule, const std::vector<Tensor>& tensors,
            const std::vector<Gradient>& gradients, const int64_t* counts,
            const std::vector<Group>& groups, const Settings& settings, Scratch& scratch,
            Sums* group_sums);

// What random bits start from: the tensor's and buffer's part, and with the block's the key.
uint64_t random_base(uint64_t seed, int64_t t, uint64_t key, int buffer);
RandomKey random_key(uint64_t base, int64_t element);    // of a run that begins at the element

struct Span {
    const void* data;
    int64_t n;
    int storage;
};

// The sum of all squares, in double: the same bits on any threads and target.
double sum_squares(const Table& table, const std::vector<Span>& spans);

// Moves the bytes of an update without its arithmetic: the floor to hold a step against.
struct Streams {
    float* arrays[max_states + 1];    // read and written
    int count;
    const float* gradient;    // read
    int64_t n;
};
void move(const Table& table, const std::vector<Streams>& tensors);

}    // namespace gradstep::pipeline
