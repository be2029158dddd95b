// Targets, threads, build, and what the rules say of themselves.
#include <pybind11/stl.h>

#include "../dispatch.hpp"
#include "../parallel.hpp"
#include "bindings.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

namespace {

py::object text_or_none(const char* text) { return text ? py::object(py::str(text)) : py::none(); }

py::dict rule_catalogue() {
    py::dict catalogue;
    const Table& table = dispatch::current();
    for (int i = 0; i < table.rule_count; ++i) {
        const RuleInfo& rule = table.rules[i];
        py::list hyper, states;
        for (int h = 0; h < rule.hyper_count; ++h) hyper.append(rule.hyper_names[h]);
        for (int s = 0; s < rule.state_count; ++s) {
            const State& state = rule.states[s];
            states.append(py::make_tuple(state.name, text_or_none(state.option),
                                         text_or_none(state.initial), role_name(state.role)));
        }
        catalogue[rule.name] = py::make_tuple(py::tuple(hyper), py::tuple(states));
    }
    return catalogue;
}

py::dict build() {
    py::dict info;
    info["version"] = GRADSTEP_VERSION;
#if defined(__clang__)
    info["compiler"] = "clang " __clang_version__;
#else
    info["compiler"] = "gcc " __VERSION__;
#endif
    info["build"] = GRADSTEP_BUILD_TYPE;
    return info;
}

}    // namespace

void bind_system(py::module_& m) {
    m.attr("block_elements") = block_elements;
    m.attr("max_threads") = parallel::max_threads;
    m.def("targets", &dispatch::available);
    m.def("target", [] { return dispatch::current().name; });
    m.def("set_target", &dispatch::force, py::arg("name"));
    m.def("threads", &parallel::threads);
    m.def("set_threads", &parallel::set_threads, py::arg("count"));
    m.def("team", &parallel::team);
    m.def("set_team", &parallel::force_team, py::arg("name"));
    m.def("set_eager", &parallel::set_eager, py::arg("eager"));
    m.def("build", &build);
    m.def("rules", &rule_catalogue);
}

}    // namespace gradstep::bindings
