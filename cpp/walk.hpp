// What happens to a run of elements of one tensor: block by block, every stage while the block lies
// in the first-level cache.
#pragma once
#include <vector>

#include "flat.hpp"
#include "rows.hpp"
#include "table.hpp"

namespace gradstep::pipeline {

// The matrices of a tensor, one behind the other, and what a rule keeps for their rows and columns.
struct Matrices {
    void *row = nullptr, *column = nullptr;    // null: the rule keeps nothing for them
    int64_t rows = 0, columns = 0;             // of each
    Factored by(const void* relative) const { return {relative, column, rows, columns}; }
};

// One parameter and what a step does with it; stays the same from step to step.
struct Tensor {
    void* p = nullptr;
    void* low = nullptr;    // of a split parameter
    void* state[max_states] = {};
    Matrices matrices;
    double* memory[max_memory] = {};
    void* average = nullptr;    // in the compute type
    void* copy = nullptr;
    // Stored as the parameter: gets new - old, and the parameter stays as it is; null: it moves.
    void* change = nullptr;
    int64_t n = 0;
    int64_t start = 0;    // where it begins in a larger tensor that is split into shards
    uint64_t key = 0;     // which tensor that is
    int storage = 0;      // an index into Table::storages, as the next two
    int state_storage[max_states] = {};
    int copy_storage = 0;
    unsigned options = 0;       // which optional states it has
    unsigned stochastic = 0;    // which buffers are rounded stochastically: bit 0 the parameter
    int group = 0;
    int64_t first_block = 0;    // how many blocks the tensors before it have
    bool first = true;          // no step has used its states yet
};

struct Gradient {
    void* data;    // null: none; written only to be zeroed
    int storage;
    Rows* rows = nullptr;    // the rows that it is of; null: it is of all elements
};

// What a group's parameters share in one step.
struct Group {
    const RuleInfo* rule;
    const double* hyper;
    double sign;    // -1: maximize
    bool frozen;
};

// What all groups share in one step.
struct Settings {
    double clip_norm = __builtin_inf(), clip_value = __builtin_inf();    // infinite: none
    double average_weight = 0;    // of the new parameter in the averages
    double loss_scale = 1;
    double loss = 0;     // for rules that take it
    double norm = -1;    // of all gradients, scaled as they are; negative: it is to be taken
    uint64_t seed = 0;
    bool check_finite = false, zero_gradients = false;
    enum Measure { nothing, everything, sample } measure = nothing;
    // Of a sample: which blocks, counted over all tensors, and for each of those block_elements
    // numbers of 8 bytes: running averages of the gradients of tensors without a momentum.
    int64_t sample_every = 1;
    char* averages = nullptr;
};

constexpr int64_t sample_blocks = 64;    // at most
int64_t count_blocks(const Tensor& tensor);

// One tensor's kernel, as long as nothing that it depends on changes.
struct Choice {
    const Table* table = nullptr;
    const Kernel* kernel = nullptr;
    int gradient = -1;    // its storage
    unsigned options = 0;
    bool clips = false;
    bool direct = false;          // the kernel takes the buffers as they lie in memory
    Publish publish = nullptr;    // what publishes in the loop of the update
    int64_t bytes = 0;            // that a step moves for it
};

// What a step needs besides its arguments; kept by the caller so that a plain step allocates
// nothing.
struct Scratch {
    struct alignas(double) Scalars {
        unsigned char bytes[max_scalar_bytes];
    };
    struct Active {
        size_t tensor;
        const Kernel* kernel;    // null: only its average moves
        size_t scalars;
        size_t first_segment;         // of its sums
        size_t relative;              // of its rows, where numbers for them are kept
        size_t segments;              // how many those are
        uint64_t key[max_buffers];    // of its random bits, except for the block
        double factor;                // of the gradient
        Publish publish;              // as in Choice
        unsigned used;                // which states, a bit each
        bool direct;                  // as in Choice
        bool whole;                   // and there is nothing to do block by block
    };
    struct Resolved {
        const Kernel* kernel = nullptr;
        int64_t t = 0;
        bool first = false;
        size_t scalars = 0;
    };
    struct Gathered {
        double sum[max_gathered] = {};
    };
    Flat flat;
    std::vector<Choice> choices;
    std::vector<Active> active;
    std::vector<Scalars> scalars;
    std::vector<Resolved> resolved;                         // the last of each group
    std::vector<Sums> sums;                                 // of each segment, or sampled block
    std::vector<Gathered> gathered;                         // of each segment
    std::vector<Gathered> totals;                           // of each tensor
    std::vector<double> row_sums, column_sums, relative;    // see factored.hpp
    bool segmented = false;    // cut at segments, since something is summed
};

// Chooses the kernel of a tensor with a gradient stored so; options: the optional states in use.
Choice choose(const Table& table, const RuleInfo& rule, const Tensor& tensor, int gradient,
              unsigned options, bool clips);

// How many elements a tensor's gradient has.
inline int64_t elements_of(const Tensor& tensor, const Gradient& gradient) {
    return gradient.rows ? gradient.rows->elements() : tensor.n;
}

// Which of a tensor's states a kernel with these options uses, a bit each.
unsigned used_states(const RuleInfo& rule, const Tensor& tensor, unsigned options);

void add(const Sums& part, Sums& total);

enum class Pass { gather, update };

// Each tensor's update, or first pass.
class Walk {
public:
    Walk(const Table& table, const std::vector<Tensor>& tensors,
         const std::vector<Gradient>& gradients, const std::vector<Group>& groups,
         const Settings& settings, Scratch& scratch)
        : table_(table), tensors_(tensors), gradients_(gradients), groups_(groups),
          settings_(settings), scratch_(scratch) {}

    void run(const Scratch::Active& active, int64_t first, int64_t end, Pass pass) const;

private:
    template <class T> friend class Block;

    const Table& table_;
    const std::vector<Tensor>& tensors_;
    const std::vector<Gradient>& gradients_;
    const std::vector<Group>& groups_;
    const Settings& settings_;
    Scratch& scratch_;

    bool is_sampled(int64_t index) const {
        return settings_.measure == Settings::sample && index % settings_.sample_every == 0;
    }
    const RuleInfo& rule_of(const Tensor& tensor) const {
        return *groups_[size_t(tensor.group)].rule;
    }
    // A run of elements of a tensor, and where its gradient begins among those that there are.
    struct Run {
        int64_t first, n, in_gradient;
    };

    void run_rows(const Scratch::Active& active, int64_t first, int64_t end) const;
    Piece piece_of(const Tensor& tensor, int64_t first, int64_t n) const;
    Published published(const Tensor& tensor, int64_t first) const;
    void whole(const Scratch::Active& active, const Run& run, GatherLanes& gathered,
               Pass pass) const;
    void visit(const Scratch::Active& active, const Run& run, bool measured, LaneSums& sums,
               GatherLanes& gathered, Pass pass) const;
    template <class T> void visit_as(const Scratch::Active& active, const Run& run, bool measured,
                                     LaneSums& sums, GatherLanes& gathered, Pass pass) const;
    void keep(const Scratch::Active& active, int64_t end, bool is_end, LaneSums& sums,
              GatherLanes& gathered, Pass pass) const;
};

// What random bits start from: the tensor's and buffer's part, and with the block's the key.
uint64_t random_base(uint64_t seed, int64_t t, uint64_t key, int buffer);
RandomKey random_key(uint64_t base, int64_t element);    // of a run that begins at the element

}    // namespace gradstep::pipeline
