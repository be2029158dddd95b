// What one target offers: a table of plain functions and of the rules' own words about themselves.
// Everything above the targets reaches the kernels through it and through nothing else.
#pragma once
#include <cstddef>
#include <cstdint>

#include "rules/state.hpp"

namespace gradstep {

constexpr int64_t block_elements = 512;    // every stream of a block fits the first-level cache
constexpr int max_states = 4;
constexpr int max_options = 2;    // optional states of one rule
constexpr size_t max_scalar_bytes = 128;

// A run of elements of one tensor.
struct Piece {
    void* p;
    const void* g;
    void* state[max_states];
    int64_t n;
};

// The hyperparameters at update t, resolved and rounded into `scalars` (max_scalar_bytes, aligned
// as double).
using Resolve = void (*)(const double* hyper, int64_t t, void* scalars);
// One update of a piece. Each gradient is multiplied by `gradient_factor` first (-1: maximize).
using Update = void (*)(const void* scalars, double gradient_factor, const Piece& piece);

struct Kernel {
    Resolve resolve;
    Update update;
};

struct StorageInfo {
    const char* name;
    int64_t bytes;
    double (*sum_squares)(const void* x, int64_t n);    // of one block at most
};

struct RuleInfo {
    const char* name;
    const char* const* hyper_names;
    int hyper_count;
    const State* states;
    int state_count;
    const Kernel* kernels;    // one row of 1 << max_options a storage, in the catalogue's order

    const Kernel& kernel(int storage, unsigned options) const {
        return kernels[(storage << max_options) + options];
    }
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
    const ScheduleInfo* schedules;
    int schedule_count;
    // Reads and writes `count` float32 arrays and reads g, doing next to nothing: the bare loop
    // that a step's bytes are held against. count is 1 to max_states + 1.
    void (*move)(float* const* arrays, int count, const float* g, int64_t n);
};

}    // namespace gradstep
