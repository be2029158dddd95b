#include "../functional.hpp"
#include "bindings.hpp"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() = "gradstep's compiled core; the public names are in the package gradstep.";
    gradstep::bindings::bind_system(m);
    gradstep::bindings::bind_storages(m);
    gradstep::bindings::bind_optimizer(m);
    gradstep::bindings::bind_schedules(m);
    using namespace gradstep::functional;
    static const Functions functions = {interface_version, &step};
    m.attr("functional") = pybind11::capsule(&functions, capsule_name);
}
