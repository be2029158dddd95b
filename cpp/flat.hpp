// Flattens a list of lengths, so that it can be cut anywhere into equal shares of work.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "table.hpp"

namespace gradstep {

// The unit of sums: fixed, so that the order of additions does not follow the threads.
constexpr int64_t segment_elements = 128 * block_elements;

// How many segments n elements lie in that begin at `start` of a larger tensor.
inline int64_t segments(int64_t n, int64_t start) {
    return (start % segment_elements + n + segment_elements - 1) / segment_elements;
}

// Cuts fall on multiples of `unit`, counted from the start of the tensor that an item is a shard
// of.
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
    std::vector<int64_t> begin_{0};    // in elements, and a few more per tensor for its own cost
};

}    // namespace gradstep
