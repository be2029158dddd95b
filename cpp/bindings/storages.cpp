// Storages by name: what each may hold, and its numbers to floats and back.
#include <pybind11/stl.h>

#include "../dispatch.hpp"
#include "../pipeline.hpp"
#include "arrays.hpp"
#include "bindings.hpp"

namespace gradstep::bindings {
namespace {

py::dict storage_catalogue() {
    py::dict catalogue;
    const Table& table = dispatch::current();
    for (int i = 0; i < table.storage_count; ++i) {
        py::list names;
        unsigned bit = 1;
        for (const char* name : role_names) {
            if (table.storages[i].roles & bit) names.append(name);
            bit <<= 1;
        }
        catalogue[table.storages[i].name] = py::tuple(names);
    }
    return catalogue;
}

py::tuple fused() {
    py::list pairings;
    const Table& table = dispatch::current();
    for (int i = 0; i < table.pairing_count; ++i) {
        const Pairing& pairing = table.pairings[i];
        pairings.append(py::make_tuple(
            table.storages[pairing.param].name, table.storages[pairing.gradient].name,
            table.storages[pairing.states].name, pairing.stochastic_param));
    }
    return py::tuple(pairings);
}

const StorageInfo& find(const std::string& name) {
    const Table& table = dispatch::current();
    const int i = find_storage(table, name);
    if (i < 0) throw py::value_error("no storage is called " + name);
    return table.storages[i];
}

Role role_of(const std::string& name) {
    for (Role role :
         {Role::second_moment, Role::maximum, Role::parameter, Role::magnitude, Role::rate})
        if (name == role_name(role)) return role;
    return Role::momentum;    // elements do not mind
}

// One array's numbers on one side, bytes on the other.
struct Sides {
    Compute compute;
    int64_t n;
    char* numbers;
    char* bytes;
};

Sides sides(const StorageInfo& storage, const py::array& numbers, const py::array& bytes) {
    const ArrayView a(numbers.ptr()), b(bytes.ptr());
    const bool is_double = a.has_dtype(py::dtype::of<double>());
    if (!(is_double || a.has_dtype(py::dtype::of<float>())) || !a.readable() || !b.readable() ||
        b.bytes() != storage.bytes(a.size()))
        throw py::value_error("float32 or float64 numbers and an array of their bytes are wanted");
    return {is_double ? double_precision : single_precision, a.size(), a.data(), b.data()};
}

void writable(const py::array& array) {
    if (!ArrayView(array.ptr()).writable()) throw py::value_error("a writable array is wanted");
}

// A block of the walk at a time: there the random bits take a new key.
void encode(const std::string& name, const std::string& role, const py::array& values,
            const py::array& out, bool stochastic, uint64_t seed, int64_t t, uint64_t key,
            int buffer, int64_t start) {
    const StorageInfo& storage = find(name);
    const Sides side = sides(storage, values, out);
    writable(out);
    if (storage.low_bytes || start < 0 || start % storage.block != 0)
        throw py::value_error(
            "encode: start wants to be a multiple of the block, split is split()");
    const uint64_t base = pipeline::random_base(seed, t, key, buffer);
    const int64_t size = side.compute == double_precision ? sizeof(double) : sizeof(float);
    for (int64_t i = 0; i < side.n;) {
        const int64_t boundary = block_elements - (start + i) % block_elements;
        const int64_t n = boundary < side.n - i ? boundary : side.n - i;
        storage.encode[side.compute](
            side.numbers + i * size, n, side.bytes + storage.offset(i), nullptr,
            {role_of(role), stochastic, pipeline::random_key(base, start + i)});
        i += n;
    }
}

void decode(const std::string& name, const std::string& role, const py::array& data,
            const py::array& out) {
    const StorageInfo& storage = find(name);
    const Sides side = sides(storage, out, data);
    writable(out);
    if (storage.low_bytes) throw py::value_error("decode: split is unsplit()");
    storage.decode[side.compute](side.bytes, nullptr, role_of(role), side.n, side.numbers);
}

char* low_half(const StorageInfo& storage, const py::array& low, int64_t n) {
    const ArrayView array(low.ptr());
    if (!array.has_dtype(py::dtype::of<int16_t>()) || !array.readable() ||
        array.bytes() != n * storage.low_bytes)
        throw py::value_error("an int16 array of as many elements is wanted");
    return array.data();
}

void split(const py::array& values, const py::array& high, const py::array& low) {
    const StorageInfo& storage = find("split");
    const Sides side = sides(storage, values, high);
    writable(high);
    writable(low);
    storage.encode[side.compute](side.numbers, side.n, side.bytes, low_half(storage, low, side.n),
                                 {});
}

void unsplit(const py::array& high, const py::array& low, const py::array& values) {
    const StorageInfo& storage = find("split");
    const Sides side = sides(storage, values, high);
    writable(values);
    storage.decode[side.compute](side.bytes, low_half(storage, low, side.n), Role::momentum, side.n,
                                 side.numbers);
}

}    // namespace

void bind_storages(py::module_& m) {
    m.def("storages", &storage_catalogue);
    m.def("fused", &fused);
    m.def(
        "rounds_stochastically",
        [](const std::string& storage, const std::string& role) {
            return find(storage).rounds_stochastically(role_of(role));
        },
        py::arg("storage"), py::arg("role"));
    m.def(
        "storage_block", [](const std::string& name) { return find(name).block; }, py::arg("name"));
    m.def(
        "storage_bytes",
        [](const std::string& name, int64_t n) {
            const StorageInfo& storage = find(name);
            return storage.bytes(n) + n * storage.low_bytes;
        },
        py::arg("name"), py::arg("n"));
    m.def("encode", &encode, py::arg("storage"), py::arg("role"), py::arg("values").noconvert(),
          py::arg("out").noconvert(), py::arg("stochastic"), py::arg("seed"), py::arg("t"),
          py::arg("key"), py::arg("buffer"), py::arg("start"));
    m.def("decode", &decode, py::arg("storage"), py::arg("role"), py::arg("data").noconvert(),
          py::arg("out").noconvert());
    m.def("split", &split, py::arg("values").noconvert(), py::arg("high").noconvert(),
          py::arg("low").noconvert());
    m.def("unsplit", &unsplit, py::arg("high").noconvert(), py::arg("low").noconvert(),
          py::arg("values").noconvert());
}

}    // namespace gradstep::bindings
