// A gradient of some rows as Python gives it, and as the core takes it.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "../rows.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

// Arrays or tensors. coalesced: whoever made it says that rows ascend and that each is there once.
struct RowGradient {
    py::object indices, values;
    bool coalesced;
};

// Why a rule cannot step some rows alone, in words; empty: it can.
inline std::string refusal_of_rows(const RuleInfo& rule, const double* hyper) {
    const std::string wanted = ", wanted a gradient of all rows";
    if (!rule.takes_rows) return "got some rows for " + std::string(rule.name) + wanted;
    for (int h = 0; h < rule.hyper_count; ++h)
        if (rule.moves_every_row >> h & 1 && hyper[h] != 0)
            return "got some rows with " + std::string(rule.hyper_names[h]) + "=" +
                   std::string(py::repr(py::float_(hyper[h]))) + ", which moves all of them" +
                   wanted + " or 0 for it";
    return {};
}

template <class View> void copy_indices(const View& indices, std::vector<int64_t>& given) {
    given.resize(size_t(indices.size()));
    if (given.empty()) return;
    if (indices.integer_bits() == 64) {
        std::memcpy(given.data(), indices.data(), given.size() * sizeof(int64_t));
    } else {
        const int32_t* const narrow = reinterpret_cast<const int32_t*>(indices.data());
        std::copy(narrow, narrow + given.size(), given.begin());
    }
}

// Reads what was given as a gradient of some rows; false: it is not one.
template <class View>
bool read_rows(const Table& table, const View& indices, const View& values, Rows& rows) {
    static char nothing;    // arrays without elements may have no address
    const int bits = indices.integer_bits();
    if (indices.ndim() != 1 || (bits != 64 && bits != 32) || !indices.readable() ||
        values.ndim() < 1 || values.length(0) != indices.size() || !values.readable() ||
        !values.in_c_order())
        return false;
    rows.storage = values.storage(table);
    if (rows.storage < 0) return false;
    rows.width = 1;
    for (int i = 1; i < values.ndim(); ++i) rows.width *= values.length(i);
    rows.values = values.size() ? values.data() : &nothing;
    copy_indices(indices, rows.given);
    return true;
}

// What is wrong with the indices for a parameter of so many rows; empty: nothing.
inline std::string refusal_of_indices(const Rows& rows, int64_t height, bool coalesced) {
    for (size_t i = 0; i < rows.given.size(); ++i)
        if (rows.given[i] < 0 || rows.given[i] >= height)
            return "got the row " + std::to_string(rows.given[i]) + " in indices[" +
                   std::to_string(i) + "], wanted rows from 0 up to, not including, " +
                   std::to_string(height);
    if (!coalesced) return {};
    for (size_t i = 1; i < rows.given.size(); ++i)
        if (rows.given[i] <= rows.given[i - 1])
            return "got the row " + std::to_string(rows.given[i]) + " after " +
                   std::to_string(rows.given[i - 1]) +
                   " in a gradient that is said to be coalesced, wanted ascending rows, each once";
    return {};
}

}    // namespace gradstep::bindings
