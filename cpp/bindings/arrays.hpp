// How the bindings look into a NumPy array: by its fields, since a call per array would cost more
// than the update of a small one. What is wrong with an array that is refused here is said by
// python/gradstep/arrays.py, which checks the same things and words the error.
#pragma once
#include <pybind11/numpy.h>

#include <algorithm>
#include <string>

#include "../dispatch.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

// A plain view of an array object, valid as long as the object.
class ArrayView {
public:
    ArrayView() = default;
    explicit ArrayView(PyObject* object)
        : array_(reinterpret_cast<const py::detail::PyArray_Proxy*>(object)) {}

    // Where a plan finds views: the same form as that of tensors of other frameworks, dlpack.hpp.
    struct Source {
        ArrayView operator()(py::handle object) const {
            if (!py::isinstance<py::array>(object)) throw py::type_error("an array is wanted");
            return ArrayView(object.ptr());
        }
        bool look(PyObject* object, ArrayView& view) const {
            view = ArrayView(object);
            return true;
        }
        static bool is_exact(PyObject*, const ArrayView&) { return true; }
        static bool has_memory(PyObject*, const ArrayView&) { return true; }
        static bool is_plain(PyObject* object) {
            return Py_TYPE(object) == py::detail::npy_api::get().PyArray_Type_;
        }
        // Looking closely costs nothing here, so nothing is kept for a shortcut.
        struct Image {
            static void forget() {}
        };
        static void keep(PyObject*, const ArrayView&, Image&) {}
        static bool is_same(PyObject*, const Image&) { return false; }
        static char* find_alike(PyObject*, const Image&) { return nullptr; }
        static bool is_alone(PyObject*) { return false; }
    };

    char* data() const { return array_->data; }
    int ndim() const { return array_->nd; }

    int64_t length(int dimension) const { return array_->dimensions[dimension]; }

    int64_t size() const {
        int64_t n = 1;
        for (int i = 0; i < array_->nd; ++i) n *= array_->dimensions[i];
        return n;
    }

    // How many bits, if these are signed integers; 0: they are not.
    int integer_bits() const {
        return descr()->kind == 'i'
                   ? 8 * int(py::reinterpret_borrow<py::dtype>(array_->descr).itemsize())
                   : 0;
    }

    bool same_shape(const ArrayView& other) const {
        return std::equal(array_->dimensions, array_->dimensions + array_->nd,
                          other.array_->dimensions, other.array_->dimensions + other.array_->nd);
    }

    template <class Take> void form(Take&& take) const {
        std::for_each(array_->dimensions, array_->dimensions + array_->nd, take);
    }

    static bool in_c_order() { return true; }    // as all that is writable

    int type() const { return descr()->type_num; }
    bool same_dtype(const ArrayView& other) const { return type() == other.type(); }

    bool has_dtype(const py::dtype& dtype) const { return type() == dtype.num(); }

    bool readable() const { return has(contiguous | aligned) && native(); }
    bool writable() const { return has(contiguous | aligned | writeable) && native(); }

    // The index of the storage whose name the dtype has; -1: none.
    int storage(const Table& table) const {
        const std::string name = py::str(py::handle(array_->descr).attr("name"));
        const int i = find_storage(table, name);
        return i >= 0 && (table.storages[i].roles & as_gradient) ? i : -1;
    }

    static constexpr int float32 = py::detail::npy_api::NPY_FLOAT_;
    bool is_number(int type) const { return ndim() == 0 && this->type() == type; }

    int64_t bytes() const {
        return size() * py::reinterpret_borrow<py::dtype>(array_->descr).itemsize();
    }

private:
    static constexpr int contiguous = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
    static constexpr int aligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    static constexpr int writeable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

    static constexpr char foreign = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '>' : '<';

    const py::detail::PyArray_Proxy* array_ = nullptr;

    const py::detail::PyArrayDescr_Proxy* descr() const {
        return py::detail::array_descriptor_proxy(array_->descr);
    }
    bool has(int flags) const { return (array_->flags & flags) == flags; }
    // The native order has two spellings: '=' and the one that names it.
    bool native() const { return descr()->byteorder != foreign; }
};

}    // namespace gradstep::bindings
