// A step over many tensors: tensors -> chunks -> threads -> blocks -> stages.
// Knows pointers and sizes; nothing of Python and nothing of how threads are run.
#pragma once
#include <functional>
#include <vector>

#include "walk.hpp"

namespace gradstep::pipeline {

// What is called between the passes of rules that have two, if it is there. Each gets a row of
// max_gathered sums for each tensor, to be changed in place.
struct Between {
    // Adds up over processes: once for the rules with a direction, and once for all others that
    // have two passes, if a tensor of such a rule has a gradient and is not frozen.
    std::function<void(double* sums)> add_up;
    // After the first of these calls: replaces the directions. If it throws, nothing has changed.
    std::function<void(double* sums)> redirect;
};

struct Result {
    int64_t not_finite;      // the first tensor with such a gradient: nothing was written; -1: none
    double gradient_norm;    // before clipping, unscaled; NaN where nothing wanted it
};

// One update of every tensor that has a gradient and whose group is not frozen.
// counts: the updates each tensor has had so far. group_sums: one entry per group, filled if
// settings.measure is set. For a sample, all sums except ratio and count are extrapolated to all
// blocks. gradients: those of some rows are coalesced.
Result step(const Table& table, std::vector<Tensor>& tensors, std::vector<Gradient>& gradients,
            const int64_t* counts, const std::vector<Group>& groups, const Settings& settings,
            Scratch& scratch, Sums* group_sums, const Between& between = {});

// The point to evaluate of a tensor, rounded to nearest, into memory as its parameter has it (its
// upper half, where it is split). The tensor's rule must have one.
void show(const Table& table, const Tensor& tensor, const Group& group, void* out);

struct Span {
    const void* data;
    int64_t n;
    int storage;
};

// The sum of all squares, in double: the same bits on any threads and target. With a scale, a power
// of two, each number is multiplied by it first, so that squares neither overflow nor vanish.
double sum_squares(const Table& table, const std::vector<Span>& spans, double scale = 1);
// What is added up to that, one after the other.
std::vector<double> segment_sums(const Table& table, const std::vector<Span>& spans,
                                 double scale = 1);
// The root of it, also where squares overflow.
double norm(const Table& table, const std::vector<Span>& spans);
// By what numbers are multiplied before they are squared, where plain squares overflow.
constexpr double overflow_scale = 0x1p-600;

// Moves the bytes of a pass without its arithmetic: the floor to hold a step against.
struct Streams {
    std::vector<float*> changed;    // read and written
    std::vector<const float*> read;
    int64_t n;
};
void move(const Table& table, const Streams& streams);

}    // namespace gradstep::pipeline
