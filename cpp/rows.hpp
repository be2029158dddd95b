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

    // Brings the rows into their order. What was given several times for one row is added up in the
    // order given, in the compute type: each number is rounded to it and added to those before.
    // Returns the values of the rows in order: the given ones, if the rows were coalesced already.
    Values coalesce(const Table& table, Compute compute);

    // How many elements the coalesced rows have together.
    int64_t elements() const { return int64_t(rows_.size()) * width; }
    // Where element `at` of the coalesced values lies in the tensor, and how many elements from it
    // on, before `end`, follow each other there as they do here.
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
