#include "flat.hpp"

#include <algorithm>

namespace gradstep {

namespace {
// What a tensor costs besides its elements, in elements: finding it, resolving, the loop's ends.
constexpr int64_t tensor_cost = 64;
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

}    // namespace gradstep
