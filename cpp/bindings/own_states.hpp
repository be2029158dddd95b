// What is kept for each tensor where others can reach and replace it: in a dictionary, by the names
// of checkpoints, with the tensor's count as `step`.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
#include <vector>

#include "../table.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

// A dictionary finds its own key object without comparing texts.
inline py::object interned(const char* text) {
    return py::reinterpret_steal<py::object>(PyUnicode_InternFromString(text));
}

// The shapes and strides of arrays, one behind the other.
template <class View> class Forms {
public:
    void add(const View& array) {
        array.form([&](int64_t number) { numbers_.push_back(number); });
        ends_.push_back(numbers_.size());
    }
    bool same(size_t i, const View& array) const {
        size_t at = i ? ends_[i - 1] : 0;
        bool is_same = true;
        array.form([&](int64_t number) {
            is_same = is_same && at < ends_[i] && numbers_[at] == number;
            ++at;
        });
        return is_same && at == ends_[i];
    }

private:
    std::vector<int64_t> numbers_;
    std::vector<size_t> ends_;
};

// How an array must lie: as the parameter does, in blocks that follow the C order of elements, or
// anyhow, being a number.
enum class Layout { as_parameter, in_blocks, number };

template <class View> class OwnStates {
public:
    static constexpr int64_t count_limit = 1 << 24;    // up to which every integer is a float

    explicit OwnStates(const typename View::Source& view) : view_(view) {}

    bool empty() const { return own_.empty(); }

    void add(const py::dict& by_name, const View& param) {
        own_.push_back({by_name, {}, nullptr});
        forms_.add(param);
    }

    // An array of the tensor that was added last.
    void add_array(const char* name, PyObject* object, const View& array, Layout layout) {
        own_.back().arrays.push_back(
            {interned(name), object, array.data(), array.bytes(), array.type(), layout});
    }

    bool same_form(size_t i, const View& param) const { return forms_.same(i, param); }

    // Whether what is kept in the tensor's dictionary is what it was; reads its count.
    bool is_still(size_t i, const View& param, int64_t& count) {
        for (const Array& array : own_[i].arrays) {
            PyObject* const object = PyDict_GetItem(own_[i].by_name.ptr(), array.name.ptr());
            if (!object || !view_.is_plain(object)) return false;
            View now;
            if (!view_.look(object, now) || now.data() != array.data ||
                !lies_right(array, now, param))
                return false;
        }
        return read_count(i, count);
    }

    bool read_count(size_t i, int64_t& kept) {
        PyObject* const object = PyDict_GetItem(own_[i].by_name.ptr(), step_name_.ptr());
        if (!object || !view_.is_plain(object)) return false;
        View count;
        if (!view_.look(object, count) || !count.is_number(View::float32) || !count.writable())
            return false;
        own_[i].step = reinterpret_cast<float*>(count.data());
        const float value = *own_[i].step;
        if (!(value >= 0 && value <= float(count_limit)) || value != float(int64_t(value)))
            return false;
        // A float cannot count on from there; nothing depends on the count any more.
        if (value < float(count_limit) || kept < count_limit) kept = int64_t(value);
        return true;
    }

    void write_counts(const int64_t* counts) {
        for (size_t i = 0; i < own_.size(); ++i)
            *own_[i].step = float(std::min(counts[i], count_limit));
    }

    // Returns all state tensors, or None if anyone else may reference one. Expected references: to
    // each dictionary this one plus `known` others; to each tensor its dictionary, and this plan
    // except for counts.
    py::object unshared(int known) const {
        py::list kept;
        for (const Own& own : own_) {
            PyObject* const dictionary = own.by_name.ptr();
            // Others could be reached by weak references.
            if (!PyDict_CheckExact(dictionary) || Py_REFCNT(dictionary) != 1 + known)
                return py::none();
            auto take = [&](const py::object& name, PyObject* mine) {
                PyObject* const object = PyDict_GetItem(dictionary, name.ptr());
                if (!object || !view_.is_plain(object) || (mine && object != mine) ||
                    Py_REFCNT(object) != (mine ? 2 : 1))
                    return false;
                kept.append(py::handle(object));
                return true;
            };
            for (const Array& array : own.arrays)
                if (!take(array.name, array.object)) return py::none();
            if (!take(step_name_, nullptr)) return py::none();
        }
        return kept;
    }

private:
    struct Array {
        py::object name;
        PyObject* object;    // which the plan holds
        const char* data;
        int64_t bytes;
        int type;
        Layout layout;
    };
    struct Own {
        py::dict by_name;
        std::vector<Array> arrays;
        float* step;    // its count, in this very call
    };

    const typename View::Source& view_;
    const py::object step_name_ = interned("step");
    std::vector<Own> own_;
    Forms<View> forms_;    // of the parameters

    static bool lies_right(const Array& array, const View& now, const View& param) {
        if (array.layout == Layout::as_parameter)
            return now.same_shape(param) && now.type() == array.type;
        return now.bytes() == array.bytes && now.type() == array.type && now.writable() &&
               (array.layout == Layout::number || param.in_c_order());
    }
};

}    // namespace gradstep::bindings
