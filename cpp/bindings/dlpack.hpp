// How the bindings look into a tensor of another framework: through the table of functions that
// DLPack 1.2 lets a tensor's type offer (`__dlpack_c_exchange_api__`), at the cost of a call and
// without a Python object. PyTorch offers it from 2.10 on.
//
// Of the same form as arrays.hpp's ArrayView, so that a plan can be made of either.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>

#include "../table.hpp"
#include "arrays.hpp"
#include "tensor_memory.hpp"

namespace gradstep::bindings {

// As the standard lays them out, https://dmlc.github.io/dlpack, those fields that are used here.
struct DlTensor {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;    // in elements
    uint64_t byte_offset;
};

struct DlExchange {
    uint32_t major, minor;
    void* previous;
    void *allocate, *export_owned, *import_owned;
    int (*look)(void* object, DlTensor* out);    // 0: done; else a Python error is set
};

// A plain view of a tensor, valid until Python runs again.
class TensorView {
public:
    // Who offers the functions, found once from a type.
    class Source {
    public:
        // handle: where the framework's own tensor lies in a tensor's object, in bytes, for its two
        // functions that tell how many bytes a tensor's memory has and at which element it begins;
        // -1: they are not known.
        explicit Source(const py::type& type, int handle = -1, uintptr_t storage_size = 0,
                        uintptr_t storage_offset = 0)
            : type_(type), handle_(handle), storage_size_(reinterpret_cast<Ask>(storage_size)),
              storage_offset_(reinterpret_cast<Ask>(storage_offset)) {
            const py::capsule capsule = type.attr("__dlpack_c_exchange_api__");
            exchange_ = static_cast<const DlExchange*>(
                PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
            if (!exchange_) throw py::error_already_set();
            if (exchange_->major != 1 || !exchange_->look)
                throw py::import_error("the tensors speak another DLPack than version 1");
        }
        TensorView operator()(py::handle object) const {
            TensorView view;
            if (exchange_->look(object.ptr(), &view.tensor_) != 0) throw py::error_already_set();
            return view;
        }
        bool look(PyObject* object, TensorView& view) const {
            if (exchange_->look(object, &view.tensor_) == 0) return true;
            PyErr_Clear();
            return false;
        }
        // Whether the memory was not shrunk behind the shape of a plain tensor.
        bool has_memory(PyObject* object, const TensorView& view) const {
            if (handle_ < 0 || view.size() == 0) return true;
            void* const handle = reinterpret_cast<char*>(object) + handle_;
            int64_t bytes = 0, offset = 0;
            if (storage_size_(handle, &bytes) != 0 || storage_offset_(handle, &offset) != 0)
                return false;
            return offset * int64_t(view.itemsize()) + view.bytes() <= bytes;
        }
        // Shortcuts for what was looked at once: see tensor_memory.hpp.
        using Image = TensorImage;
        void keep(PyObject* object, const TensorView& view, Image& image) {
            memory.keep(object, view.data(), view.bytes(), image);
        }
        bool is_same(PyObject* object, const Image& image) const {
            return memory.is_same(object, image);
        }
        char* find_alike(PyObject* object, const Image& image) const {
            return memory.find_alike(object, image);
        }
        bool is_alone(PyObject* object) const { return memory.is_alone(object); }

        // PyTorch negates some numbers only when they are read: the imaginary part of a conjugate.
        // Those lie two apart in memory and are refused for it, unless there is only one.
        bool is_exact(PyObject* object, const TensorView& view) const {
            return view.size() != 1 || !py::handle(object).attr("is_neg")().template cast<bool>();
        }
        // Subclasses may keep their numbers elsewhere: the caller takes them apart.
        bool is_plain(PyObject* object) const {
            return reinterpret_cast<PyObject*>(Py_TYPE(object)) == type_.ptr();
        }

        TensorMemory memory;

    private:
        using Ask = int (*)(void* tensor, int64_t* answer);    // 0: answered
        py::type type_;
        const DlExchange* exchange_;
        int handle_;
        Ask storage_size_, storage_offset_;
    };

    char* data() const { return static_cast<char*>(tensor_.data) + tensor_.byte_offset; }

    int ndim() const { return tensor_.ndim; }
    int64_t length(int dimension) const { return tensor_.shape[dimension]; }

    int64_t size() const {
        int64_t n = 1;
        for (int i = 0; i < tensor_.ndim; ++i) n *= tensor_.shape[i];
        return n;
    }

    // How many bits, if these are signed integers; 0: they are not.
    int integer_bits() const { return tensor_.code == 0 ? tensor_.bits : 0; }

    // Element for element at the same place. Where there is one element, strides say nothing.
    bool same_shape(const TensorView& other) const {
        if (tensor_.ndim != other.tensor_.ndim) return false;
        for (int i = 0; i < tensor_.ndim; ++i)
            if (tensor_.shape[i] != other.tensor_.shape[i] ||
                (tensor_.shape[i] > 1 && tensor_.strides[i] != other.tensor_.strides[i]))
                return false;
        return true;
    }

    // Gives each size, and each stride that says something.
    template <class Take> void form(Take&& take) const {
        for (int i = 0; i < tensor_.ndim; ++i) {
            take(tensor_.shape[i]);
            if (tensor_.shape[i] > 1) take(tensor_.strides[i]);
        }
    }

    bool in_c_order() const {
        int64_t expected = 1;
        int i = tensor_.ndim;
        while (i > 0 && (tensor_.shape[i - 1] == 1 || tensor_.strides[i - 1] == expected))
            expected *= tensor_.shape[--i];
        return i == 0 || size() <= 1;
    }

    int type() const { return tensor_.code << 8 | tensor_.bits; }

    bool readable() const {
        constexpr int cpu = 1, pinned = 3;
        return (tensor_.device_type == cpu || tensor_.device_type == pinned) &&
               tensor_.lanes == 1 && (tensor_.data || size() == 0) &&
               (reinterpret_cast<uintptr_t>(data()) & (itemsize() - 1)) == 0 && is_dense();
    }
    bool writable() const { return readable(); }

    // The index of the storage that holds such numbers; -1: none.
    int storage(const Table& table) const {
        constexpr int is_float = 2, is_bfloat = 4;
        const char* name = nullptr;
        if (tensor_.code == is_float)
            name = tensor_.bits == 64   ? "float64"
                   : tensor_.bits == 32 ? "float32"
                   : tensor_.bits == 16 ? "float16"
                                        : nullptr;
        else if (tensor_.code == is_bfloat && tensor_.bits == 16)
            name = "bfloat16";
        return name ? find_storage(table, name) : -1;
    }

    int64_t bytes() const { return size() * int64_t(itemsize()); }

    static constexpr int float32 = 2 << 8 | 32;
    bool is_number(int type) const { return tensor_.ndim == 0 && this->type() == type; }

private:
    DlTensor tensor_;

    size_t itemsize() const { return std::max<size_t>(tensor_.bits / 8, 1); }

    // Whether the elements fill their memory without a gap, in whatever order of dimensions.
    bool is_dense() const { return in_c_order() || is_permuted(); }
    bool is_permuted() const {
        int64_t expected = 1;
        for (const int64_t n = size(); expected < n;) {
            int i = 0;
            while (i < tensor_.ndim && (tensor_.shape[i] == 1 || tensor_.strides[i] != expected))
                ++i;
            if (i == tensor_.ndim) return false;
            expected *= tensor_.shape[i];
        }
        return true;
    }
};

}    // namespace gradstep::bindings
