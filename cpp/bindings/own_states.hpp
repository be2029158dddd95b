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

// How an array must lie: as the parameter does; in blocks, which follow the C order of elements; in
// C order, as numbers for rows and columns; or anyhow, as a single number does.
enum class Layout { as_parameter, in_blocks, by_rows, number };

template <class View> class OwnStates {
public:
    static constexpr int64_t count_limit = 1 << 24;    // up to which every integer is a float

    using Image = typename View::Source::Image;

    explicit OwnStates(typename View::Source& view) : view_(view) {}

    bool empty() const { return own_.empty(); }

    void add(const py::dict& by_name, const View& param) {
        own_.push_back({by_name, {}, nullptr, {}});
        forms_.add(param);
    }

    // An array of the tensor that was added last.
    void add_array(const char* name, PyObject* object, const View& array, Layout layout) {
        own_.back().arrays.push_back(
            {interned(name), object, array.data(), array.bytes(), array.type(), layout, {}});
    }

    bool same_form(size_t i, const View& param) const { return forms_.same(i, param); }

    // What was seen of a tensor's arrays no longer stands, since the parameter is another.
    void forget(size_t i) {
        if (own_.empty()) return;
        for (Array& array : own_[i].arrays) array.seen.forget();
    }

    // Whether what is kept in the tensor's dictionary is what it was; reads its count.
    bool is_still(size_t i, PyObject* param, int64_t& count) {
        for (Array& array : own_[i].arrays) {
            PyObject* const object = PyDict_GetItem(own_[i].by_name.ptr(), array.name.ptr());
            if (!object || !view_.is_plain(object)) return false;
            if (view_.is_same(object, array.seen)) continue;
            View now, like;
            if (!view_.look(object, now) || now.data() != array.data || !view_.look(param, like) ||
                !lies_right(array, now, like))
                return false;
            view_.keep(object, now, array.seen);
        }
        return read_count(i, count);
    }

    bool read_count(size_t i, int64_t& kept) {
        PyObject* const object = PyDict_GetItem(own_[i].by_name.ptr(), step_name_.ptr());
        if (!object || !view_.is_plain(object)) return false;
        if (!view_.is_same(object, own_[i].seen_step)) {
            View count;
            if (!view_.look(object, count) || !count.is_number(View::float32) || !count.writable())
                return false;
            own_[i].step = reinterpret_cast<float*>(count.data());
            view_.keep(object, count, own_[i].seen_step);
        }
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

    // Whether nobody else can reach a state. `known`: how many hold each dictionary besides this.
    // Who holds one state often does so for long: the search begins where it ended last.
    bool are_alone(int known) {
        for (size_t k = 0; k < own_.size(); ++k) {
            const size_t i = (first_shared_ + k) % own_.size();
            const bool alone =
                visit(own_[i], known, [&](PyObject* object) { return view_.is_alone(object); });
            if (alone) continue;
            first_shared_ = i;
            return false;
        }
        return true;
    }

    // The same as far as Python's references tell: all state tensors, or None if anyone else may
    // reference one.
    py::object unshared(int known) const {
        py::list kept;
        for (const Own& own : own_) {
            const bool alone = visit(own, known, [&](PyObject* object) {
                kept.append(py::handle(object));
                return true;
            });
            if (!alone) return py::none();
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
        Image seen;    // when it was last looked at closely, beside the parameter as it is
    };
    struct Own {
        py::dict by_name;
        std::vector<Array> arrays;
        float* step;    // its count, in this very call
        Image seen_step;
    };

    typename View::Source& view_;
    const py::object step_name_ = interned("step");
    std::vector<Own> own_;
    Forms<View> forms_;          // of the parameters
    size_t first_shared_ = 0;    // a tensor whose states somebody else held; or any

    // Calls visit with each state as long as that returns true. Expected references: to the
    // dictionary this one plus `known` others; to each tensor its dictionary, and this plan except
    // for counts.
    template <class Visit> bool visit(const Own& own, int known, Visit&& visit) const {
        PyObject* const dictionary = own.by_name.ptr();
        // Others could be reached by weak references.
        if (!PyDict_CheckExact(dictionary) || Py_REFCNT(dictionary) != 1 + known) return false;
        auto visit_one = [&](const py::object& name, PyObject* mine) {
            PyObject* const object = PyDict_GetItem(dictionary, name.ptr());
            return object && view_.is_plain(object) && (!mine || object == mine) &&
                   Py_REFCNT(object) == (mine ? 2 : 1) && visit(object);
        };
        for (const Array& array : own.arrays)
            if (!visit_one(array.name, array.object)) return false;
        return visit_one(step_name_, nullptr);
    }

    static bool lies_right(const Array& array, const View& now, const View& param) {
        if (array.layout == Layout::as_parameter)
            return now.same_shape(param) && now.type() == array.type;
        return now.bytes() == array.bytes && now.type() == array.type && now.writable() &&
               (array.layout == Layout::number || param.in_c_order()) &&
               (array.layout != Layout::by_rows || now.in_c_order());
    }
};

}    // namespace gradstep::bindings
