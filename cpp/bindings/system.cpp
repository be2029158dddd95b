// Targets, threads, build, and what the rules say of themselves.
#include <pybind11/stl.h>

#include <string>

#include "../cpuid.hpp"
#include "../dispatch.hpp"
#include "../parallel.hpp"
#include "../parallel/pages.hpp"
#include "bindings.hpp"
#include "unlocked.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

namespace {

py::object text_or_none(const char* text) { return text ? py::object(py::str(text)) : py::none(); }

// As Shape has them.
constexpr const char* shape_names[] = {"same", "rows", "columns", "vector"};

py::dict describe(const RuleInfo& rule) {
    py::list hyper, states, memory;
    for (int h = 0; h < rule.hyper_count; ++h) hyper.append(rule.hyper_names[h]);
    for (int k = 0; k < rule.memory_count; ++k) memory.append(rule.memory_names[k]);
    for (int s = 0; s < rule.state_count; ++s) {
        const State& state = rule.states[s];
        py::dict described;
        described["name"] = state.name;
        described["role"] = role_name(state.role);
        described["option"] = text_or_none(state.option);
        described["initial"] = text_or_none(state.initial);
        described["shape"] = shape_names[int(state.shape)];
        described["gathered"] = state.gathered;
        described["fixed"] = state.fixed;
        states.append(described);
    }
    py::dict described;
    described["hyper_names"] = py::tuple(hyper);
    described["states"] = py::tuple(states);
    described["memory_names"] = py::tuple(memory);
    py::list common;
    for (int c = 0; c < rule.common_count; ++c) common.append(rule.common[c]);
    described["common"] = py::tuple(common);
    described["takes_loss"] = rule.takes_loss;
    described["takes_sign"] = rule.takes_sign;
    described["scales_moment"] = rule.scales_moment;
    described["takes_rows"] = rule.takes_rows;
    described["gathers"] = rule.gathered > 0;
    described["variants"] = py::dict();
    described["shows"] = rule.shown[single_precision] != nullptr;
    return described;
}

py::dict rule_catalogue() {
    py::dict catalogue;
    const Table& table = dispatch::current();
    for (int i = 0; i < table.rule_count; ++i) {
        const RuleInfo& rule = table.rules[i];
        const std::string name = rule.name, plain = name.substr(0, name.find(' '));
        if (name == plain)
            catalogue[rule.name] = describe(rule);
        else
            catalogue[plain.c_str()]["variants"][rule.name] = rule.gathered > 0;
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
    m.def("refused_targets", [] {
        py::dict reasons;
        for (const auto& [name, why] : dispatch::refused()) reasons[name.c_str()] = why;
        return reasons;
    });
    m.def(
        "target_refusal",
        [](const std::string& target, uint32_t ecx1, uint32_t ebx7, uint64_t xcr0) {
            return cpuid::refusal(target, {ecx1, ebx7, xcr0});
        },
        py::arg("target"), py::arg("ecx1"), py::arg("ebx7"), py::arg("xcr0"));
    m.def("target", [] { return dispatch::current().name; });
    m.def("set_target", &dispatch::force, py::arg("name"));
    m.def("threads", &parallel::threads);
    m.def("set_threads", &parallel::set_threads, py::arg("count"));
    m.def("team", &parallel::team);
    m.def("set_team", &parallel::force_team, py::arg("name"));
    m.def("find_openmp", &parallel::find_openmp);
    m.def("openmp_runtime", &parallel::openmp_runtime);
    m.def("team_calls", [] {
        const parallel::Calls calls = parallel::calls();
        py::dict counted;
        counted["alone"] = calls.alone;
        counted["native"] = calls.native;
        counted["openmp"] = calls.openmp;
        return counted;
    });
    m.def(
        "zero_new",
        [](uintptr_t address, int64_t bytes, int threads) {
            const Unlocked unlocked;
            const parallel::ThreadCount count(threads);
            parallel::zero_new(reinterpret_cast<void*>(address), bytes);
        },
        py::arg("address"), py::arg("bytes"), py::arg("threads"));
    m.def("set_eager", &parallel::set_eager, py::arg("eager"));
    m.def("build", &build);
    m.def("rules", &rule_catalogue);
}

}    // namespace gradstep::bindings
