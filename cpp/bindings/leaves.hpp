// The parameters that a step updates, as another framework holds them: their gradients, and that it
// is told what was written.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
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

// Which parameters are in which of a framework's groups, to find out whether anyone changed that.
class Membership {
public:
    // only: the tensor that matters; None: all do.
    Membership(const py::list& groups, py::object only)
        : groups_(groups.attr("copy")()), only_(std::move(only)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(groups.ptr()); ++i) {
            const py::list params = groups[size_t(i)][key()];
            if (only_.is_none()) lists_.emplace_back(params.attr("copy")());
            for (Py_ssize_t j = 0; !only_.is_none() && j < PyList_GET_SIZE(params.ptr()); ++j)
                if (PyList_GET_ITEM(params.ptr(), j) == only_.ptr()) places_.emplace_back(i, j);
        }
    }

    // Whether these are the same groups of the same tensors in the same order, all by identity.
    bool holds(const py::object& groups) const {
        if (!are_same(groups_, groups.ptr())) return false;
        for (size_t i = 0; i < lists_.size(); ++i)
            if (!are_same(lists_[i], params_of(Py_ssize_t(i)))) return false;
        for (auto [i, j] : places_) {
            PyObject* const params = params_of(i);
            if (!params || !PyList_Check(params) || j >= PyList_GET_SIZE(params) ||
                PyList_GET_ITEM(params, j) != only_.ptr())
                return false;
        }
        return true;
    }

private:
    py::list groups_;
    py::object only_;
    std::vector<py::list> lists_;                              // of all groups, or none
    std::vector<std::pair<Py_ssize_t, Py_ssize_t>> places_;    // of the only one

    static const py::object& key() {
        static const py::object* const text =
            new py::object(py::reinterpret_steal<py::object>(PyUnicode_InternFromString("params")));
        return *text;
    }
    PyObject* params_of(Py_ssize_t i) const {
        return PyDict_GetItem(PyList_GET_ITEM(groups_.ptr(), i), key().ptr());
    }
    static bool are_same(const py::list& kept, PyObject* list) {
        const Py_ssize_t count = PyList_GET_SIZE(kept.ptr());
        if (!list || !PyList_Check(list) || PyList_GET_SIZE(list) != count) return false;
        for (Py_ssize_t i = 0; i < count; ++i)
            if (PyList_GET_ITEM(kept.ptr(), i) != PyList_GET_ITEM(list, i)) return false;
        return true;
    }
};

}    // namespace gradstep::bindings
