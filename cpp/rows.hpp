// A gradient of some of a tensor's rows: brought into their order, each row once.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "table.hpp"

namespace gradstep {

class Rows {
public:
    // As they were given: in any order, and a row may be there several times.
    int64_t width = 0;             // elements of a row
    std::vector<int64_t> given;    // which rows
    void* values = nullptr;
    int storage = 0;

    struct Values {
        void* data;
        int storage;
    };
    // A run of elements of the tensor.
    struct Run {
        int64_t element, n;
    };

    bool is_coalesced() const;    // ascending, each once

    // Brings the rows into their order. What was given several times for one is added up in that
    // order, in the compute type: each number is rounded to it, then one is added after the other.
    // The values that belong to the rows then: those that were given, where nothing was to be done.
    Values coalesce(const Table& table, Compute compute);

    // Of the coalesced rows together.
    int64_t elements() const { return int64_t(rows_.size()) * width; }
    // Where an element of the coalesced values is in the tensor, and how many of those up to `end`
    // follow each other there as they do here.
    Run run(int64_t at, int64_t end) const;

private:
    std::vector<int64_t> rows_;
    std::vector<std::pair<int64_t, int64_t>> order_;    // each row with its place among the given
    std::vector<size_t> first_;                         // of each coalesced row in `order_`
    std::vector<double> sums_;                          // of either type

    void sort();
    template <class T> void add_up(const StorageInfo& storage, T* out) const;
    template <class T> void add_up_row(const StorageInfo& storage, size_t row, T* out) const;
};

}    // namespace gradstep
