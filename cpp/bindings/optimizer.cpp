// The step, and what belongs to it: sums of squares, exchanging and assigning arrays in one call.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <cstring>
#include <deque>

#include "bindings.hpp"
#include "dlpack.hpp"
#include "leaves.hpp"
#include "plan.hpp"
#include "row_gradient.hpp"

namespace gradstep::bindings {
namespace {

ArrayView view(py::handle object) { return ArrayView::Source()(object); }

// The span of a gradient of some rows, which are coalesced into `rows`.
template <class View> pipeline::Span span_of_rows(const Table& table, const RowGradient& given,
                                                  const typename View::Source& view, Rows& rows) {
    if (!read_rows(table, view(given.indices), view(given.values), rows))
        throw py::value_error("sum_squares: no gradient of some rows");
    const Rows::Values found = rows.coalesce(table, table.storages[rows.storage].compute);
    return {found.data, rows.elements(), found.storage};
}

// rows: keeps the memory of those spans that are not the given arrays themselves.
template <class View>
std::vector<pipeline::Span> spans_of(const Table& table, const py::list& arrays,
                                     const typename View::Source& view, std::deque<Rows>& rows) {
    std::vector<pipeline::Span> spans;
    for (py::handle object : arrays) {
        if (py::isinstance<RowGradient>(object)) {
            rows.emplace_back();
            spans.push_back(
                span_of_rows<View>(table, py::cast<const RowGradient&>(object), view, rows.back()));
            continue;
        }
        const View array = view(object);
        const int storage = array.storage(table);
        if (storage < 0 || !array.readable()) throw py::value_error("sum_squares: not readable");
        spans.push_back({array.data(), array.size(), storage});
    }
    return spans;
}

// The sum of squares over all arrays, or tensors, each number multiplied by the scale before.
template <class View>
double sum_squares(const py::list& arrays, double scale, const typename View::Source& view) {
    const Table& table = dispatch::current();
    std::deque<Rows> rows;
    const std::vector<pipeline::Span> spans = spans_of<View>(table, arrays, view, rows);
    const Unlocked unlocked;
    return pipeline::sum_squares(table, spans, scale);
}

// What of all tensors adds up to that, segment by segment in their order.
py::array_t<double> segment_sums(const py::list& tensors, const TensorView::Source& source,
                                 double scale) {
    const Table& table = dispatch::current();
    std::deque<Rows> rows;
    const std::vector<pipeline::Span> spans = spans_of<TensorView>(table, tensors, source, rows);
    std::vector<double> sums;
    {
        const Unlocked unlocked;
        sums = pipeline::segment_sums(table, spans, scale);
    }
    return py::array_t<double>(py::ssize_t(sums.size()), sums.data());
}

double norm(const py::list& arrays) {
    const Table& table = dispatch::current();
    std::deque<Rows> rows;
    const std::vector<pipeline::Span> spans = spans_of<ArrayView>(table, arrays, {}, rows);
    const Unlocked unlocked;
    return pipeline::norm(table, spans);
}

// Swaps the bytes of each pair of arrays and turns the flag, in one call that no signal divides.
void swap(const std::vector<std::pair<py::array, py::array>>& pairs, py::array_t<int64_t> flag) {
    std::vector<std::pair<char*, char*>> data;
    std::vector<int64_t> sizes;
    for (const auto& [first, second] : pairs) {
        const ArrayView a(first.ptr()), b(second.ptr());
        if (!a.writable() || !b.writable() || a.bytes() != b.bytes())
            throw py::value_error("swap: writable arrays of as many bytes are wanted");
        data.emplace_back(a.data(), b.data());
        sizes.push_back(a.bytes());
    }
    int64_t& turned = *flag.mutable_data();
    const Unlocked unlocked;
    for (size_t i = 0; i < data.size(); ++i)
        std::swap_ranges(data[i].first, data[i].first + sizes[i], data[i].second);
    turned = !turned;
}

// Copies each source into its target and turns the flag, in one call that no signal divides.
void assign(const std::vector<std::pair<py::array, py::array>>& pairs, py::array_t<int64_t> flag) {
    std::vector<std::pair<char*, const char*>> data;
    std::vector<int64_t> sizes;
    for (const auto& [target, source] : pairs) {
        const ArrayView to(target.ptr()), from(source.ptr());
        if (!to.writable() || !from.readable() || to.bytes() != from.bytes())
            throw py::value_error("assign: a writable and a readable array of as many bytes");
        data.emplace_back(to.data(), from.data());
        sizes.push_back(to.bytes());
    }
    int64_t& turned = *flag.mutable_data();
    const Unlocked unlocked;
    for (size_t i = 0; i < data.size(); ++i)
        std::memmove(data[i].first, data[i].second, size_t(sizes[i]));
    turned = 1;
}

// Float32 arrays of one size: `changed` is read and written, `read` is read.
void move(const py::list& changed, const py::list& read) {
    if (read.empty() || read.size() > max_states + 1 || changed.size() > max_states + 1)
        throw py::value_error("move: wanted 1 to " + std::to_string(max_states + 1) +
                              " arrays to read, and no more to change");
    const py::dtype float32 = py::dtype::of<float>();
    pipeline::Streams streams = {{}, {}, view(read[0]).size()};
    auto data = [&](py::handle object) {
        const ArrayView array = view(object);
        if (!array.writable() || array.size() != streams.n || !array.has_dtype(float32))
            throw py::value_error("move: wanted writable float32 arrays of one size");
        return reinterpret_cast<float*>(array.data());
    };
    for (const py::handle array : changed) streams.changed.push_back(data(array));
    for (const py::handle array : read) streams.read.push_back(data(array));
    const Unlocked unlocked;
    pipeline::move(dispatch::current(), streams);
}

template <class View> auto bind_plan(py::module_& m, const char* name) {
    using P = Plan<View>;
    return py::class_<P>(m, name)
        .def_readwrite("threads", &P::threads)
        .def_readwrite("advances", &P::advances)
        .def_readwrite("add_up", &P::add_up)
        .def_readwrite("loss", &P::loss)
        .def_readwrite("norm", &P::norm)
        .def_readwrite("redirect", &P::redirect)
        .def_readonly("refusal", &P::refusal)
        .def_readonly("without_gradient", &P::without_gradient)
        .def_readonly("gradient_norm", &P::gradient_norm)
        .def_readonly("not_finite", &P::not_finite)
        // Two, since arguments that are not given cost a small step 5%.
        .def(
            "step", [](P& p, const py::list& gradients) { return p.step(gradients, 1, false, 0); },
            py::arg("gradients"))
        .def("staged_step", &P::step, py::arg("gradients"), py::arg("loss_scale"),
             py::arg("zero_grads"), py::arg("stats"))
        .def("show", &P::show, py::arg("index"), py::arg("out"))
        .def("direct", &P::direct);
}

void bind_plans(py::module_& m) {
    using Counts = py::array_t<int64_t>;
    using Numbers = py::array_t<double>;
    using Rules = std::vector<std::string>;
    using Tensors = std::vector<TensorSpec>;
    using Shared = std::shared_ptr<Controls>;
    bind_plan<ArrayView>(m, "Plan").def(
        py::init<const Rules&, const Tensors&, Counts, Counts, Numbers, Shared, Numbers, Numbers,
                 Numbers>(),
        py::kw_only(), py::arg("rules"), py::arg("tensors"), py::arg("counts").noconvert(),
        py::arg("clock").noconvert(), py::arg("settings").noconvert(), py::arg("controls"),
        py::arg("sums").noconvert(), py::arg("gathered").noconvert(),
        py::arg("averages").noconvert());
    bind_plan<TensorView>(m, "TensorPlan")
        .def(py::init([](const Rules& rules, const Tensors& tensors, Counts counts, Counts clock,
                         Numbers settings, Shared controls, Numbers sums, Numbers gathered,
                         Numbers averages, const TensorView::Source& source) {
                 return std::make_unique<Plan<TensorView>>(
                     rules, tensors, std::move(counts), std::move(clock), std::move(settings),
                     std::move(controls), std::move(sums), std::move(gathered), std::move(averages),
                     source);
             }),
             py::kw_only(), py::arg("rules"), py::arg("tensors"), py::arg("counts").noconvert(),
             py::arg("clock").noconvert(), py::arg("settings").noconvert(), py::arg("controls"),
             py::arg("sums").noconvert(), py::arg("gathered").noconvert(),
             py::arg("averages").noconvert(), py::arg("source"))
        .def_readwrite("looks", &Plan<TensorView>::looks)
        .def("read_counts", &Plan<TensorView>::read_counts)
        .def("are_alone", &Plan<TensorView>::are_alone, py::arg("known"))
        .def("unshared", &Plan<TensorView>::unshared, py::arg("known"));
    m.attr("DONE") = int(Plan<ArrayView>::done);
    m.attr("SKIPPED") = int(Plan<ArrayView>::skipped);
    m.attr("FIRST_REFUSED_PARAM") = int(Plan<ArrayView>::first_refused_param);
}

void bind_leaves(py::module_& m) {
    py::class_<Leaves>(m, "Leaves")
        .def(py::init<py::list, py::object, int, uintptr_t>(), py::arg("tensors"), py::arg("grad"),
             py::arg("handle") = 0, py::arg("bump") = 0)
        .def("gradients", &Leaves::gradients)
        .def("note_written", &Leaves::note_written, py::arg("gradients"));
    py::class_<Entry>(m, "Entry")
        .def(py::init<const py::dict&, const py::tuple&>(), py::arg("source"), py::arg("keys"))
        .def("note", &Entry::note, py::arg("values"));
    py::class_<Membership>(m, "Membership")
        .def(py::init<const py::list&, const py::list&, const py::object&, const py::list&>(),
             py::arg("groups"), py::arg("tensors"), py::arg("only"), py::arg("entries"))
        .def(
            "look",
            [](const Membership& membership, const py::object& groups) {
                return int(membership.look(groups));
            },
            py::arg("groups"));
    m.attr("CHANGED") = int(Membership::changed);
    m.attr("OTHER_VALUES") = int(Membership::other_values);
    m.attr("UNCHANGED") = int(Membership::unchanged);
}

// What a plan keeps of a tensor, to be tried.
struct KeptTensor {
    TensorView::Source source;
    TensorImage image;
};

void bind_memory(py::module_& m) {
    using Places = TensorMemory::Places;
    py::class_<Places>(m, "TensorPlaces")
        .def(py::init<>())
        .def_readwrite("handle", &Places::handle)
        .def_readwrite("words", &Places::words)
        .def_readwrite("masks", &Places::masks)
        .def_readwrite("dimensions", &Places::dimensions)
        .def_readwrite("most_dimensions", &Places::most_dimensions)
        .def_readwrite("count", &Places::count)
        .def_readwrite("storage", &Places::storage)
        .def_readwrite("data", &Places::data)
        .def_readwrite("size", &Places::size)
        .def_readwrite("memory_end", &Places::memory_end)
        .def_readwrite("deleter", &Places::deleter)
        .def_readwrite("storage_count", &Places::storage_count)
        .def_readwrite("storage_object", &Places::storage_object);
    py::class_<TensorMemory>(m, "TensorMemory")
        .def(py::init<>())
        .def(py::init<Places>(), py::arg("places"))
        .def(
            "learn_alone",
            [](TensorMemory& memory, const py::object& tensor) {
                memory.learn_alone(tensor.ptr());
            },
            py::arg("tensor"))
        .def(
            "is_alone",
            [](const TensorMemory& memory, const py::object& tensor) {
                return memory.is_alone(tensor.ptr());
            },
            py::arg("tensor"))
        .def_property_readonly("counts_holders", &TensorMemory::counts_holders);
}

void bind_sources(py::module_& m) {
    using Source = TensorView::Source;
    py::class_<Source>(m, "TensorSource")
        .def_readwrite("memory", &Source::memory)
        .def(py::init<const py::type&, int, uintptr_t, uintptr_t>(), py::arg("type"),
             py::arg("handle") = -1, py::arg("storage_size") = 0, py::arg("storage_offset") = 0)
        .def(
            "has_memory",
            [](const Source& source, const py::object& tensor) {
                return source.has_memory(tensor.ptr(), source(tensor));
            },
            py::arg("tensor"));
    py::class_<RowGradient>(m, "RowGradient")
        .def(py::init<py::object, py::object, bool>(), py::arg("indices"), py::arg("values"),
             py::arg("coalesced"))
        .def_readonly("indices", &RowGradient::indices)
        .def_readonly("values", &RowGradient::values)
        .def_readonly("coalesced", &RowGradient::coalesced);
    py::class_<KeptTensor>(m, "KeptTensor")
        .def(py::init([](const Source& source, const py::object& tensor) {
                 KeptTensor kept{source, {}};
                 kept.source.keep(tensor.ptr(), source(tensor), kept.image);
                 return kept;
             }),
             py::arg("source"), py::arg("tensor"))
        .def(
            "is_same",
            [](const KeptTensor& kept, const py::object& tensor) {
                return kept.source.is_same(tensor.ptr(), kept.image);
            },
            py::arg("tensor"))
        .def(
            "is_alike",
            [](const KeptTensor& kept, const py::object& tensor) {
                return kept.source.find_alike(tensor.ptr(), kept.image) != nullptr;
            },
            py::arg("tensor"));
}

void bind_specs(py::module_& m) {
    py::class_<TensorSpec>(m, "TensorSpec")
        .def(py::init([](py::object param, py::object low, py::list states,
                         std::vector<std::string> storages, py::list memory, unsigned stochastic,
                         int group, uint64_t key, int64_t start, bool first, py::object average,
                         py::object copy, py::object own, py::object direction) {
                 TensorSpec spec;
                 spec.param = std::move(param);
                 spec.low = std::move(low);
                 spec.states = std::move(states);
                 spec.storages = std::move(storages);
                 spec.memory = std::move(memory);
                 spec.stochastic = stochastic;
                 spec.group = group;
                 spec.key = key;
                 spec.start = start;
                 spec.first = first;
                 spec.average = std::move(average);
                 spec.copy = std::move(copy);
                 spec.own = std::move(own);
                 spec.direction = std::move(direction);
                 return spec;
             }),
             py::kw_only(), py::arg("param"), py::arg("low"), py::arg("states"),
             py::arg("storages"), py::arg("memory"), py::arg("stochastic"), py::arg("group"),
             py::arg("key"), py::arg("start"), py::arg("first"), py::arg("average"),
             py::arg("copy"), py::arg("own") = py::none(), py::arg("direction") = py::none());
    bind_memory(m);
    bind_sources(m);
    py::class_<Controls, std::shared_ptr<Controls>>(m, "Controls")
        .def(py::init<>())
        .def_readwrite("clip_norm", &Controls::clip_norm)
        .def_readwrite("clip_value", &Controls::clip_value)
        .def_readwrite("decay", &Controls::decay)
        .def_readwrite("check_finite", &Controls::check_finite)
        .def_readwrite("seed", &Controls::seed);
    m.attr("SIGN") = int(sign_column);
    m.attr("FROZEN") = int(frozen_column);
    m.attr("FIRST_HYPER") = int(first_hyper);
    m.attr("max_gathered") = max_gathered;
    py::list names;
    for (const char* name : sum_names) names.append(name);
    m.attr("sum_names") = py::tuple(names);
}

}    // namespace

void bind_optimizer(py::module_& m) {
    bind_leaves(m);
    bind_specs(m);
    bind_plans(m);
    m.def(
        "sum_squares",
        [](const py::list& arrays, double scale) {
            return sum_squares<ArrayView>(arrays, scale, {});
        },
        py::arg("arrays"), py::arg("scale") = 1.0);
    m.def("norm", &norm, py::arg("arrays"));
    m.def(
        "sum_squares_of_tensors",
        [](const py::list& tensors, const TensorView::Source& source, double scale) {
            return sum_squares<TensorView>(tensors, scale, source);
        },
        py::arg("tensors"), py::arg("source"), py::arg("scale") = 1.0);
    m.def("segment_sums_of_tensors", &segment_sums, py::arg("tensors"), py::arg("source"),
          py::arg("scale") = 1.0);
    m.attr("overflow_scale") = pipeline::overflow_scale;
    m.attr("sample_elements") = pipeline::sample_blocks * block_elements;
    m.def("swap", &swap, py::arg("pairs"), py::arg("flag").noconvert());
    m.def("assign", &assign, py::arg("pairs"), py::arg("flag").noconvert());
    m.def("move", &move, py::arg("changed"), py::arg("read"));
}

}    // namespace gradstep::bindings
