// What each file of this folder adds to the module.
#pragma once
#include <pybind11/pybind11.h>

namespace gradstep::bindings {
void bind_system(pybind11::module_& m);
void bind_optimizer(pybind11::module_& m);
void bind_schedules(pybind11::module_& m);
void bind_storages(pybind11::module_& m);
}    // namespace gradstep::bindings
