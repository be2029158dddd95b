// The parameters that a step updates, as another framework holds them: their gradients, and that it
// is told what was written.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <unordered_set>
#include <utility>
#include <vector>

namespace gradstep::bindings {
namespace py = pybind11;

class Leaves {
public:
    // grad: the attribute of that name of the plain type, got at less cost where a tensor's type
    // has no other. handle: where the framework's own tensor lies in a tensor's object, in bytes,
    // for `bump`, its C++ function that counts that a tensor was written; 0: it is not known.
    Leaves(py::list tensors, py::object grad, int handle, uintptr_t bump)
        : tensors_(std::move(tensors)), grad_(std::move(grad)), handle_(handle),
          bump_(reinterpret_cast<Bump>(bump)) {}

    py::list gradients() const {
        const Py_ssize_t count = PyList_GET_SIZE(tensors_.ptr());
        py::list found(count);
        const PyGetSetDef* const get =
            Py_IS_TYPE(grad_.ptr(), &PyGetSetDescr_Type)
                ? reinterpret_cast<PyGetSetDescrObject*>(grad_.ptr())->d_getset
                : nullptr;
        const PyTypeObject* plain = nullptr;    // a type whose attribute it is
        for (Py_ssize_t i = 0; i < count; ++i) {
            PyObject* const tensor = PyList_GET_ITEM(tensors_.ptr(), i);
            if (get && Py_TYPE(tensor) != plain && has_plain(Py_TYPE(tensor)))
                plain = Py_TYPE(tensor);
            PyObject* const gradient = Py_TYPE(tensor) == plain ? get->get(tensor, get->closure)
                                                                : PyObject_GetAttr(tensor, name());
            if (!gradient) throw py::error_already_set();
            PyList_SET_ITEM(found.ptr(), i, gradient);
        }
        return found;
    }

    // Counts that those with a gradient were written. False: not all, the caller has to.
    bool note_written(const py::list& gradients) const {
        const Py_ssize_t count = PyList_GET_SIZE(tensors_.ptr());
        if (!bump_ || PyList_GET_SIZE(gradients.ptr()) != count) return false;
        try {
            for (Py_ssize_t i = 0; i < count; ++i)
                if (PyList_GET_ITEM(gradients.ptr(), i) != Py_None)
                    bump_(reinterpret_cast<char*>(PyList_GET_ITEM(tensors_.ptr(), i)) + handle_);
        } catch (...) {
            return false;
        }
        return true;
    }

private:
    using Bump = void (*)(const void* tensor);
    py::list tensors_;
    py::object grad_;
    int handle_;
    Bump bump_;

    static PyObject* name() {
        static PyObject* const text = PyUnicode_InternFromString("grad");
        return text;
    }
    bool has_plain(PyTypeObject* type) const {
        if (type->tp_getattro != PyObject_GenericGetAttr) return false;
        const auto found = py::reinterpret_steal<py::object>(
            PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name()));
        if (!found) PyErr_Clear();
        return found.is(grad_);
    }
};

// What stands in a group of a framework's under some keys. Its owner, which the collector of cycles
// can look into, holds the dictionary and the values; here they are known by where they lie.
class Entry {
public:
    Entry(const py::dict& source, const py::tuple& keys) : source_(source.ptr()) {
        for (py::handle key : keys) keys_.push_back(py::reinterpret_borrow<py::object>(key));
    }

    // Notes the values as they are now, with an Ellipsis for each that is missing. None in place of
    // the values: some of them can change in place, so that noting them would prove nothing.
    void note(const py::object& values) {
        seen_.clear();
        if (values.is_none()) return;
        for (py::handle value : py::reinterpret_borrow<py::tuple>(values))
            seen_.push_back(value.is(py::ellipsis()) ? nullptr : value.ptr());
        if (seen_.size() != keys_.size()) throw py::value_error("Entry: a value for each key");
    }

    // Whether they are the same objects.
    bool is_same() const {
        if (seen_.size() != keys_.size()) return false;
        for (size_t i = 0; i < keys_.size(); ++i)
            if (PyDict_GetItem(source_, keys_[i].ptr()) != seen_[i]) return false;
        return true;
    }

private:
    PyObject* source_;
    std::vector<py::object> keys_;
    std::vector<PyObject*> seen_;
};

// Which parameters are in which of a framework's groups, and what else stands in those: to find out
// whether anyone changed it. Its owner holds all that is given here.
class Membership {
public:
    enum Found { changed, other_values, unchanged };

    // groups; the tensors of each; and the entries. only: a list of the tensors that matter; None:
    // all do.
    Membership(const py::list& groups, const py::list& tensors, const py::object& only,
               const py::list& entries) {
        std::unordered_set<PyObject*> some;
        if (!only.is_none())
            for (py::handle tensor : only) some.insert(tensor.ptr());
        for (py::handle group : groups) groups_.push_back(group.ptr());
        for (py::handle entry : entries) entries_.push_back(entry.cast<const Entry*>());
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tensors.ptr()); ++i) {
            std::vector<PyObject*> list;
            for (py::handle tensor : py::reinterpret_borrow<py::list>(tensors[size_t(i)])) {
                if (some.count(tensor.ptr()))
                    places_.push_back({i, Py_ssize_t(list.size()), tensor.ptr()});
                list.push_back(tensor.ptr());
            }
            if (only.is_none()) lists_.push_back(std::move(list));
        }
    }

    // Whether these are the same groups of the same tensors in the same order, all by identity, and
    // whether the entries' values are.
    Found look(const py::object& groups) const {
        if (!are_same(groups_, groups.ptr())) return changed;
        for (size_t i = 0; i < lists_.size(); ++i)
            if (!are_same(lists_[i], params_of(Py_ssize_t(i)))) return changed;
        for (const Place& place : places_) {
            PyObject* const params = params_of(place.group);
            if (!params || !PyList_Check(params) || place.index >= PyList_GET_SIZE(params) ||
                PyList_GET_ITEM(params, place.index) != place.tensor)
                return changed;
        }
        for (const Entry* entry : entries_)
            if (!entry->is_same()) return other_values;
        return unchanged;
    }

private:
    struct Place {
        Py_ssize_t group, index;
        PyObject* tensor;
    };
    std::vector<PyObject*> groups_;
    std::vector<std::vector<PyObject*>> lists_;    // of all groups, or none
    std::vector<Place> places_;                    // of those that matter, if not all do
    std::vector<const Entry*> entries_;

    static const py::object& key() {
        static const py::object* const text =
            new py::object(py::reinterpret_steal<py::object>(PyUnicode_InternFromString("params")));
        return *text;
    }
    PyObject* params_of(Py_ssize_t i) const {
        return PyDict_GetItem(groups_[size_t(i)], key().ptr());
    }
    static bool are_same(const std::vector<PyObject*>& kept, PyObject* list) {
        if (!list || !PyList_Check(list) || size_t(PyList_GET_SIZE(list)) != kept.size())
            return false;
        for (size_t i = 0; i < kept.size(); ++i)
            if (kept[i] != PyList_GET_ITEM(list, Py_ssize_t(i))) return false;
        return true;
    }
};

}    // namespace gradstep::bindings
