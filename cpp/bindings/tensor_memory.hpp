// What PyTorch keeps of a tensor, read where it lies: whether a tensor is still what it was when it
// was last looked at closely, and who else holds it. A word is 8 bytes. Where each thing lies is
// found and tried out by python/gradstep/torch/memory.py at import; what it cannot find is not
// used, and each tensor is looked at closely then.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace gradstep::bindings {
namespace py = pybind11;

// Of a tensor: the words that say what it is (its shape, strides, type, device, how its numbers are
// meant), and which memory it lies in, together with that memory's place and size.
struct TensorImage {
    static constexpr size_t most_words = 24, most_memory_words = 6;
    using Words = std::array<uint64_t, most_words>;
    std::shared_ptr<const Words> words;    // shared by tensors that are alike, to stay in the cache
    const uint64_t* storage = nullptr;     // nullptr: nothing is known
    uint64_t memory[most_memory_words];
    int64_t offset = 0, bytes = 0;    // of its elements in the memory

    bool is_known() const { return storage != nullptr; }
    void forget() { storage = nullptr; }
};

// Who can reach a tensor's memory, or the tensor without its Python object.
struct Holders {
    uint64_t count, storage_count;    // outside Python, with whatever flags PyTorch keeps there
    uint64_t deleter;                 // of the memory: that of NumPy's or shared memory is another
    Py_ssize_t storage_references;    // to the storage's Python object; 0: there is none
    bool weak, storage_weak;          // whether there are weak references

    bool operator==(const Holders& other) const {
        return count == other.count && storage_count == other.storage_count &&
               deleter == other.deleter && storage_references == other.storage_references &&
               weak == other.weak && storage_weak == other.storage_weak;
    }
};

class TensorMemory {
public:
    // In words, of a tensor (which its Python object has a pointer to, so many bytes from its
    // begin) and of its storage. words: those that say what a tensor is, by the bits of `masks`.
    // memory_end: behind the last word that says where memory is and how large, from `data` on.
    struct Places {
        int handle = -1;
        std::vector<int> words;
        std::vector<uint64_t> masks;
        int dimensions = 0, most_dimensions = 0, count = 0, storage = 0;
        int data = 0, size = 0, memory_end = 0, deleter = 0, storage_count = 0, storage_object = 0;
    };

    TensorMemory() = default;
    explicit TensorMemory(Places places) : at_(std::move(places)) {
        if (at_.words.size() > TensorImage::most_words || at_.masks.size() != at_.words.size() ||
            size_t(at_.memory_end - at_.data) > TensorImage::most_memory_words ||
            at_.size >= at_.memory_end || at_.handle < 0)
            throw py::value_error("TensorMemory: more than can be kept");
    }

    // Keeps what a tensor of PyTorch is, whose elements lie at `data`. Not where they have no bytes
    // or it has so many dimensions that their sizes lie elsewhere.
    void keep(PyObject* object, const char* data, int64_t bytes, TensorImage& image) {
        image.forget();
        if (at_.handle < 0 || bytes <= 0) return;
        const uint64_t* const words = words_of(object);
        const uint64_t* const storage = storage_of(words);
        if (!storage || words[at_.dimensions] > uint64_t(at_.most_dimensions)) return;
        TensorImage::Words now = {};
        for (size_t i = 0; i < at_.words.size(); ++i) now[i] = words[at_.words[i]] & at_.masks[i];
        image.words = share(now);
        std::copy(storage + at_.data, storage + at_.memory_end, image.memory);
        image.offset = data - reinterpret_cast<const char*>(storage[at_.data]);
        image.bytes = bytes;
        if (image.offset >= 0) image.storage = storage;
    }

    // Whether a tensor is what was kept and where it was.
    bool is_same(PyObject* object, const TensorImage& image) const {
        if (!image.is_known()) return false;
        const uint64_t* const words = words_of(object);
        return storage_of(words) == image.storage && are_equal(words, image) &&
               std::memcmp(image.storage + at_.data, image.memory,
                           size_t(at_.memory_end - at_.data) * 8) == 0;
    }

    // Where a tensor's elements lie that is like what was kept, in other memory; else nullptr.
    char* find_alike(PyObject* object, const TensorImage& image) const {
        if (!image.is_known()) return nullptr;
        const uint64_t* const words = words_of(object);
        const uint64_t* const storage = storage_of(words);
        if (!storage || !are_equal(words, image) || !storage[at_.data] ||
            int64_t(storage[at_.size]) < image.offset + image.bytes)
            return nullptr;
        return reinterpret_cast<char*>(storage[at_.data]) + image.offset;
    }

    Holders holders(PyObject* object) const {
        const uint64_t* const words = words_of(object);
        const uint64_t* const storage = storage_of(words);
        if (!storage) return {};
        auto* const wrapper = reinterpret_cast<PyObject*>(storage[at_.storage_object]);
        return {words[at_.count],
                storage[at_.storage_count],
                storage[at_.deleter],
                wrapper ? Py_REFCNT(wrapper) : 0,
                has_weak_references(object),
                wrapper && has_weak_references(wrapper)};
    }

    // Takes a tensor for one that nobody else holds.
    void learn_alone(PyObject* object) { alone_.push_back(holders(object)); }

    // Whether nobody but its Python object holds a tensor; nobody else its memory.
    bool is_alone(PyObject* object) const {
        const Holders now = holders(object);
        return std::find(alone_.begin(), alone_.end(), now) != alone_.end();
    }

    bool counts_holders() const { return !alone_.empty(); }

private:
    Places at_;
    std::vector<Holders> alone_;

    std::array<std::shared_ptr<const TensorImage::Words>, 8> recent_;    // the last kinds kept
    size_t next_ = 0;

    std::shared_ptr<const TensorImage::Words> share(const TensorImage::Words& now) {
        for (const auto& one : recent_)
            if (one && *one == now) return one;
        auto& place = recent_[next_++ % recent_.size()];
        place = std::make_shared<TensorImage::Words>(now);
        return place;
    }

    const uint64_t* words_of(PyObject* object) const {
        const char* const handle = reinterpret_cast<const char*>(object) + at_.handle;
        return *reinterpret_cast<const uint64_t* const*>(handle);
    }
    const uint64_t* storage_of(const uint64_t* words) const {
        return reinterpret_cast<const uint64_t*>(words[at_.storage]);
    }
    bool are_equal(const uint64_t* words, const TensorImage& image) const {
        const uint64_t* const kept = image.words->data();
        uint64_t different = 0;
        for (size_t i = 0; i < at_.words.size(); ++i)
            different |= (words[at_.words[i]] & at_.masks[i]) ^ kept[i];
        return different == 0;
    }
    static bool has_weak_references(PyObject* object) {
        const Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
        return offset != 0 &&
               *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset) != nullptr;
    }
};

}    // namespace gradstep::bindings
