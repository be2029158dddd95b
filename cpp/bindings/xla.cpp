// The module _xla: a step as XLA calls it. It has no kernels, no threads and nothing of JAX: it
// takes the step from _core, and hands the buffers on.
#include <pybind11/pybind11.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <xla/ffi/api/ffi.h>

#include "../functional.hpp"

namespace gradstep::bindings {
namespace {

namespace py = pybind11;
namespace ffi = xla::ffi;
using functional::Buffer;

const functional::Functions* core = nullptr;

int32_t type_of(ffi::DataType type) {
    switch (type) {
    case ffi::DataType::F32: return functional::f32;
    case ffi::DataType::F64: return functional::f64;
    case ffi::DataType::BF16: return functional::bf16;
    case ffi::DataType::F16: return functional::f16;
    case ffi::DataType::S32: return functional::i32;
    case ffi::DataType::U32: return functional::u32;
    case ffi::DataType::S16: return functional::s16;
    case ffi::DataType::U8: return functional::u8;
    case ffi::DataType::PRED: return functional::boolean;
    default: return -1;
    }
}

Buffer buffer_of(const ffi::AnyBuffer& buffer) {
    const auto shape = buffer.dimensions();
    return {buffer.untyped_data(), type_of(buffer.element_type()), int32_t(shape.size()),
            shape.begin()};
}

ffi::Error step(ffi::RemainingArgs args, ffi::RemainingRets results, std::string_view text) {
    std::vector<Buffer> in, out;
    in.reserve(args.size());
    out.reserve(results.size());
    for (size_t i = 0; i < args.size(); ++i) {
        const auto buffer = args.get<ffi::AnyBuffer>(i);
        if (!buffer) return buffer.error();
        in.push_back(buffer_of(*buffer));
    }
    for (size_t i = 0; i < results.size(); ++i) {
        auto buffer = results.get<ffi::AnyBuffer>(i);
        if (!buffer) return buffer.error();
        out.push_back(buffer_of(**buffer));
    }
    char error[512];
    const functional::Call call = {text.data(), text.size(), in.data(), in.size(),
                                   out.data(),  out.size(),  error,     sizeof error};
    if (core->step(call) == 0) return ffi::Error::Success();
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, error);
}

XLA_FFI_DEFINE_HANDLER(
    handler, step, ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<std::string_view>("text"));

}    // namespace

PYBIND11_MODULE(_xla, m, py::mod_gil_not_used()) {
    m.doc() = "gradstep's step as XLA calls it; gradstep.jax is what is public.";
    const py::capsule given = py::module_::import("gradstep._core").attr("functional");
    const auto* found = static_cast<const functional::Functions*>(
        PyCapsule_GetPointer(given.ptr(), functional::capsule_name));
    if (!found) throw py::error_already_set();
    if (found->version != functional::interface_version)
        throw py::import_error("gradstep.jax._xla: got a core with the interface " +
                               std::to_string(found->version) + ", wanted " +
                               std::to_string(functional::interface_version) +
                               ": install gradstep anew, all of it");
    core = found;
    m.attr("handler") = py::capsule(reinterpret_cast<void*>(handler));
    m.attr("api_version") = py::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
}

}    // namespace gradstep::bindings
