// What one target offers: a table of plain functions, and each rule's description of itself.
// Everything above the targets reaches the kernels through it and through nothing else.
#pragma once
#include <cstddef>
#include <cstdint>

#include "random.hpp"
#include "rules/state.hpp"

namespace gradstep {

constexpr int64_t block_elements = 512;    // every stream of a block fits the first-level cache
constexpr int max_states = 4;
constexpr int max_options = 2;                 // optional states of one rule
constexpr int max_memory = 4;                  // numbers of a tensor that live from step to step
constexpr int max_gathered = 4;                // sums of a first pass, and the count behind them
constexpr int max_buffers = 1 + max_states;    // what a step writes: the parameter and the states
constexpr size_t max_scalar_bytes = 192;

// A run of elements of one tensor, within a block where a buffer is rounded stochastically or has a
// scale.
struct Piece {
    void* p;
    void* low;    // of a split parameter
    const void* g;
    void* state[max_states];
    int64_t n;
    RandomKey key[max_buffers];    // the parameter's, then the states'
};

// Where a new parameter goes besides: to its average and to a bfloat16 copy.
struct Published {
    void* average;
    double weight;    // of the new parameter in the average
    void* copy;
};
enum PublishedParts { publish_average = 1, publish_copy = 2, publish_kinds = 4 };

// The sums of each sixteenth element, before they are folded into one.
constexpr int lanes = 16;
struct GatherLanes {
    double sum[max_gathered][lanes];
};

// A matrix: its sums of squared gradients and what a rule makes of them.
struct Factoring {
    int64_t rows, columns;
    const double *row_sums, *column_sums;
    void *row, *column;    // the rule's states, in the compute type
    void* relative;        // of each row
};
// Matrices, one behind the other, given by a number for each row and column: an element is the
// product of its two.
struct Factored {
    const void *row, *column;
    int64_t rows, columns;    // of each matrix
};

// The hyperparameters at one update, resolved and rounded into `scalars` (max_scalar_bytes, aligned
// as double). memory: the tensor's, which may change.
using Resolve = void (*)(const double* hyper, const When& when, double* memory, void* scalars);
// One update of a piece. Each gradient is multiplied by `gradient_factor` first (-1: maximize).
using Update = void (*)(const void* scalars, double gradient_factor, const Piece& piece);
// The same, and the new parameter into its average, its copy or both.
using Publish = void (*)(const void* scalars, double gradient_factor, const Piece& piece,
                         const Published& published);
// The first of two passes over a piece: adds to the sums.
using Gather = void (*)(const void* scalars, double gradient_factor, const Piece& piece,
                        GatherLanes& sums);
// Between the passes, once for each tensor: changes its scalars and memory by the sums.
using Settle = void (*)(void* scalars, double* memory, const double* sums);
// Before the first pass, once for each matrix.
using Factor = void (*)(const void* scalars, const Factoring& matrix);

struct Kernel {
    Resolve resolve;
    Update update;    // null: these storages have no loop of their own
    Publish
        publish[publish_kinds];    // the update and these parts in one loop; null: there is none
    Gather gather;                 // null: one pass is enough
    Settle settle;
    Factor factor;    // null: no state has numbers for rows or columns
};

// What a number is computed in: an index wherever there is one function for each.
enum Compute { single_precision, double_precision };
constexpr int compute_types = 2;

struct Coding {
    Role role = Role::momentum;
    bool stochastic = false;
    RandomKey key = {};
};

// What a storage may hold: a bit each, those of states in the order of their roles.
constexpr unsigned as_param = 1, as_gradient = 2;
constexpr unsigned as_role(Role role) { return 4u << int(role); }

struct StorageInfo {
    const char* name;
    unsigned roles;              // what it may hold: as_param and so on
    bool rounds;                 // whether a number may not fit it
    bool stochastic_momentum;    // a momentum is rounded stochastically unless asked otherwise
    int64_t block;               // elements under one scale, 1 if none
    int64_t block_bytes;
    int64_t low_bytes;              // of an element in the second array of a split parameter
    int64_t (*bytes)(int64_t n);    // of n elements, without the second array
    Compute compute;                // what a parameter stored so is computed in
    double epsilon;                 // from 1 to the next number; 0: not for parameters
    // n elements to an array of the compute type and back; blocks begin at the first.
    void (*decode[compute_types])(void* x, void* low, Role role, int64_t n, void* out);
    void (*encode[compute_types])(const void* in, int64_t n, void* x, void* low,
                                  const Coding& coding);
    // Of one block of the walk at most; null for what no gradient is stored in.
    double (*sum_squares)(const void* x, int64_t n);
    bool (*all_finite[compute_types])(const void* x, int64_t n);    // as the compute type

    // Whether such a state is rounded stochastically unless somebody asks for another way.
    bool rounds_stochastically(Role role) const {
        return rounds &&
               (stochastic_by_default(role) || (stochastic_momentum && role == Role::momentum));
    }

    // Where element i begins, the first of a block.
    int64_t offset(int64_t i) const {
        return block == 1 ? i * block_bytes : i / block * block_bytes;
    }
};

// A loop of its own for parameters, gradients and states stored so (indices of storages).
struct Pairing {
    int param, gradient, states;
    bool stochastic_param;
};

// What a rule says of itself.
struct RuleInfo {
    const char* name;
    const char* const* hyper_names;
    int hyper_count;
    const State* states;
    int state_count;
    const char* const* memory_names;
    int memory_count;
    int gathered;     // how many sums its first pass has; 0: it has one pass
    int factored;     // the state that rows and columns stand for; -1: none
    int direction;    // the state that is replaced between the passes; -1: none
    // The hyperparameters that are the same in all groups, since sums are settled once for all
    // tensors of the rule; none: each tensor has sums of its own.
    const char* const* common;
    int common_count;
    bool takes_loss;                    // a step is to be given the loss
    bool scales_moment;                 // its second moment is not of the gradients themselves
    bool takes_sign;                    // a step's size does not depend on the gradient's
    bool takes_rows;                    // it can step some rows alone and leave the others
    unsigned moves_every_row;           // if these hyperparameters are 0: a bit each
    int option_columns[max_options];    // the hyperparameter of each optional state; -1: none
    double (*moment_correction)(const double* hyper, int64_t t);
    // The point to evaluate, from n numbers of the parameter and its states in the compute type;
    // null: the parameter is that point.
    void (*shown[compute_types])(const double* hyper, const void* p, const void* const* states,
                                 int64_t n, void* out);
    const Kernel* kernels;    // per pairing, in the catalogue's order, a row of 1 << max_options

    bool settles_together() const { return common_count > 0; }
    const Kernel& kernel(int pairing, unsigned options) const {
        return kernels[(pairing << max_options) + options];
    }
};

// Sums over elements for the statistics of a step.
struct Sums {
    double raw_gradient;         // g squared, as given
    double update;               // (p - p before) squared
    double param;                // p squared
    double gradient_momentum;    // g m, the gradient as the rule got it, the momentum before
    double momentum;             // m squared
    double gradient;             // g squared, as the rule got it
    double ratio;                // g squared / v, v corrected for its start; 0 where v is
    double elements;
};
constexpr int sum_count = sizeof(Sums) / sizeof(double);
constexpr const char* sum_names[] = {"raw_gradient", "update",   "param", "gradient_momentum",
                                     "momentum",     "gradient", "ratio", "elements"};
static_assert(sizeof sum_names / sizeof *sum_names == sum_count, "a name for each sum");

// The same before they are folded.
struct LaneSums {
    double raw_gradient[lanes], update[lanes], param[lanes], gradient_momentum[lanes],
        momentum[lanes], gradient[lanes], ratio[lanes];
    double elements;
};

struct Measured {
    // The gradient as it was given and as the rule gets it; null momentum or second moment: the
    // rule has none.
    const void *raw, *gradient, *p_before, *p, *momentum, *second_moment;
    int64_t n;
    // Which sums: those of the gradient and the momentum before the rule changes it, or those of
    // the update and what it used.
    enum Part { gradients, updates } part;
};

// What a step does to a block of numbers in its compute type, besides the rule.
struct Stages {
    // out = g * factor, held between -limit and limit
    void (*clip)(const void* g, int64_t n, double factor, double limit, void* out);
    // average += weight * (p - average)
    void (*average)(void* average, const void* p, int64_t n, double weight);
    // out = a - b
    void (*subtract)(const void* a, const void* b, int64_t n, void* out);
    void (*measure)(const Measured& block, LaneSums& sums);    // adds
    // Adds the squares of n numbers of one row, each to its column and to a lane of the row.
    void (*add_squares)(const void* g, int64_t n, double* columns, double* row);
    // out = n elements, from element `first` on
    void (*multiply)(const Factored& matrices, int64_t first, int64_t n, void* out);
};

constexpr size_t max_schedule_bytes = 128;

// A closed form. Steps are integers in doubles, 0 <= t < 2^52.
struct ScheduleInfo {
    const char* name;
    // The arguments, resolved into `schedule` (max_schedule_bytes, aligned as double). They must
    // outlive it. What one target resolved, every target reads.
    void (*resolve)(const double* arguments, int64_t count, void* schedule);
    double (*at)(const void* schedule, double t);
    // out[i] = the value at t[i], and at start + i
    void (*fill)(const void* schedule, const double* t, double* out, int64_t n);
    void (*range)(const void* schedule, double start, double* out, int64_t n);
};

struct Table {
    const char* name;
    const RuleInfo* rules;
    int rule_count;
    const StorageInfo* storages;
    int storage_count;
    const Pairing* pairings;    // the first of each compute type is the plain one
    int pairing_count;
    const Stages* stages;    // one of each compute type
    Sums (*fold)(LaneSums& sums);
    void (*fold_gathered)(GatherLanes& sums, int count, double* totals);    // adds to the totals
    const ScheduleInfo* schedules;
    int schedule_count;
    // Reads and writes some float32 arrays and only reads others, with next to no arithmetic: the
    // bare loop that a pass is compared with. At most max_states + 1 of each, and at least one that
    // is read.
    void (*move)(float* const* changed, int changed_count, const float* const* read, int read_count,
                 int64_t n);
};

}    // namespace gradstep
