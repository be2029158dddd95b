#include "rows.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace gradstep {

bool Rows::is_coalesced() const {
    for (size_t i = 1; i < given.size(); ++i)
        if (given[i] <= given[i - 1]) return false;
    return true;
}

// Equal rows keep their order: the place is the second key.
void Rows::sort() {
    order_.clear();
    for (size_t i = 0; i < given.size(); ++i) order_.emplace_back(given[i], int64_t(i));
    std::sort(order_.begin(), order_.end());
    rows_.clear();
    first_.clear();
    for (size_t i = 0; i < order_.size(); ++i) {
        if (i > 0 && order_[i].first == order_[i - 1].first) continue;
        rows_.push_back(order_[i].first);
        first_.push_back(i);
    }
    first_.push_back(order_.size());
}

template <class T> void Rows::add_up_row(const StorageInfo& stored, size_t row, T* out) const {
    constexpr Compute compute = sizeof(T) == sizeof(double) ? double_precision : single_precision;
    alignas(64) T next[block_elements];
    for (int64_t at = 0; at < width; at += block_elements) {
        const int64_t n = std::min(block_elements, width - at);
        for (size_t k = first_[row]; k < first_[row + 1]; ++k) {
            const int64_t element = order_[k].second * width + at;
            T* const to = k == first_[row] ? out + at : next;
            stored.decode[compute](static_cast<char*>(values) + stored.offset(element), nullptr,
                                   Role::momentum, n, to);
            for (int64_t i = 0; to == next && i < n; ++i) out[at + i] += next[i];
        }
    }
}

template <class T> void Rows::add_up(const StorageInfo& stored, T* out) const {
    const int64_t bytes =
        int64_t(given.size()) * stored.offset(width) + elements() * int64_t(sizeof(T));
    const int64_t chunks = parallel::chunks_for(bytes), count = int64_t(rows_.size());
    parallel::for_chunks(chunks, bytes, [&](int64_t chunk) {
        const int64_t end = count * (chunk + 1) / chunks;
        for (int64_t row = count * chunk / chunks; row < end; ++row)
            add_up_row(stored, size_t(row), out + row * width);
    });
}

Rows::Values Rows::coalesce(const Table& table, Compute compute) {
    if (is_coalesced() || width == 0) {
        rows_ = given;
        return {values, storage};
    }
    sort();
    if (sums_.size() < size_t(elements())) sums_.resize(size_t(elements()));
    if (compute == double_precision)
        add_up(table.storages[storage], sums_.data());
    else
        add_up(table.storages[storage], reinterpret_cast<float*>(sums_.data()));
    const char* const plain = compute == double_precision ? "float64" : "float32";
    return {sums_.data(), find_storage(table, plain)};
}

Rows::Run Rows::run(int64_t at, int64_t end) const {
    size_t row = size_t(at / width);
    const int64_t within = at % width;
    Run found = {rows_[row] * width + within, width - within};
    for (; at + found.n < end && rows_[row + 1] == rows_[row] + 1; ++row) found.n += width;
    found.n = std::min(found.n, end - at);
    return found;
}

}    // namespace gradstep
