// Schedule: called with a step it gives a float, with an array of steps an array. A call is made
// for each hyperparameter at each update, so it goes past pybind11's dispatcher, to the slot.
#include "../schedule.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "../dispatch.hpp"
#include "bindings.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

namespace {

struct BoundSchedule {
    SchedulePointer schedule;
};

const Schedule& schedule_of(PyObject* self) {
    auto* instance = reinterpret_cast<py::detail::instance*>(self);
    auto* bound = static_cast<BoundSchedule*>(instance->get_value_and_holder().value_ptr());
    if (!bound) throw py::type_error("Schedule: __init__ was not called");
    return *bound->schedule;
}

[[noreturn]] void refuse_step(const std::string& got) {
    throw py::value_error("t: got " + got + ", wanted 0 <= t < 2**52");
}

[[noreturn]] void refuse_type(const std::string& got) {
    throw py::type_error("t: got " + got + ", wanted an integer or an array of integers");
}

PyObject* value_at(const Schedule& schedule, PyObject* integer) {
    int overflow = 0;
    const int64_t t = PyLong_AsLongLongAndOverflow(integer, &overflow);
    if (overflow || t < 0 || t >= step_limit) refuse_step(py::str(py::handle(integer)));
    return PyFloat_FromDouble(schedule.at(t));
}

py::array_t<int64_t> steps_of(const py::array& t) {
    const py::dtype dtype = t.dtype();
    if (py::hasattr(t, "mask")) refuse_type("a masked array");
    if (dtype.kind() != 'i' && dtype.kind() != 'u')
        refuse_type("an array of " + std::string(py::str(dtype)));
    if (dtype.kind() == 'u' && dtype.itemsize() == 8 && t.size() > 0) {
        const py::object largest = t.attr("max")();
        if (largest.cast<uint64_t>() >= uint64_t(step_limit)) refuse_step(py::str(largest));
    }
    // A copy only where the dtype or the layout asks for one.
    auto steps = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(t);
    if (!steps) throw py::error_already_set();
    const int64_t* step = steps.data();
    uint64_t bits = 0;    // of all together: no branch where all are good
    for (py::ssize_t i = 0; i < steps.size(); ++i) bits |= uint64_t(step[i]);
    for (py::ssize_t i = 0; bits >= uint64_t(step_limit) && i < steps.size(); ++i)
        if (uint64_t(step[i]) >= uint64_t(step_limit))
            refuse_step(std::to_string(step[i]) + " at index " + std::to_string(i));
    return steps;
}

PyObject* values_at(const Schedule& schedule, const py::array& t) {
    const auto steps = steps_of(t);
    py::array_t<double> values(std::vector<py::ssize_t>(t.shape(), t.shape() + t.ndim()));
    const int64_t* from = steps.data();
    double* to = values.mutable_data();
    const int64_t n = steps.size();
    {
        py::gil_scoped_release release;
        schedule.fill(from, 0, to, n);
    }
    return values.release().ptr();
}

// __call__(self, t)
PyObject* call(PyObject* self, PyObject* args, PyObject* kwargs) {
    try {
        if (PyTuple_GET_SIZE(args) != 1 || kwargs) {
            PyErr_SetString(PyExc_TypeError, "Schedule: wanted exactly one argument, the step t");
            return nullptr;
        }
        const Schedule& schedule = schedule_of(self);
        PyObject* t = PyTuple_GET_ITEM(args, 0);
        if (PyLong_CheckExact(t)) return value_at(schedule, t);
        if (py::isinstance<py::array>(t))
            return values_at(schedule, py::reinterpret_borrow<py::array>(t));
        // Older NumPy takes its own booleans for indices and warns.
        if (PyBool_Check(t) || !PyIndex_Check(t) ||
            py::isinstance(t, py::module_::import("numpy").attr("bool_")))
            refuse_type(std::string(Py_TYPE(t)->tp_name) + " (" +
                        std::string(py::repr(py::handle(t))) + ")");
        const auto integer = py::reinterpret_steal<py::object>(PyNumber_Index(t));
        if (!integer) throw py::error_already_set();
        return value_at(schedule, integer.ptr());
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

py::tuple schedule_catalogue() {
    py::list names;
    const Table& table = dispatch::current();
    for (int i = 0; i < table.schedule_count; ++i) names.append(table.schedules[i].name);
    return py::tuple(names);
}

}    // namespace

void bind_schedules(py::module_& m) {
    m.attr("step_limit") = step_limit;
    m.def("schedules", &schedule_catalogue);
    py::class_<BoundSchedule>(m, "Schedule", py::custom_type_setup([](PyHeapTypeObject* type) {
                                  type->ht_type.tp_call = call;
                              }))
        .def(py::init([](const std::string& name, std::vector<double> arguments, int64_t last) {
                 auto schedule = closed_form(name, std::move(arguments), last);
                 if (!schedule) throw py::value_error("name: got '" + name + "', no such schedule");
                 return BoundSchedule{std::move(schedule)};
             }),
             py::arg("name"), py::arg("arguments"), py::arg("last"))
        .def(py::init(
                 [](const std::vector<BoundSchedule>& children, std::vector<int64_t> boundaries) {
                     std::vector<SchedulePointer> schedules;
                     for (const BoundSchedule& child : children)
                         schedules.push_back(child.schedule);
                     return BoundSchedule{join(std::move(schedules), std::move(boundaries))};
                 }),
             py::arg("children"), py::arg("boundaries"));
}

}    // namespace gradstep::bindings
