// What each file of this folder adds to the module.
#pragma once
#include <pybind11/pybind11.h>

#include "../table.hpp"

namespace gradstep::bindings {

// What an array may hold, by the position of its bit.
inline constexpr const char* role_names[] = {"param",         "gradient", "momentum",
                                             "second_moment", "maximum",  "parameter",
                                             "magnitude",     "rate",     "direction"};
static_assert(sizeof role_names / sizeof *role_names == 2 + role_count, "a name for each role");
inline const char* role_name(Role role) { return role_names[2 + int(role)]; }

void bind_system(pybind11::module_& m);
void bind_optimizer(pybind11::module_& m);
void bind_schedules(pybind11::module_& m);
void bind_storages(pybind11::module_& m);
}    // namespace gradstep::bindings
