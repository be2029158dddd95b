// The walk of a step over many tensors: tensors -> chunks -> threads -> pieces -> kernels.
// Knows pointers and sizes; nothing of Python and nothing of how threads are run.
#pragma once
#include <vector>

#include "table.hpp"

namespace gradstep::pipeline {

// One parameter and its states; stays the same from step to step.
struct Tensor {
    void* p = nullptr;
    void* state[max_states] = {};
    int64_t n = 0;
    int storage = 0;         // index into Table::storages
    unsigned options = 0;    // which optional states it has
    int group = 0;
};

// What a group's parameters share in one step.
struct Group {
    const double* hyper;
    double gradient_factor;
    bool frozen;
};

// Flattens a list of lengths, so that it can be cut anywhere into equal shares of work. Cuts fall
// on block boundaries counted from each tensor's start, wherever the tensor lies in the list.
class Flat {
public:
    struct Cut {
        size_t item;
        int64_t element;
    };

    void clear();
    void add(int64_t n);
    int64_t total() const { return start_.back(); }
    Cut cut(int64_t share, int64_t shares) const;    // the beginning of a share; shares: the end

    // f(item, first element, end element) for each run of elements in the share.
    template <class F> void each(int64_t share, int64_t shares, const F& f) const {
        Cut from = cut(share, shares), to = cut(share + 1, shares);
        for (size_t item = from.item; item <= to.item && item < size_.size(); ++item) {
            int64_t first = item == from.item ? from.element : 0;
            int64_t end = item == to.item ? to.element : size_[item];
            if (first < end) f(item, first, end);
        }
    }

private:
    std::vector<int64_t> size_;
    std::vector<int64_t> start_{0};    // in elements, and a few more a tensor for its own cost
};

// What a step needs besides its arguments; kept by the caller so that a step allocates nothing.
struct Scratch {
    struct alignas(double) Scalars {
        unsigned char bytes[max_scalar_bytes];
    };
    struct Active {
        size_t tensor;
        const Kernel* kernel;
        size_t scalars;
    };
    struct Resolved {
        const Kernel* kernel = nullptr;
        int64_t t = 0;
        size_t scalars = 0;
    };
    Flat flat;
    std::vector<Active> active;
    std::vector<Scalars> scalars;
    std::vector<Resolved> resolved;    // the last of each group
};

// One update of every tensor that has a gradient (not null) and whose group is not frozen.
// counts: the updates each tensor has had so far.
void step(const Table& table, const RuleInfo& rule, const std::vector<Tensor>& tensors,
          const std::vector<const void*>& gradients, const int64_t* counts,
          const std::vector<Group>& groups, Scratch& scratch);

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
