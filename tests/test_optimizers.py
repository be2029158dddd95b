"""How an optimizer behaves in Python: structures, groups, schedules, saving, threads and memory.

What a rule computes is the business of test_rules.py; what is refused, of test_bad_input.py.
"""

import copy
import functools
import gc
import json
import os
import pickle
import sys
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gradstep as gs
from cases import CASES, RULES, assert_same_bits, case_id
from processes import run

BIG = 300_000  # elements: enough for a step to be shared among threads


def normal(n, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def quadratic(x):
    """A gradient that depends on the parameter, so that a wrong step spoils all later ones."""
    # Of an array without dimensions NumPy's arithmetic makes a scalar.
    return np.asarray(x * x.dtype.type(0.5) + x.dtype.type(0.1))


def build(case, params):
    rule, options = case
    return getattr(gs, rule)(params, **options)


def assert_same_state(one, other):
    """Equal counts and equal bits in all states."""
    assert one.t == other.t
    assert one.state.keys() == other.state.keys()
    for name, entry in one.state.items():
        assert entry.keys() == other.state[name].keys()
        assert entry["step"] == other.state[name]["step"]
        for key in entry.keys() - {"step"}:
            assert_same_bits(entry[key], other.state[name][key], f"{key} of {name}")


OF_GRADIENTS = [case for case in CASES if case[0] in RULES]  # whose step takes nothing else
each_case = pytest.mark.parametrize("case", OF_GRADIENTS, ids=map(case_id, OF_GRADIENTS))

# ---- structures ----

# fmt: off - a table reads by its rows
# id: from two arrays to params, or from their gradients to grads; and the names in the state
STRUCTURES = {
    "list": (lambda a, b: [a, b], lambda a, b: [a, b], ["0", "1"]),
    "tuple": (lambda a, b: (a, b), lambda a, b: (a, b), ["0", "1"]),
    "tuple for list": (lambda a, b: [a, b], lambda a, b: (a, b), ["0", "1"]),
    "mapping": (lambda a, b: {"w": a, "b": b}, lambda a, b: {"w": a, "b": b}, ["w", "b"]),
    "mapping in another order": (
        lambda a, b: {"w": a, "b": b},
        lambda a, b: {"b": b, "w": a},
        ["w", "b"],
    ),
    "one group": (lambda a, b: [{"params": [a, b]}], lambda a, b: [[a, b]], ["0", "1"]),
    "groups of arrays": (
        lambda a, b: [{"params": a}, {"params": b}],
        lambda a, b: [a, b],
        ["0.0", "1.0"],
    ),
    "groups of lists": (
        lambda a, b: ({"params": [a]}, {"params": (b,)}),
        lambda a, b: ([a], [b]),
        ["0.0", "1.0"],
    ),
    "groups of mappings": (
        lambda a, b: [{"params": {"w": a}}, {"params": {"b": b}}],
        lambda a, b: [{"w": a}, {"b": b}],
        ["0.w", "1.b"],
    ),
    "named groups, mixed": (
        lambda a, b: [{"params": {"w": a}, "name": "body"}, {"params": b, "name": "head"}],
        lambda a, b: [{"w": a}, b],
        ["body.w", "head.0"],
    ),
}


# fmt: on


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(name):
    """Each structure of parameters and gradients makes the same updates, in place."""
    params_of, grads_of, names = STRUCTURES[name]
    alone = [normal((3, 5)), normal(7, np.float64, 1)]
    arrays = [x.copy() for x in alone]
    opt, singles = gs.Adam(params_of(*arrays)), [gs.Adam(x) for x in alone]
    for t in range(1, 4):
        report = opt.step(grads_of(*map(quadratic, arrays)))
        for single, x in zip(singles, alone, strict=True):
            single.step(quadratic(x))
        assert report.t == opt.t == t
    for x, y in zip(arrays, alone, strict=True):
        assert_same_bits(x, y)
    assert list(opt.state) == names
    for key, single in zip(names, singles, strict=True):
        assert_same_bits(opt.state[key]["exp_avg_sq"], single.state["0"]["exp_avg_sq"])


def test_one_array():
    """An array alone takes its gradient alone."""
    p = np.ones(3)
    opt = gs.SGD(p, lr=0.5)
    opt.step(np.array([1.0, 2.0, 3.0]))
    assert p.tolist() == [0.5, 0.0, -0.5]
    assert opt.groups[0].params is p


def test_containers_are_not_kept():
    """What is done to the caller's list or mapping later does not reach the optimizer."""
    arrays = {"w": np.ones(2), "b": np.ones(2)}
    opt = gs.SGD(arrays, lr=1.0)
    w = arrays.pop("w")
    opt.step({"w": np.ones(2), "b": np.ones(2)})
    assert w.tolist() == [0.0, 0.0]
    # Another thread may change the list while the step runs without the interpreter's lock.
    grads = [np.ones(2)]
    assert gs.SGD([np.ones(2)]).groups[0].flatten("grads", grads) is not grads


def test_none_gradient():
    """It leaves its parameter, state and own count untouched, while the optimizer counts on."""
    params = {"w": normal(5), "b": normal(3, seed=1)}
    opt = gs.Adam(params, lr=lambda k: 0.1 * (k + 1))
    opt.step({key: quadratic(x) for key, x in params.items()})
    b, state = params["b"].copy(), copy.deepcopy(opt.state["b"])
    report = opt.step({"w": quadratic(params["w"]), "b": None})
    assert (report.t, report.lr) == (2, 0.2)
    assert_same_bits(params["b"], b)
    assert opt.state["b"]["step"] == state["step"] == 1
    assert_same_bits(opt.state["b"]["exp_avg"], state["exp_avg"])
    assert opt.state["w"]["step"] == 2
    # Nothing at all is a step as well.
    assert opt.step({"w": None, "b": None}).t == 3
    assert [entry["step"] for entry in opt.state.values()] == [2, 1]


def test_none_for_one_array():
    """The one array's gradient may be None, too."""
    p = normal(3)
    opt = gs.SGD(p)
    before = p.copy()
    assert opt.step(None).t == 1
    assert_same_bits(p, before)


# ---- groups ----


def two_groups(**hyper):
    body, head = normal(4), normal(4, seed=1)
    opt = gs.SGD(
        [
            {"params": {"w": body}, "name": "body", "lr": 0.5},
            {"params": {"w": head}, "name": "head", "momentum": 0.9},
        ],
        lr=0.25,
        **hyper,
    )
    return opt, body, head


def test_groups_own_hyperparameters():
    """A group's entries win over the constructor's, and each group has the states it needs."""
    opt, body, head = two_groups()
    wanted = body - np.float32(0.5), head - np.float32(0.25)
    report = opt.step([{"w": np.ones(4, np.float32)}] * 2)
    assert report.lr == (0.5, 0.25)
    assert_same_bits(body, wanted[0])
    assert_same_bits(head, wanted[1])
    assert opt.state["body.w"].keys() == {"step"}
    assert opt.state["head.w"].keys() == {"step", "momentum_buffer"}


def test_groups_by_name_and_index():
    """Names and positions reach the same group."""
    opt, body, _ = two_groups()
    assert [group.name for group in opt.groups] == ["body", "head"]
    assert opt.groups["body"] is opt.groups[0]
    assert opt.groups["head"] is opt.groups[-1]
    assert opt.groups[:1] == (opt.groups[0],)
    assert len(opt.groups) == 2
    assert opt.groups["body"].params["w"] is body
    with pytest.raises(KeyError, match="tail"):
        opt.groups["tail"]


@pytest.mark.parametrize("key", [0, "body"])
def test_assignment_takes_effect_at_the_next_step(key):
    """And is checked there: until it is mended, no step is made."""
    opt, body, _ = two_groups()
    grads = [{"w": np.ones(4, np.float32)}, {"w": None}]
    opt.groups[key]["lr"] = 0.125
    before = body.copy()
    assert opt.step(grads).lr == (0.125, 0.25)
    assert_same_bits(body, before - np.float32(0.125))

    opt.groups[key]["lr"] = -1.0
    before = body.copy()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"groups\[0\] lr: got -1.0"):
            opt.step(grads)
    assert_same_bits(body, before)
    opt.groups[key]["lr"] = 0.25
    assert opt.step(grads).t == 2
    assert_same_bits(body, before - np.float32(0.25))


def test_change_within_a_list_is_not_lost():
    """Lists become tuples: a change within one could not be seen."""
    opt = gs.Adam(np.ones(2), betas=[0.9, 0.99])
    assert opt.groups[0]["betas"] == (0.9, 0.99)
    opt.groups[0]["betas"] = [0.5, 0.9]
    opt.step(np.ones(2))
    assert opt.groups[0]["betas"] == (0.5, 0.9)
    assert opt.state["0"]["exp_avg"].tolist() == [0.5, 0.5]


def test_frozen():
    """A frozen group keeps parameters, states and counts, with or without gradients."""
    opt, body, head = two_groups()
    ones = {"w": np.ones(4, np.float32)}
    opt.step([ones, ones])
    opt.groups["head"]["frozen"] = True
    before = head.copy(), opt.state["head.w"]["momentum_buffer"].copy(), body.copy()
    opt.step([ones, ones])
    opt.step([ones, {"w": None}])
    assert_same_bits(head, before[0])
    assert_same_bits(opt.state["head.w"]["momentum_buffer"], before[1])
    assert (body != before[2]).all()
    assert [entry["step"] for entry in opt.state.values()] == [3, 1]
    opt.groups["head"]["frozen"] = False
    opt.step([ones, ones])
    assert opt.state["head.w"]["step"] == 2
    assert (head != before[0]).all()


def test_frozen_from_the_start():
    """frozen is an entry of a group; with it nothing moves."""
    p = np.ones(3)
    gs.Adam([{"params": p, "frozen": True}]).step([np.ones(3)])
    assert p.tolist() == [1, 1, 1]


def test_add_group():
    """States and counts that were there stay; gradients are a list of groups from then on."""
    one, two, alone = normal(4), normal(4, seed=1), normal(4)
    opt, single = gs.Adam({"w": one}), gs.Adam({"w": alone})
    opt.step({"w": quadratic(one)})
    single.step({"w": quadratic(alone)})
    opt.add_group({"params": [two], "name": "new", "lr": 0.5, "betas": (0.0, 0.5)})
    assert opt.groups["new"]["lr"] == 0.5
    assert opt.groups["new"]["eps"] == opt.groups[0]["eps"]
    report = opt.step([{"w": quadratic(one)}, [quadratic(two)]])
    single.step({"w": quadratic(alone)})
    assert report == gs.Report(2, (1e-3, 0.5))
    assert_same_bits(one, alone)
    assert [entry["step"] for entry in opt.state.values()] == [2, 1]
    assert list(opt.state) == ["0.w", "new.0"]


def test_refused_group_leaves_the_optimizer_at_work():
    """After a refused add_group, gradients still have the old structure."""
    p = normal(4)
    opt = gs.Adam(p)
    for bad in [p, p[1:3], np.ones(2, int)]:
        with pytest.raises((TypeError, ValueError)):
            opt.add_group({"params": bad})
    assert len(opt.groups) == 1
    assert opt.step(quadratic(p)).t == 1


# ---- reports and repr ----


def test_report():
    """It prints well, compares, and converts."""
    report = gs.SGD(np.ones(2), lr=0.5).step(np.ones(2))
    assert repr(report) == "Report(t=1, lr=0.5)"
    assert report.to_dict() == {"t": 1, "lr": 0.5}
    assert json.loads(report.to_json()) == json.loads(json.dumps(report.to_dict()))
    assert report == gs.Report(1, 0.5)
    assert report != gs.Report(2, 0.5)
    assert report != "Report(t=1, lr=0.5)"
    assert len({report, gs.Report(1, 0.5)}) == 1


def test_report_of_groups():
    """One rate a group, in a tuple, where there are several; of one group in a list, a number."""
    opt, _, _ = two_groups()
    report = opt.step([{"w": None}, {"w": None}])
    assert repr(report) == "Report(t=1, lr=(0.5, 0.25))"
    assert json.loads(report.to_json()) == {"t": 1, "lr": [0.5, 0.25]}
    assert gs.SGD([{"params": np.ones(1)}], lr=1).step([None]).lr == 1.0


def test_report_of_numpy_rates_is_plain():
    """JSON takes what NumPy's numbers became."""
    report = gs.SGD(np.ones(1), lr=lambda k: np.float32(0.5)).step(np.ones(1))  # noqa: ARG005
    assert report.to_json() == '{"t": 1, "lr": 0.5}'
    assert gs.SGD(np.ones(1), lr=np.float64(0.5)).step(None).to_json() == '{"t": 1, "lr": 0.5}'


def test_repr():
    """The rule, how far it is, how much it holds, and each group's hyperparameters."""
    opt, _, _ = two_groups()
    assert repr(opt) == textwrap.dedent("""\
        SGD(t=0, 2 parameters, 8 elements, states 16 bytes)
          group 0 'body': lr=0.5, momentum=0, dampening=0, weight_decay=0, nesterov=False, \
maximize=False, frozen=False
          group 1 'head': lr=0.25, momentum=0.9, dampening=0, weight_decay=0, nesterov=False, \
maximize=False, frozen=False""")
    assert repr(gs.Adam(np.zeros(1000))).startswith(
        "Adam(t=0, 1 parameter, 1,000 elements, states 16,000 bytes)\n  group 0: lr=0.001, betas="
    )


# ---- schedules and functions ----

# A function of k for each kind of hyperparameter.
DRIVEN = [
    ("SGD", {"lr": lambda k: 0.1 / (k + 1)}),
    ("SGD", {"momentum": lambda k: 0.5 + 0.1 * k, "weight_decay": lambda k: 0.01 * k}),
    ("SGD", {"dampening": lambda k: 0.1 * k, "momentum": 0.9}),
    ("Adagrad", {"lr": lambda k: 0.1 * k, "lr_decay": lambda k: 0.01 * k}),
    ("RMSprop", {"alpha": lambda k: 0.9 + 0.01 * k, "eps": lambda k: 1e-8 * (k + 1)}),
    ("Adam", {"betas": (lambda k: 0.9 - 0.1 * k, 0.999)}),
    ("AdamW", {"betas": (0.9, lambda k: 0.9 + 0.01 * k)}),
    ("AdamW", {"weight_decay": lambda k: 0.1 / (k + 1), "lr": 0.1}),
    ("AdamW", {"lr": gs.schedules.cosine(0.1, total=5)}),
]


def at(value, k):
    """The number that a hyperparameter is at step k."""
    if isinstance(value, tuple):
        return tuple(at(v, k) for v in value)
    return value(k) if callable(value) else value


@pytest.mark.parametrize("case", DRIVEN, ids=lambda case: f"{case[0]}({', '.join(case[1])})")
def test_functions_of_the_step(case):
    """A function of k = 0, 1, … is the same as assigning its values before each step."""
    rule, hyper = case
    p, q = normal(50), normal(50)
    driven = build(case, p)
    constant = getattr(gs, rule)(q, **{key: at(value, 0) for key, value in hyper.items()})
    for k in range(4):
        constant.groups[0].update({key: at(value, k) for key, value in hyper.items()})
        report = driven.step(quadratic(p))
        assert report == constant.step(quadratic(q))
        assert report.lr == at(driven.groups[0]["lr"], k)
    assert_same_bits(p, q)
    assert_same_state(driven, constant)


def test_functions_are_called_once_a_step_with_an_integer():
    """k counts the optimizer's steps, also those that gave no gradient."""
    calls = []
    opt = gs.SGD(np.ones(2), lr=lambda k: calls.append(k) or 0.1)
    for g in [np.ones(2), None, np.ones(2)]:
        opt.step(g)
    assert calls == [0, 1, 2]
    assert all(type(k) is int for k in calls)


def test_a_refused_step_does_not_count():
    """The function gets the same k again."""
    calls = []
    opt = gs.SGD(np.ones(2), lr=lambda k: calls.append(k) or 0.1)
    with pytest.raises(TypeError):
        opt.step(np.ones(2, np.int32))
    opt.step(np.ones(2))
    assert calls == [0, 0]
    assert opt.t == 1


def test_function_to_number_and_back():
    """A function may take a number's place, and a number a function's."""
    opt = gs.SGD(np.ones(1), lr=0.5)
    opt.step(None)
    opt.groups[0]["lr"] = lambda k: 0.1 * k
    assert opt.step(None).lr == 0.1
    opt.groups[0]["lr"] = 0.25
    assert opt.step(None).lr == 0.25


# ---- copies, pickles, state dicts ----


def half_way(case, params):
    """An optimizer after three steps, one parameter lagging behind."""
    opt = build(case, params)
    for i in range(3):
        opt.step(
            {key: None if key == "b" and i == 1 else quadratic(x) for key, x in params.items()}
        )
    return opt


def new_params():
    return {"w": normal((9, 70)), "b": normal(9, np.float64, 1), "s": np.array(0.5), "e": normal(0)}


def go_on(opt, params):
    for _ in range(3):
        report = opt.step({key: quadratic(x) for key, x in params.items()})
    return report


def copied(opt):
    other = copy.deepcopy(opt)
    return other, other.groups[0].params


def pickled(opt, protocol=pickle.HIGHEST_PROTOCOL):
    other = pickle.loads(pickle.dumps(opt, protocol))
    return other, other.groups[0].params


def pickled_together(opt):
    """The arrays are one object, inside and outside."""
    other, params = pickle.loads(pickle.dumps((opt, opt.groups[0].params)))
    assert other.groups[0].params["w"] is params["w"]
    return other, params


COPIES = {
    "deepcopy": copied,
    "pickle": pickled,
    "pickle 2": functools.partial(pickled, protocol=2),
    "pickle together": pickled_together,
}


@pytest.mark.parametrize("way", COPIES)
@each_case
def test_copies_continue(case, way):
    """A copy goes on with the same bits, apart from the original."""
    params = new_params()
    opt = half_way(case, params)
    other, others = COPIES[way](opt)
    assert repr(other) == repr(opt)
    at_copy = {key: x.copy() for key, x in params.items()}
    report = go_on(opt, params)
    for key, x in at_copy.items():
        assert_same_bits(others[key], x, "the original moved the copy")
    assert go_on(other, others) == report
    for key, x in params.items():
        assert_same_bits(others[key], x)
    assert_same_state(opt, other)


def test_copies_keep_groups():
    """Names, own hyperparameters, schedules and what was changed last."""
    opt, _, _ = two_groups()
    opt.groups["body"]["lr"] = gs.schedules.cosine(0.5, total=10)
    for other in [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]:
        assert other.groups["head"]["momentum"] == 0.9
        other.groups["head"]["momentum"] = 0.5
        assert opt.groups["head"]["momentum"] == 0.9
        assert other.step([{"w": None}] * 2).lr == (0.5, 0.25)


@each_case
def test_state_dict_resumes(case):
    """In the optimizer that has gone on, and in a fresh one with other hyperparameters."""
    params = new_params()
    opt = half_way(case, params)
    saved = opt.state_dict()
    start = {key: x.copy() for key, x in params.items()}
    report = go_on(opt, params)
    wanted = {key: x.copy() for key, x in params.items()}

    for key, x in params.items():
        x[...] = start[key]
    opt.load_state_dict(saved)
    assert opt.t == 3
    assert go_on(opt, params) == report

    fresh_params = {key: x.copy() for key, x in start.items()}
    fresh = build(case, fresh_params)
    fresh.groups[0]["lr"] = 0.9
    fresh.load_state_dict(pickle.loads(pickle.dumps(saved)))
    assert go_on(fresh, fresh_params) == report
    for key, x in wanted.items():
        assert_same_bits(params[key], x)
        assert_same_bits(fresh_params[key], x)
    assert_same_state(opt, fresh)


def test_state_dict_is_a_copy():
    """Neither side's changes reach the other, after saving and after loading."""
    p = normal(5)
    opt = gs.Adam(p)
    opt.step(quadratic(p))
    saved = opt.state_dict()
    assert saved.keys() == {"rule", "t", "state", "groups", "stages", "storages", "sample"}
    assert saved["state"]["0"].keys() == {"step", "exp_avg", "exp_avg_sq"}
    before = copy.deepcopy(saved)
    opt.step(quadratic(p))
    opt.groups[0]["lr"] = 0.5
    np.testing.assert_equal(saved, before)

    opt.load_state_dict(saved)
    saved["state"]["0"]["exp_avg"][:] = 9
    saved["groups"][0]["lr"] = 9.0
    assert (opt.state["0"]["exp_avg"] != 9).all()
    assert opt.groups[0]["lr"] == 1e-3


def test_state_is_live():
    """What opt.state shows is what the next step takes; a loaded state stays at its place."""
    p = np.zeros(3)
    opt = gs.SGD(p, lr=1.0, momentum=0.5)
    opt.step(np.ones(3))
    buffer = opt.state["0"]["momentum_buffer"]
    saved = opt.state_dict()
    buffer[:] = 4
    opt.step(np.zeros(3))
    assert p.tolist() == [-3.0] * 3
    opt.load_state_dict(saved)
    assert buffer.tolist() == [1.0] * 3


def test_state_dict_of_groups():
    """Groups' own hyperparameters and names are in it."""
    opt, _, _ = two_groups()
    saved = opt.state_dict()
    assert [(g["name"], g["params"], g["lr"]) for g in saved["groups"]] == [
        ("body", ["w"], 0.5),
        ("head", ["w"], 0.25),
    ]
    other, _, _ = two_groups()
    other.groups["body"]["lr"] = 0.125
    other.load_state_dict(saved)
    assert other.groups["body"]["lr"] == 0.5


def test_refused_state_dict_changes_nothing():
    """Not even the groups before the one that is refused."""
    opt, body, head = two_groups()
    opt.step([{"w": quadratic(body)}, {"w": quadratic(head)}])
    saved = opt.state_dict()
    saved["t"], saved["groups"][0]["lr"] = 9, 0.125
    saved["state"]["head.w"]["step"] = 9
    saved["groups"][1]["lr"] = -1
    with pytest.raises(ValueError, match=r"groups\[1\] lr: got -1"):
        opt.load_state_dict(saved)
    assert (opt.t, opt.state["head.w"]["step"]) == (1, 1)
    assert opt.step([{"w": None}, {"w": None}]).lr == (0.5, 0.25)


# ---- threads and processes ----


def waiting(entered, leave):
    """A rate that holds a step up until it is let go."""

    def rate(k):
        entered.set()
        assert leave.wait(20)
        return 0.5

    return rate


def test_same_optimizer_at_once_raises():
    """While it steps in one thread, nothing else may be done with it in another."""
    entered, leave = threading.Event(), threading.Event()
    p = np.ones(3)
    opt = gs.SGD(p, lr=waiting(entered, leave))
    saved = gs.SGD(np.ones(3), lr=0.5).state_dict()
    worker = threading.Thread(target=opt.step, args=(np.ones(3),))
    worker.start()
    try:
        assert entered.wait(20)
        for what, call in {
            "step": lambda: opt.step(np.ones(3)),
            "add_group": lambda: opt.add_group({"params": np.ones(1)}),
            "state_dict": opt.state_dict,
            "load_state_dict": lambda: opt.load_state_dict(saved),
            "pickling": lambda: pickle.dumps(opt),
            "deepcopy": lambda: copy.deepcopy(opt),
        }.items():
            with pytest.raises(RuntimeError, match=f"^{what}: this optimizer is at work"):
                call()
    finally:
        leave.set()
        worker.join()
    assert p.tolist() == [0.5] * 3
    assert opt.step(np.ones(3)).t == 2


def test_stepping_within_a_step_raises():
    """A function of the step that steps its own optimizer is refused like another thread."""
    p = np.ones(3)
    opt = gs.SGD(p, lr=lambda k: opt.step(np.ones(3)).lr)  # noqa: ARG005
    with pytest.raises(RuntimeError, match="at work"):
        opt.step(np.ones(3))
    assert p.tolist() == [1.0] * 3


@pytest.mark.parametrize("count", [1, 4])
def test_two_optimizers_at_once(count):
    """Two callers at once: one has the team, the other works alone, and neither is disturbed."""
    gs.set_num_threads(count)
    arrays = [normal(BIG, seed=seed) for seed in range(2)]
    alone = [x.copy() for x in arrays]
    failures = []
    barrier = threading.Barrier(2)

    def train(p):
        try:
            opt = gs.Adam(p, lr=0.1)
            barrier.wait(20)
            for _ in range(20):
                opt.step(quadratic(p))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=train, args=(p,)) for p in arrays]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    for p, q in zip(arrays, alone, strict=True):
        opt = gs.Adam(q, lr=0.1)
        for _ in range(20):
            opt.step(quadratic(q))
        assert_same_bits(p, q)


def test_gil_is_released():
    """While a step runs, other threads go on."""
    p, g = np.zeros(5_000_000, np.float32), np.ones(5_000_000, np.float32)
    opt = gs.SGD(p, lr=1.0)
    opt.step(g)
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(float(p[-1]))
            time.sleep(0)

    # Nobody is asked to make way for others: only who lets go of the lock does.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    watcher = threading.Thread(target=watch)
    try:
        watcher.start()
        for _ in range(20):
            opt.step(g)
    finally:
        done.set()
        sys.setswitchinterval(interval)
        watcher.join()
    assert len(set(seen)) > 1, "the watcher never ran during the steps"


FORK = """
    import os, signal, sys, warnings
    import numpy as np
    import gradstep as gs
    # Forking a process with threads is what is tested.
    warnings.simplefilter("ignore", DeprecationWarning)

    gs.set_num_threads(4)
    p = np.arange({n}, dtype=np.float32)
    opt = gs.Adam(p, lr=0.1)
    for _ in range(3):
        opt.step(np.cos(p))

    def go_on():
        signal.alarm(60)    # a child that hangs dies
        for _ in range(3):
            opt.step(np.cos(p))
        return p.tobytes()
"""
WAYS = {
    "fork": """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pipe.write(go_on())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert theirs == go_on()
    """,
    "multiprocessing": """
    import multiprocessing

    def work(seed):
        first = go_on()
        own = np.full({n}, seed, dtype=np.float32)
        gs.AdamW(own, lr=0.5).step(np.ones_like(own))
        return first, float(own[0])

    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(work, [1, 2], chunksize=1)
    mine = go_on()
    assert results[0][0] == mine
    assert results[0][1] != results[1][1]
    """,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("way", WAYS)
def test_fork(way):
    """A child steps right after its parent used the team, with the same bits."""
    run((textwrap.dedent(FORK) + textwrap.dedent(WAYS[way])).replace("{n}", str(BIG)))


# ---- memory ----


def resident():
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc/self/statm")
@pytest.mark.parametrize("rule", RULES)
def test_a_step_allocates_nothing(rule):
    """Nothing that grows with the parameters: neither NumPy's or Python's memory nor C++'s."""
    n, little = 4_000_000, 100_000
    params = [np.ones(n, np.float32), np.ones((100, 100)), *(np.ones(10) for _ in range(50))]
    grads = [np.full_like(p, 0.5) for p in params]
    constant = "lr" in gs.rule.RULES[rule].constant
    opt = getattr(gs, rule)(params, lr=1e-3 if constant else lambda k: 1e-3 / (k + 1))
    for _ in range(3):
        opt.step(grads)  # threads, scratch and pages of the states come once
    gc.collect()
    tracemalloc.start()
    try:
        opt.step(grads)
        before, resident_before = tracemalloc.get_traced_memory()[0], resident()
        tracemalloc.reset_peak()
        opt.step(grads)
        assert tracemalloc.get_traced_memory()[1] - before < little
        for _ in range(20):
            opt.step(grads)
        assert tracemalloc.get_traced_memory()[0] - before < little
    finally:
        tracemalloc.stop()
    assert resident() - resident_before < 20 * little


def test_optimizers_are_collected():
    """Parameters and gradients live no longer than who holds them."""
    p = np.ones(10)
    g = np.ones(10)
    holders = sys.getrefcount(p), sys.getrefcount(g)
    opt = gs.Adam([p])
    opt.step([g])
    assert sys.getrefcount(g) == holders[1]
    del opt
    gc.collect()
    assert sys.getrefcount(p) == holders[0]


# ---- importing, targets and the environment ----


def test_import_is_light():
    """numpy alone; whatever else is installed stays where it is."""
    out = run("""
        import sys
        import gradstep
        others = {"torch", "jax", "matplotlib", "sklearn", "tqdm", "argparse", "optax", "keras",
                  "ml_dtypes", "safetensors"}
        print(sorted(others & set(sys.modules)))
        print(sorted(name for name in sys.modules if name.startswith("gradstep.")))
    """)
    others, own = out.splitlines()
    assert others == "[]"
    for module in ["bench", "checkpoint", "cli", "demo", "plots"]:
        assert f"gradstep.{module}" not in own


def test_submodules_are_imported_on_first_use():
    """`gs.tuning.range_test` needs no import of its own, and what nobody asked for stays out."""
    out = run("""
        import sys
        import gradstep as gs
        def loaded():
            return sorted(m for m in ("tuning", "torch", "pages") if f"gradstep.{m}" in sys.modules)
        print(loaded(), {"jax", "pages", "plots", "torch", "tuning"} & set(dir(gs)) and loaded())
        print(gs.tuning.range_test.__name__, hasattr(gs, "pages"), loaded())
        from gradstep import plots
        print(gs.plots is plots, gs.tuning.sklearn.__name__)
        print(hasattr(gs, "nonsense"), hasattr(gs.tuning, "nonsense"))
        try:
            gs.nonsense
        except AttributeError as error:
            print(error)
    """)
    assert out.splitlines() == [
        "[] []",
        "range_test True ['pages', 'tuning']",
        "True gradstep.tuning.sklearn",
        "False False",
        "module 'gradstep' has no attribute 'nonsense'",
    ]


@pytest.mark.parametrize(
    ("package", "use", "message"),
    [
        ("torch", "gs.torch.AdamW", "torch is needed for gradstep.torch: pip install torch"),
        ("jax", "gs.jax", 'jax is needed for gradstep.jax: pip install "gradstep[jax]"'),
        ("optax", "hasattr(gs, 'jax')", "is needed for gradstep.jax: pip install"),
        ("keras", "gs.tuning.keras", "keras is needed for gradstep.tuning.keras: pip install"),
    ],
)
def test_submodules_whose_package_is_missing(package, use, message):
    """The error in words; and `dir` leaves them out, so that looking at everything does no harm."""
    out = run(f"""
        import inspect, sys
        sys.modules[{package!r}] = None
        import gradstep as gs
        for _ in range(2):
            try:
                {use}
            except ImportError as error:
                print(error)
        print({package!r} in dir(gs), {package!r} in dir(gs.tuning), len(dir(gs)) > 50)
        sys.modules["torch"] = sys.modules["jax"] = None
        names = dir(gs)
        print([name for name, _ in inspect.getmembers(gs)] == names)
    """)
    first, second, names, members = out.splitlines()
    assert message in first
    assert first == second
    assert (names, members) == ("False False True", "True")


@pytest.mark.parametrize("name", gs.config()["targets"])
def test_target_from_the_environment(name):
    """GRADSTEP_TARGET chooses at import."""
    assert (
        run("import gradstep; print(gradstep.config()['target'])", GRADSTEP_TARGET=name).strip()
        == name
    )


def test_target_default():
    """Without it, or with nothing in it, the fastest that the processor runs."""
    assert (
        run("import gradstep; print(gradstep.config()['target'])", GRADSTEP_TARGET="").strip()
        == gs.config()["targets"][-1]
    )


@pytest.mark.parametrize("variable", ["GRADSTEP_TARGET", "GRADSTEP_TEAM"])
def test_unknown_name_in_the_environment(variable):
    """It raises at import, with the variable's name."""
    assert run(
        """
        try:
            import gradstep
        except ValueError as error:
            print(error)
    """,
        **{variable: "turbo"},
    ).startswith(f"{variable}: got 'turbo', wanted ")


def test_team_from_the_environment():
    """GRADSTEP_TEAM chooses, too."""
    script = "import gradstep; print(gradstep.config()['team'])"
    for team in ("auto", "native", "openmp"):
        assert run(script, GRADSTEP_TEAM=team).strip() == team
    assert run(script, GRADSTEP_TEAM="").strip() == "auto"
    assert run(script, GRADSTEP_TEAM=None).strip() == "auto"


@pytest.mark.parametrize(("count", "wanted"), [("1", 1), ("0", None), ("1,4", 1), ("1000", None)])
def test_threads_from_the_environment(count, wanted):
    """OMP_NUM_THREADS lowers the default; it never raises it."""
    script = "import gradstep; print(gradstep.get_num_threads())"
    default = int(run(script, OMP_NUM_THREADS=""))
    assert int(run(script, OMP_NUM_THREADS=count)) == (wanted or default)


def test_config(capsys):
    """Everything that decides how steps run, and the same in print."""
    config = gs.config()
    about = {"target", "targets", "refused", "threads", "team", "openmp"}
    about |= {"version", "compiler", "build"}
    assert config.keys() == about
    assert config["target"] in config["targets"]
    assert config["threads"] == gs.get_num_threads() >= 1
    assert config["version"] == gs.__version__
    gs.show_config()
    printed = capsys.readouterr().out
    for key, value in config.items():
        assert f"{key}: " in printed
        if isinstance(value, dict):
            assert all(f"{name}: {why}" in printed for name, why in value.items())
        else:
            assert (value if isinstance(value, str) else str(config["threads"])) in printed


def test_set_target(target):
    """Forced, listed, and used for the next step."""
    assert gs.config()["target"] == target
    p = np.ones(3)
    gs.SGD(p, lr=0.5).step(np.ones(3))
    assert p.tolist() == [0.5] * 3


# ---- what was found by reading the code ----


def test_zero_dimensional_gradients_may_be_numpy_scalars():
    """Arithmetic on 0-d arrays gives scalars: they are what people have in hand."""
    params = {"a": np.array(1.0), "b": np.ones(3)}
    gs.SGD(params, lr=0.5).step({name: 2 * p for name, p in params.items()})
    assert params["a"] == 0
    with pytest.raises(TypeError, match=r"grads\['a'\]: got dtype int64, wanted float32"):
        gs.SGD(params).step({"a": np.int64(1), "b": np.ones(3)})


@pytest.mark.parametrize("off", [False, np.False_], ids=["bool", "numpy"])
@pytest.mark.parametrize(("rule", "option"), [("Adam", "amsgrad"), ("RMSprop", "centered")])
def test_a_state_cannot_be_switched_off(rule, option, off):
    opt = getattr(gs, rule)(np.ones(3), **{option: True})
    opt.groups[0][option] = off
    with pytest.raises(ValueError, match=f"{option}: got .*False.* built with"):
        opt.step(np.ones(3))


def test_shallow_copies_are_refused():
    with pytest.raises(TypeError, match=r"wanted copy\.deepcopy"):
        copy.copy(gs.Adam(np.ones(3)))


@pytest.mark.parametrize("key", ["step", "t"])
def test_counts_stay_countable(key):
    opt = gs.Adam(np.ones(3))
    state = opt.state_dict()
    (state["state"]["0"] if key == "step" else state)[key] = 2**52
    with pytest.raises(ValueError, match=rf"{key}'\]: got 4503599627370496, wanted .* below"):
        opt.load_state_dict(state)


@pytest.mark.parametrize(
    ("rule", "hyper", "what"),
    [
        ("SGD", {"lr": 1e39}, "lr: got 1e[+]39, which rounds to infinity"),
        ("Adam", {"eps": 1e-60}, "eps: got 1e-60, which rounds to 0"),
        (
            "Adagrad",
            {"initial_accumulator_value": 1e300},
            "_value: got 1e[+]300",
        ),
        ("SGD", {"lr": lambda _: 1e39}, "lr: got 1e[+]39, which rounds to infinity"),
    ],
)
def test_float32_must_hold_the_numbers(rule, hyper, what):
    build, grads = getattr(gs, rule), np.ones(3, np.float32)
    with pytest.raises(ValueError, match=what):
        build(np.ones(3, np.float32), **hyper).step(grads)
    build(np.ones(3), **hyper).step(np.ones(3))


def test_an_exhausted_schedule_names_the_hyperparameter():
    schedule = gs.schedules.linear(1.0, 0.0, total=1, past_end="raise")
    opt = gs.SGD(np.ones(3), lr=schedule)
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    with pytest.raises(ValueError, match=r"^lr: t: got 2, wanted .*schedules\.linear"):
        opt.step(np.ones(3))


def test_counts_survive_an_interrupted_step(interrupted):
    """What a signal handler raises right after the core has stepped loses the report alone."""
    g = np.ones(1 << 21)
    opt = gs.Adam(np.ones(1 << 21))
    opt.step(g)

    def step():
        opt.step(g)
        time.sleep(1)  # where the step was the faster

    for _ in range(10):
        interrupted(0.001, step)
    assert opt.t == opt.state["0"]["step"] > 0


def test_groups_params_cannot_grow():
    opt = gs.Adam({"w": np.ones(3)})
    opt.groups[0].params["b"] = np.ones(3)
    copy.deepcopy(opt).step({"w": np.ones(3)})


@pytest.mark.parametrize("arrays", [None, 3.0, "ab"])
def test_global_norm_names_its_argument(arrays):
    with pytest.raises(TypeError, match=r"^arrays: got .*, wanted an array or a sequence"):
        gs.global_norm(arrays)


def test_the_base_class_is_no_rule():
    with pytest.raises(TypeError, match="wanted a rule"):
        gs.Optimizer(np.ones(3), {})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda group: group.__delitem__("lr"), "lr: got nothing"),
        (lambda group: group.pop("lr"), "lr: got nothing"),
        (lambda group: group.popitem(), "frozen: got nothing"),
        (lambda group: group.clear(), "lr: got nothing"),
        (
            lambda group: group.setdefault("speed", 1),
            "speed: got a hyperparameter that Adam does not have",
        ),
        (lambda group: group.update(lr=-1), "lr: got -1"),
        (lambda group: group.__ior__({"lr": -1}), "lr: got -1"),
    ],
    ids=["del", "pop", "popitem", "clear", "setdefault", "update", "ior"],
)
def test_every_way_to_change_a_group_is_seen(change, what):
    opt = gs.Adam(np.ones(3))
    opt.step(np.ones(3))
    change(opt.groups[0])
    with pytest.raises((TypeError, ValueError), match=f"^{what}"):
        opt.step(np.ones(3))
    assert opt.t == 1
