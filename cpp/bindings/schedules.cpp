// Schedule: called with a step it gives a float, with an array of steps an array. A call is made
// for each hyperparameter at each update, so it goes past pybind11's dispatcher, to the slot.
#include "../schedule.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <tuple>

#include "../dispatch.hpp"
#include "arrays.hpp"
#include "bindings.hpp"
#include "unlocked.hpp"

namespace gradstep::bindings {
namespace py = pybind11;

namespace {

struct BoundSchedule {
    SchedulePointer schedule;
    // What it was made of, for its text.
    std::string name;
    std::vector<BoundSchedule> children;
    std::vector<double> numbers;

    std::string text() const;
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

[[noreturn]] void refuse_type(const std::string& got, const std::string& instead = "") {
    throw py::type_error("t: got " + got + ", wanted an integer or an array of integers" + instead);
}

PyObject* value_at(const Schedule& schedule, PyObject* integer) {
    int overflow = 0;
    const int64_t t = PyLong_AsLongLongAndOverflow(integer, &overflow);
    if (overflow || t < 0 || t >= step_limit) refuse_step(py::str(py::handle(integer)));
    return PyFloat_FromDouble(schedule.at(double(t)));
}

py::array_t<int64_t> steps_of(const py::array& t) {
    const py::dtype dtype = t.dtype();
    const char kind = dtype.kind();
    if (py::hasattr(t, "mask")) refuse_type("a masked array");
    if (kind != 'i' && kind != 'u')
        refuse_type("an array of " + std::string(py::str(py::handle(dtype))),
                    kind == 'f' || kind == 'O' ? " (t.astype('int64') where all are whole)" : "");
    if (kind == 'u' && dtype.itemsize() == 8 && t.size() > 0) {
        const py::object largest = t.attr("max")();
        if (largest.cast<uint64_t>() >= uint64_t(step_limit)) refuse_step(py::str(largest));
    }
    // A copy only where the dtype or the layout asks for one.
    auto steps = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(t);
    if (!steps) throw py::error_already_set();
    const int64_t* step = steps.data();
    bool good;
    {
        const Unlocked unlocked;
        good = are_steps(step, steps.size());
    }
    for (py::ssize_t i = 0; !good && i < steps.size(); ++i)
        if (uint64_t(step[i]) >= uint64_t(step_limit))
            refuse_step(std::to_string(step[i]) + " at index " + std::to_string(i));
    return steps;
}

// `out` as given, or a new array; what it must be is that of the steps.
py::array_t<double> values_for(const std::vector<py::ssize_t>& shape, py::handle out) {
    if (!out || out.is_none()) return py::array_t<double>(shape);
    if (!py::isinstance<py::array>(out) || py::hasattr(out, "mask"))
        throw py::type_error(std::string("out: got ") + Py_TYPE(out.ptr())->tp_name +
                             ", wanted a numpy.ndarray");
    const auto array = py::reinterpret_borrow<py::array>(out);
    if (!array.dtype().equal(py::dtype::of<double>()))
        throw py::type_error("out: got an array of " + std::string(py::str(array.dtype())) +
                             ", wanted float64");
    if (!std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim()))
        throw py::value_error("out: got shape " + std::string(py::str(array.attr("shape"))) +
                              ", wanted that of the steps, " +
                              std::string(py::str(py::tuple(py::cast(shape)))));
    if (!ArrayView(array.ptr()).writable())
        throw py::value_error("out: got an array that is read-only, not contiguous or not "
                              "aligned, wanted one that can be filled in place");
    return array;
}

PyObject* values_at(const Schedule& schedule, const py::array& t, py::handle out) {
    const auto steps = steps_of(t);
    py::array_t<double> values =
        values_for(std::vector<py::ssize_t>(t.shape(), t.shape() + t.ndim()), out);
    const int64_t* from = steps.data();
    double* to = values.mutable_data();
    const int64_t n = steps.size();
    if (reinterpret_cast<const char*>(from) < reinterpret_cast<const char*>(to + n) &&
        reinterpret_cast<const char*>(to) < reinterpret_cast<const char*>(from + n))
        throw py::value_error("out: got memory that overlaps t, wanted memory of its own");
    {
        const Unlocked unlocked;
        evaluate(schedule, from, to, n);
    }
    return values.release().ptr();
}

bool is_integer(PyObject* t) {
    if (PyLong_Check(t)) return !PyBool_Check(t);
    return py::isinstance(t, py::module_::import("numpy").attr("integer"));
}

// The step or steps in `t`, an integer or an array; of anything else Python makes one of the two.
PyObject* value_or_values(const Schedule& schedule, PyObject* self, PyObject* t, py::handle out) {
    py::object given = py::reinterpret_borrow<py::object>(t);
    if (!py::isinstance<py::array>(given) && !is_integer(t))
        given = py::handle(self).attr("_steps")(given);
    if (py::isinstance<py::array>(given)) return values_at(schedule, given, out);
    if (out && !out.is_none())
        throw py::type_error("out: got an array for a single step, wanted an array of steps");
    const auto integer = py::reinterpret_steal<py::object>(PyNumber_Index(given.ptr()));
    if (!integer) throw py::error_already_set();
    return value_at(schedule, integer.ptr());
}

// __call__(self, t, *, out=None)
PyObject* call(PyObject* self, PyObject* args, PyObject* kwargs) {
    try {
        const Py_ssize_t named = kwargs ? PyDict_GET_SIZE(kwargs) : 0;
        PyObject* out = named == 1 ? PyDict_GetItemString(kwargs, "out") : nullptr;
        if (PyTuple_GET_SIZE(args) != 1 || (named && !out)) {
            PyErr_SetString(PyExc_TypeError,
                            "Schedule: wanted exactly one argument, the step t, and perhaps out=");
            return nullptr;
        }
        const Schedule& schedule = schedule_of(self);
        PyObject* t = PyTuple_GET_ITEM(args, 0);
        if (!out && PyLong_CheckExact(t)) return value_at(schedule, t);
        return value_or_values(schedule, self, t, out);
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

int64_t step_argument(const char* name, py::handle x) {
    if (PyBool_Check(x.ptr()) || !PyIndex_Check(x.ptr()))
        throw py::type_error(std::string(name) + ": got " + std::string(py::repr(x)) +
                             ", wanted an integer");
    int overflow = 0;
    const auto integer = py::reinterpret_steal<py::object>(PyNumber_Index(x.ptr()));
    if (!integer) throw py::error_already_set();
    const int64_t step = PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow);
    if (overflow || step < 0 || step > step_limit)
        throw py::value_error(std::string(name) + ": got " + std::string(py::str(integer)) +
                              ", wanted 0 to 2**52");
    return step;
}

py::array range(const BoundSchedule& self, py::handle first, py::handle second, py::handle out) {
    const bool one = second.is_none();
    const int64_t start = one ? 0 : step_argument("start", first);
    const int64_t stop = step_argument("stop", one ? first : second);
    const int64_t n = std::max<int64_t>(0, stop - start);
    py::array_t<double> values = values_for({n}, out);
    double* to = values.mutable_data();
    {
        const Unlocked unlocked;
        evaluate_range(*self.schedule, start, to, n);
    }
    return values;
}

// The text that the core reads a schedule from, see read_schedule().
std::string text_of(const std::string& name, const std::vector<BoundSchedule>& children,
                    const std::vector<double>& numbers) {
    std::string text =
        name + " " + std::to_string(children.size()) + " " + std::to_string(numbers.size());
    for (double number : numbers) {
        uint64_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        char digits[24];
        std::snprintf(digits, sizeof digits, " %016llx", static_cast<unsigned long long>(bits));
        text += digits;
    }
    for (const BoundSchedule& child : children) text += " " + child.text();
    return text;
}

std::string BoundSchedule::text() const { return text_of(name, children, numbers); }

// The hyperparameters that schedules give, written into an optimizer's settings at each step: one
// call for all of them, since one each would cost more than the values.
class Drive {
public:
    // entries: the schedule, where its value goes in `settings` (flattened), and which values are
    // accepted: from the lower to the upper one, but none between 0 and the smallest.
    using Entry = std::tuple<BoundSchedule, int64_t, double, double, double>;

    Drive(py::array_t<double> settings, const std::vector<Entry>& entries)
        : settings_(std::move(settings)) {
        for (const auto& [bound, index, lower, upper, smallest] : entries) {
            if (index < 0 || index >= settings_.size())
                throw py::index_error("Drive: an index is beyond the settings");
            driven_.push_back({bound.schedule, index, lower, upper, smallest});
        }
    }

    // The values at step k. -1: done; i: that of entry i is not accepted, or its schedule has
    // ended. Only the values before it are written then; whoever called finds the words.
    py::ssize_t operator()(int64_t k) {
        if (k < 0 || k >= step_limit) refuse_step(std::to_string(k));
        double* settings = settings_.mutable_data();
        for (size_t i = 0; i < driven_.size(); ++i) {
            const Driven& driven = driven_[i];
            try {
                const double x = driven.schedule->at(double(k));
                if (!(x >= driven.lower && x <= driven.upper) || (x > 0 && x < driven.smallest))
                    return py::ssize_t(i);
                settings[driven.index] = x;
            } catch (const std::invalid_argument&) {
                return py::ssize_t(i);
            }
        }
        return -1;
    }

private:
    struct Driven {
        SchedulePointer schedule;
        int64_t index;
        double lower, upper, smallest;
    };
    py::array_t<double> settings_;
    std::vector<Driven> driven_;
};

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
        .def(py::init([](const std::string& form, std::vector<double> numbers) {
                 auto schedule = closed_form(form, numbers);
                 if (!schedule) throw py::value_error("form: got '" + form + "', no such form");
                 return BoundSchedule{std::move(schedule), form, {}, std::move(numbers)};
             }),
             py::arg("form"), py::arg("numbers"))
        .def(py::init([](const std::string& operation, const std::vector<BoundSchedule>& children,
                         const std::vector<double>& numbers) {
                 Schedules parts;
                 for (const BoundSchedule& child : children) parts.push_back(child.schedule);
                 return BoundSchedule{composed(operation, std::move(parts), numbers), operation,
                                      children, numbers};
             }),
             py::arg("operation"), py::arg("children"), py::arg("numbers"))
        .def("text", &BoundSchedule::text)
        .def("range", &range, py::arg("start"), py::arg("stop") = py::none(), py::pos_only(),
             py::kw_only(), py::arg("out") = py::none());
    py::class_<Drive>(m, "Drive")
        .def(py::init<py::array_t<double>, const std::vector<Drive::Entry>&>(),
             py::arg("settings").noconvert(), py::arg("entries"))
        .def("__call__", &Drive::operator(), py::arg("k"));
}

}    // namespace gradstep::bindings
