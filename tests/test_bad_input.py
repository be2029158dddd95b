"""What is refused: before a byte changes, naming the argument, what it got and what it wanted.

Three tables meet the places an array, a number or a function can come in by; a fourth holds the bad
calls that are each their own. The last one holds what looks odd and is legal.
"""

# ruff: noqa: ARG005 - a row's function takes what its column's functions take

import copy
import operator
import pickle
import re
import warnings
from functools import partial

import numpy as np
import pytest

import gradstep as gs
from cases import assert_same_bits

NUMBER = "a finite number ≥ 0"
BELOW_ONE = r"a number in \[0, 1\)"
OVERLAP = "wanted arrays that share no byte"
OWN = "which the step writes; wanted memory of its own"

# ---- the world that a bad call must leave as it is ----


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class World:
    """Parameters, gradients and an optimizer in the middle of its work."""

    def __init__(self, rule="Adam", **hyper):
        self.params = {"w": normal((4, 6)), "b": normal(6, seed=1)}
        self.grads = {"w": normal((4, 6), seed=2), "b": normal(6, seed=3)}
        self.kept = []
        self.opt = getattr(gs, rule)(self.params, **hyper)
        self.opt.step(self.grads)

    def keep(self, given):
        """Watch what the bad call gets as well, if it is an array; returns it."""
        if isinstance(given, np.ndarray):
            self.kept.append(given)
        return given

    def snapshot(self):
        """Every byte and number that a refused call must leave alone."""
        arrays = [*self.params.values(), *self.grads.values(), *self.kept]
        return (
            # The memory behind a view, too: a write may go past what the view shows.
            [
                x.tobytes()
                for array in arrays
                for x in (array, array.base)
                if isinstance(x, np.ndarray)
            ],
            self.opt.t,
            [repr((group.name, dict(group))) for group in self.opt.groups],
            {
                name: {k: v if k == "step" else v.tobytes() for k, v in entry.items()}
                for name, entry in self.opt.state.items()
            },
            gs.get_num_threads(),
            gs.config()["target"],
        )


def assert_refused(world, call, error, message):
    """The call raises exactly this and changes nothing."""
    before = world.snapshot()
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.type is error
    assert world.snapshot() == before


# ---- arrays: each in each place ----


def strange(good, offset):
    """The same numbers at an address that is `offset` bytes off their alignment."""
    raw = np.empty(good.nbytes + good.itemsize, np.uint8)
    start = (offset - raw.ctypes.data) % good.itemsize
    view = np.frombuffer(raw, good.dtype, good.size, start).reshape(good.shape)
    view[...] = good
    return view


def torch_tensor(good):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", exc_type=ImportError).from_numpy(good.copy())


def as_dtype(dtype):
    return lambda good: np.zeros(good.shape, dtype)


def dtype_rows(*dtypes):
    return [
        (f"dtype-{name}", as_dtype(dtype), TypeError, f"dtype {re.escape(name)}", "float32")
        for dtype in dtypes
        for name in [np.dtype(dtype).name]
    ]


class Column:
    """An array of another library, such as a column of a table."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


# Where it is to be updated, a copy is named so that it is kept.
MAKES_ONE = (
    r"numpy.ndarray \((x = numpy.array\(x(, dtype='\w+')?\) makes one, and is then what is updated|"
    r"numpy.asarray\(x(, dtype='\w+')?\) makes one)\)$"
)
STRUCTURED = np.dtype([("x", "f4")])

# fmt: off - a table reads by its rows
# id, from a good float32 array of shape (4, 6) to a bad one, error, got, wanted
BAD_ARRAYS = [
    *dtype_rows(
        np.int32,
        np.int64,
        np.uint8,
        np.bool_,
        np.longdouble,
        np.complex64,
        np.complex128,
        np.object_,
        STRUCTURED,
        "U4",
        "S4",
        "M8[s]",
    ),
    (
        "big-endian",
        lambda a: a.astype(">f4"),
        TypeError,
        r"dtype float32 in foreign byte order \(>f4\)",
        "float32",
    ),
    (
        "transposed",
        lambda a: np.ascontiguousarray(a.T).T,
        ValueError,
        r"strides \(4, 16\) for shape \(4, 6\)",
        "a C-contiguous array",
    ),
    (
        "fortran",
        np.asfortranarray,
        ValueError,
        r"strides \(4, 16\) for shape \(4, 6\)",
        "a C-contiguous array",
    ),
    (
        "strided",
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        ValueError,
        r"strides \(48, 8\)",
        "a C-contiguous array",
    ),
    (
        "negative-strides",
        lambda a: a.copy()[::-1, ::-1],
        ValueError,
        r"strides \(-24, -4\)",
        "a C-contiguous array",
    ),
    (
        "broadcast",
        lambda a: np.broadcast_to(a[0], a.shape),
        ValueError,
        r"a broadcast view \(strides \(0, 4\)\)",
        "an array with memory for each element",
    ),
    (
        "broadcast-writable",
        lambda a: np.lib.stride_tricks.as_strided(a.copy(), a.shape, (0, 0), writeable=True),
        ValueError,
        r"a broadcast view \(strides \(0, 0\)\)",
        "an array with memory for each",
    ),
    (
        "misaligned-1",
        partial(strange, offset=1),
        ValueError,
        "an address that is not a multiple of 4",
        "an aligned array",
    ),
    (
        "misaligned-2",
        partial(strange, offset=2),
        ValueError,
        "an address that is not a multiple of 4",
        "an aligned array",
    ),
    ("masked", np.ma.masked_array, TypeError, "a masked array", "a plain numpy.ndarray"),
    ("list", np.ndarray.tolist, TypeError, "builtins.list", MAKES_ONE),
    ("tuple-of-arrays", tuple, TypeError, "builtins.tuple", MAKES_ONE),
    ("mapping", lambda a: {"w": a}, TypeError, "builtins.dict", "numpy.ndarray$"),
    ("float", lambda a: 1.0, TypeError, "builtins.float", MAKES_ONE),
    ("text", str, TypeError, "builtins.str", "numpy.ndarray$"),
    ("bytes", bytes, TypeError, "builtins.bytes", "numpy.ndarray$"),
    ("memoryview", memoryview, TypeError, "builtins.memoryview", MAKES_ONE),
    ("bytearray", bytearray, TypeError, "builtins.bytearray", MAKES_ONE),
    ("column", Column, TypeError, r"\S*test_bad_input.Column", MAKES_ONE),
    (
        "torch",
        torch_tensor,
        TypeError,
        "torch.Tensor",
        r"numpy.ndarray \(x.detach\(\).numpy\(\) is one on the same memory; gradstep.torch takes",
    ),
]


# fmt: on


def read_only(good):
    bad = good.copy()
    bad.flags.writeable = False
    return bad


# fmt: off
# As a gradient a scalar is what NumPy makes of an array without dimensions.
BAD_SCALAR = [("scalar", lambda a: a[0, 0], TypeError, "numpy.float32", "numpy.ndarray")]
BAD_PARAMS = [
    *BAD_SCALAR,
    ("None", lambda a: None, TypeError, "builtins.NoneType", "numpy.ndarray"),
    ("read-only", read_only, ValueError, "a read-only array", "a writable one"),
    ("bytes-buffer", lambda a: np.frombuffer(a.tobytes(), a.dtype), ValueError,
     "a read-only array", "a writable one"),
    ("broadcast-of-nothing", lambda a: np.broadcast_to(a[0, 0], (0,)), ValueError,
     "a read-only array", "a writable one"),
]
BAD_LIKE = [
    ("longer", lambda a: np.zeros((4, 7), a.dtype), ValueError, r"shape \(4, 7\)", r"\(4, 6\)"),
    ("flat", lambda a: a.ravel(), ValueError, r"shape \(24,\)", r"\(4, 6\)"),
    ("shape-of-transposed", lambda a: a.reshape(6, 4), ValueError, r"shape \(6, 4\)", r"\(4, 6\)"),
    ("extra-dimension", lambda a: a[None], ValueError, r"shape \(1, 4, 6\)", r"\(4, 6\)"),
    ("0-d", lambda a: np.array(1, a.dtype), ValueError, r"shape \(\)", r"\(4, 6\)"),
    ("empty", lambda a: np.zeros((0, 6), a.dtype), ValueError, r"shape \(0, 6\)", r"\(4, 6\)"),
]
BAD_GRADS = [
    ("scalar", lambda a: a[0, 0], ValueError, r"shape \(\)", r"\(4, 6\)"),
    ("float64-scalar", lambda a: np.float64(1), ValueError, r"shape \(\)", r"\(4, 6\)"),
    ("bool-scalar", lambda a: np.True_, TypeError, "dtype bool", "float32"),
]
BAD_STATE = [
    *BAD_SCALAR,
    *dtype_rows(np.float16, np.float64),
    ("None", lambda a: None, TypeError, "builtins.NoneType", "numpy.ndarray"),
]


# fmt: on


def into_constructor(world, bad):
    return partial(gs.Adam, {"b": world.keep(np.ones(3)), "w": bad})


def into_add_group(world, bad):
    group = {"params": {"x": world.keep(np.ones(3)), "w": bad}}
    return lambda: world.opt.add_group(group)


def into_step(world, bad):
    return lambda: world.opt.step({**world.grads, "w": bad})


def into_state(world, bad):
    state = world.opt.state_dict()
    state["t"], state["state"]["b"]["step"] = 7, 7
    state["state"]["b"]["exp_avg"][:] = 1
    state["state"]["w"]["exp_avg_sq"] = bad
    return lambda: world.opt.load_state_dict(state)


def into_norm(world, bad):
    return partial(gs.global_norm, [world.keep(np.ones(3)), bad])


# place, what the argument is called there, rows
ARRAY_PLACES = [
    (into_constructor, r"params\['w'\]", BAD_ARRAYS + BAD_PARAMS),
    (into_add_group, r"params\[1\]\['params'\]\['w'\]", BAD_ARRAYS + BAD_PARAMS),
    (into_step, r"grads\['w'\]", BAD_ARRAYS + BAD_LIKE + BAD_GRADS),
    (
        into_state,
        r"state_dict\['state'\]\['w'\]\['exp_avg_sq'\]",
        BAD_ARRAYS + BAD_LIKE + BAD_STATE,
    ),
    (into_norm, r"arrays\[1\]", BAD_ARRAYS + BAD_SCALAR),
]


@pytest.mark.parametrize(
    ("place", "argument", "make", "error", "got", "wanted"),
    [
        pytest.param(place, argument, *row, id=f"{place.__name__}-{name}")
        for place, argument, rows in ARRAY_PLACES
        for name, *row in rows
    ],
)
def test_arrays(place, argument, make, error, got, wanted):
    """Each bad array in each place where an array comes in."""
    world = World()
    bad = world.keep(make(normal((4, 6), seed=4)))
    assert_refused(world, place(world, bad), error, f"^{argument}: got {got}.*, wanted {wanted}")


# ---- numbers and flags: each in each place ----

LEGAL = {"SGD": {"momentum": 0.5}, "RMSprop": {"momentum": 0.5}}  # so that a momentum may change
HUGE = 10**400

# fmt: off
# rule, hyperparameters, error, message behind the place's prefix
BAD_HYPER = [
    *[("Adam", {name: bad}, error, f"{name}: got {got}, wanted {NUMBER}")
      for name in ["lr", "eps", "weight_decay"]
      for bad, error, got in [
          (-1e-3, ValueError, "-0.001"), (np.nan, ValueError, "nan"), (np.inf, ValueError, "inf"),
          ("0.1", TypeError, "str"), (None, TypeError, "NoneType"), (True, TypeError, "bool")]],
    *[("SGD", {"lr": bad}, error, f"lr: got {got}, wanted {NUMBER}") for bad, error, got in [
        (-np.inf, ValueError, "-inf"), (-1, ValueError, "-1"), (HUGE, ValueError, HUGE),
        (np.float32("nan"), ValueError, "nan"), (np.float64(-1), ValueError, "-1.0"),
        (np.True_, TypeError, "bool_?"), (1j, TypeError, "complex"), ([0.1], TypeError, "list"),
        (np.array(0.1), TypeError, "ndarray"), (np.array([0.1, 0.2]), TypeError, "ndarray"),
        ({"lr": 0.1}, TypeError, "dict")]],
    *[("Adam", {"betas": bad}, error, f"betas{got}, wanted {wanted}")
      for two in ["2 numbers or schedules, as a tuple"]
      for bad, error, got, wanted in [
          ((1.0, 0.9), ValueError, r"\[0\]: got 1.0", BELOW_ONE),
          ((0.9, 1.0), ValueError, r"\[1\]: got 1.0", BELOW_ONE),
          ((-0.1, 0.9), ValueError, r"\[0\]: got -0.1", BELOW_ONE),
          ((0.9, 1.5), ValueError, r"\[1\]: got 1.5", BELOW_ONE),
          ((0.9, np.nan), ValueError, r"\[1\]: got nan", BELOW_ONE),
          ((np.inf, 0.9), ValueError, r"\[0\]: got inf", BELOW_ONE),
          ((0.9, "0.999"), TypeError, r"\[1\]: got str", BELOW_ONE),
          ((0.9, None), TypeError, r"\[1\]: got NoneType", BELOW_ONE),
          ((False, 0.9), TypeError, r"\[0\]: got bool", BELOW_ONE),
          ((0.9,), TypeError, r": got \(0.9,\)", two),
          ((0.9, 0.99, 0.999), TypeError, r": got \(0.9, 0.99, 0.999\)", two),
          ((), TypeError, r": got \(\)", two),
          (0.9, TypeError, ": got 0.9", two),
          ("ab", TypeError, ": got 'ab'", two),
          (None, TypeError, ": got None", two),
          ({"0": 0.9, "1": 0.99}, TypeError, ": got {'0': 0.9, '1': 0.99}", two),
          (np.array([0.9, 0.999]), TypeError, r": got array\(\[0.9.*", two)]],
    *[(rule, {"momentum": bad}, ValueError, f"momentum: got {bad}, wanted {NUMBER}")
      for rule in ["SGD", "RMSprop"] for bad in [-0.5, np.nan, np.inf]],
    ("SGD", {"dampening": np.nan}, ValueError, "dampening: got nan, wanted a finite number"),
    ("RMSprop", {"alpha": -1}, ValueError, f"alpha: got -1, wanted {NUMBER}"),
    ("Adagrad", {"lr_decay": -1}, ValueError, f"lr_decay: got -1, wanted {NUMBER}"),
    ("Adagrad", {"initial_accumulator_value": -1}, ValueError,
     f"initial_accumulator_value: got -1, wanted {NUMBER}"),
    ("Adagrad", {"initial_accumulator_value": lambda k: 1.0}, TypeError,
     f"initial_accumulator_value: got a function of the step, wanted {NUMBER}"),
    *[(rule, {flag: bad}, TypeError, f"{flag}: got {re.escape(repr(bad))}, wanted True or False")
      for rule, flag in [("SGD", "nesterov"), ("SGD", "maximize"), ("RMSprop", "centered"),
                         ("Adam", "amsgrad")]
      for bad in [2, "yes", None, np.array([True, False]), lambda k: True]],
]
# What does not go together is asked, as by PyTorch, when a group is built: a momentum may then
# pass through 0.
BAD_TOGETHER = [
    ("SGD", {"momentum": 0, "dampening": 0.5}, ValueError,
     "dampening: got 0.5 with momentum=0, wanted a momentum for it to dampen"),
    ("SGD", {"nesterov": True, "momentum": 0}, ValueError,
     "nesterov: got True with momentum=0, wanted a momentum above 0 and no dampening"),
    ("SGD", {"nesterov": True, "dampening": 0.1}, ValueError,
     "nesterov: got True with dampening=0.1, wanted a momentum above 0 and no dampening"),
    ("SGD", {"nesterov": True, "dampening": lambda k: 0.1}, ValueError,
     "nesterov: got True with dampening=.*, wanted a momentum above 0 and no dampening"),
]
# What the constructor's own signature refuses elsewhere comes as a key.
BAD_KEYS = [
    ("SGD", {"frozen": "no"}, TypeError, "frozen: got 'no', wanted True or False"),
    ("SGD", {"frozen": None}, TypeError, "frozen: got None, wanted True or False"),
    ("SGD", {"learning_rate": 0.1}, TypeError,
     "learning_rate: got a hyperparameter that SGD does not have, wanted one of lr, momentum, "),
    ("SGD", {"betas": (0.9, 0.9)}, TypeError,
     "betas: got a hyperparameter that SGD does not have, wanted one of lr, momentum, "),
    ("SGD", {3: 0.1}, TypeError,
     "3: got a hyperparameter that SGD does not have, wanted one of lr, momentum, "),
]
# What an optimizer was built with stays: the states would not be there, or would have begun
# elsewhere.
BAD_CHANGES = [
    ("Adam", {"amsgrad": True}, ValueError,
     "amsgrad: got True, but the group was built without max_exp_avg_sq, wanted "),
    ("RMSprop", {"centered": True}, ValueError,
     "centered: got True, but the group was built without grad_avg, wanted "),
]
# What a loaded state dict brings along with the states that started from it.
BAD_STARTS = [
    ("Adagrad", {"initial_accumulator_value": 0.5}, ValueError,
     "initial_accumulator_value: got 0.5, but the states started from 0, wanted a new optimizer"),
]


# fmt: on


def hyper_constructor(world, rule, hyper):
    return partial(getattr(gs, rule), world.params, **{**LEGAL.get(rule, {}), **hyper})


def hyper_group(world, rule, hyper):
    group = {"params": world.params, **LEGAL.get(rule, {}), **hyper}
    return partial(getattr(gs, rule), [group])


def hyper_assigned(world, rule, hyper):
    world.opt.groups[0].update(hyper)
    return lambda: world.opt.step(world.grads)


def hyper_add_group(world, rule, hyper):
    group = {"params": world.keep(np.ones(3)), **LEGAL.get(rule, {}), **hyper}
    return lambda: world.opt.add_group(group)


def hyper_state(world, rule, hyper):
    state = world.opt.state_dict()
    state["t"] = 7
    state["state"]["w"]["step"] = 7
    state["groups"][0].update(hyper)
    return lambda: world.opt.load_state_dict(state)


HYPER_PLACES = [
    (hyper_constructor, "", BAD_HYPER + BAD_TOGETHER),
    (hyper_group, r"groups\[0\] ", BAD_HYPER + BAD_TOGETHER + BAD_KEYS),
    (hyper_assigned, "", BAD_HYPER + BAD_KEYS + BAD_CHANGES + BAD_STARTS),
    (hyper_add_group, r"groups\[1\] ", BAD_HYPER + BAD_TOGETHER + BAD_KEYS),
    (hyper_state, "", BAD_HYPER + BAD_KEYS + BAD_CHANGES),
]


def hyper_id(rule, hyper):
    values = (f"{k}={'function' if callable(v) else str(v)[:20]}" for k, v in hyper.items())
    return f"{rule}({', '.join(values)})"


@pytest.mark.parametrize(
    ("place", "prefix", "rule", "hyper", "error", "message"),
    [
        pytest.param(place, prefix, *row, id=f"{place.__name__}-{hyper_id(*row[:2])}")
        for place, prefix, rows in HYPER_PLACES
        for row in rows
    ],
)
def test_hyperparameters(place, prefix, rule, hyper, error, message):
    """Each bad number or flag in each place where one comes in; a good one then works."""
    world = World(rule, **LEGAL.get(rule, {}))
    before = dict(world.opt.groups[0])
    assert_refused(world, place(world, rule, hyper), error, f"^{prefix}{message}")
    world.opt.groups[0].clear()
    world.opt.groups[0].update(before)
    assert world.opt.step(world.grads).t == 2


def test_unknown_keyword():
    """The constructor's signature speaks for itself."""
    with pytest.raises(
        TypeError, match=r"^Adam: got the unknown argument 'momentum', wanted one of lr, betas"
    ):
        gs.Adam(np.ones(3), momentum=0.9)


def test_missing_hyperparameter():
    """A deleted entry is missed by name."""
    world = World()
    del world.opt.groups[0]["eps"]
    assert_refused(
        world,
        lambda: world.opt.step(world.grads),
        ValueError,
        "^eps: got nothing, wanted a value such as 1e-08",
    )


# ---- functions of the step: what they give at step 2 ----

BAD_VALUES = [
    (np.nan, ValueError, "nan"),
    (-1.0, ValueError, "-1.0"),
    (np.inf, ValueError, "inf"),
    (HUGE, ValueError, str(HUGE)),
    (None, TypeError, "NoneType"),
    ("0.1", TypeError, "str"),
    (True, TypeError, "bool"),
    (1j, TypeError, "complex"),
    ((0.1,), TypeError, "tuple"),
    (np.array([0.1]), TypeError, "ndarray"),
]


@pytest.mark.parametrize(
    ("name", "hyper", "wanted"),
    [
        ("lr", lambda f: {"lr": f}, NUMBER),
        ("weight_decay", lambda f: {"weight_decay": f}, NUMBER),
        (r"betas\[1\]", lambda f: {"betas": (0.9, f)}, BELOW_ONE),
    ],
    ids=["lr", "weight_decay", "betas"],
)
@pytest.mark.parametrize(
    ("bad", "error", "got"),
    BAD_VALUES,
    ids=[f"{type(bad).__name__}-{str(bad)[:9]}" for bad, _, _ in BAD_VALUES],
)
def test_functions(name, hyper, wanted, bad, error, got):
    """A function's value is checked at the step that asks for it, and refused with that step."""
    world = World(**hyper(lambda k: bad if k == 2 else 0.5))
    world.opt.step(world.grads)
    assert_refused(
        world,
        lambda: world.opt.step(world.grads),
        error,
        rf"^{name}: got {got}, wanted {wanted} \(from <function .* at step 2\)",
    )
    world.opt.groups[0].update(hyper(0.25))
    assert world.opt.step(world.grads).t == 3


def test_function_that_raises():
    """Its own exception comes through, and nothing has changed, in the groups before it neither."""
    world = World(lr=lambda k: {0: 0.1, 1: 0.1}[k])
    world.opt.step(world.grads)
    assert_refused(world, lambda: world.opt.step(world.grads), KeyError, "2")


def test_a_later_group_is_refused():
    """What group 1 is refused for leaves the parameters of group 0 as they were."""
    world = World()
    world.opt.add_group({"params": world.keep(np.ones(3)), "lr": lambda k: -k})
    call = partial(world.opt.step, [world.grads, np.ones(3)])
    assert_refused(world, call, ValueError, r"^groups\[1\] lr: got -1, wanted .* at step 1\)")
    world.opt.groups[1]["lr"] = "fast"
    assert_refused(world, call, TypeError, r"^groups\[1\] lr: got str, wanted ")


# ---- structures, names, overlaps, counts: each a call of its own ----


def params_are(params, rule=gs.Adam):
    """The constructor gets what `params(world)` makes."""

    def build(world):
        given = params(world)
        return lambda: rule(given)

    return build


def grads_are(grads):
    """A step gets what `grads(world)` makes."""

    def build(world):
        given = grads(world)
        return lambda: world.opt.step(given)

    return build


def grouped(grads):
    """The same, with a second group of one array."""

    def build(world):
        world.opt.add_group({"params": [world.keep(np.ones(3))], "name": "head"})
        given = grads(world)
        return lambda: world.opt.step(given)

    return build


def sequence(grads):
    """The same, in an optimizer of two arrays in a list."""

    def build(world):
        world.opt = gs.Adam([*world.params.values()])
        given = grads(world)
        return lambda: world.opt.step(given)

    return build


def group_is(group):
    """add_group gets what `group(world)` makes."""

    def build(world):
        given = group(world)
        return lambda: world.opt.add_group(given)

    return build


def state_is(change):
    """load_state_dict gets a good state dict, other in every number, that `change` has spoilt."""

    def build(world):
        other = World()
        other.opt.step(other.grads)
        state = other.opt.state_dict()
        state = change(state) or state
        return lambda: world.opt.load_state_dict(state)

    return build


def set_at(*path):
    """A change of a state dict: the value at the end of the path of keys."""
    *keys, last, value = path

    def change(state):
        for key in keys:
            state = state[key]
        state[last] = value

    return change


def del_at(*path):
    *keys, last = path

    def change(state):
        for key in keys:
            state = state[key]
        del state[last]

    return change


def after(change):
    """A step with good gradients after a parameter was changed behind the optimizer's back."""

    def build(world):
        # An owner of its memory, and no view of it: only such an array can be resized.
        world.params = {"w": np.ones((4, 6), np.float32), "b": np.ones(6, np.float32)}
        world.opt = gs.Adam(world.params)
        world.opt.step(world.grads)
        change(world.params["w"])
        return lambda: world.opt.step(world.grads)

    return build


def lock(array):
    array.flags.writeable = False


def reinterpret(array):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.dtype = np.int32


def shared(world, n=12):
    """A buffer that the rows below cut overlapping pieces from."""
    return world.keep(normal(n, seed=5))


def in_buffer(world, param, grad):
    """A step whose one parameter and gradient are slices of one buffer."""
    buffer = shared(world)
    world.opt = gs.SGD(buffer[param])
    return lambda: world.opt.step(buffer[grad])


def group_of(world, **entries):
    return {"params": {"x": world.keep(np.ones(3))}, **entries}


def copied(world):
    return {name: array.copy() for name, array in world.params.items()}


# fmt: off
# id, what makes the call, error, message
BAD_CALLS = [
    # the structure of params
    *[(f"params-{name}", params_are(make), error, f"^{message}") for name, make, error, message in [
        ("None", lambda w: None, TypeError, "params: got NoneType, wanted an array, a seq"),
        ("float", lambda w: 1.0, TypeError, "params: got float, wanted an array, a sequence"),
        ("text", lambda w: "abc", TypeError, "params: got str, wanted an array, a sequence"),
        ("set", lambda w: {1.0}, TypeError, "params: got set, wanted an array, a sequence"),
        ("generator", lambda w: iter([np.ones(3)]), TypeError,
         "params: got list_iterator, wanted an array, a sequence"),
        (
            "group-not-in-a-list",
            lambda w: {"params": [np.ones(3)], "lr": 0.1},
            TypeError,
            "params: got one group, wanted groups in a list",
        ),
        ("empty-list", lambda w: [], ValueError, "params: got no arrays, wanted at least one"),
        ("empty-mapping", lambda w: {}, ValueError, "params: got no arrays, wanted at least one"),
        ("list-of-floats", lambda w: [1.0, 2.0], TypeError,
         r"params\[0\]: got builtins.float, wanted numpy.ndarray"),
        ("nested-list", lambda w: [w.params["w"], [w.params["b"]]], TypeError,
         r"params\[1\]: got builtins.list, wanted numpy.ndarray"),
        ("nested-mapping", lambda w: {"layer": w.params}, TypeError,
         r"params\['layer'\]: got builtins.dict, wanted numpy.ndarray"),
        ("key-of-int", lambda w: {0: w.params["w"]}, TypeError,
         "params: got the key 0, wanted names as text"),
        ("arrays-and-groups", lambda w: [w.params["w"], group_of(w)], TypeError,
         r"params\[1\]: got builtins.dict, wanted numpy.ndarray"),
        ("groups-and-arrays", lambda w: [group_of(w), w.params["w"]], TypeError,
         r"params\[0\]: got builtins.dict, wanted numpy.ndarray"),
        ("group-without-params", lambda w: [group_of(w), {"lr": 0.1}], ValueError,
         r"params\[1\]: got a group without 'params', wanted its arrays there"),
        ("group-of-nothing", lambda w: [{"params": []}], ValueError,
         r"params\[0\]\['params'\]: got no arrays, wanted at least one"),
        ("group-of-None", lambda w: [{"params": None}], TypeError,
         r"params\[0\]\['params'\]: got NoneType, wanted an array"),
        ("group-in-group", lambda w: [{"params": [group_of(w)]}], TypeError,
         r"params\[0\]\['params'\]\[0\]: got builtins.dict, wanted numpy.ndarray"),
        ("duplicate-name", lambda w: [group_of(w, name="a"), group_of(w, name="a")], ValueError,
         r"params\[1\]\['name'\]: got 'a', wanted a text that no other group has"),
        ("name-of-int", lambda w: [group_of(w, name=3)], ValueError,
         r"params\[0\]\['name'\]: got 3, wanted a text"),
        # A group's name in front of a parameter's must tell the states apart.
        ("name-like-an-index", lambda w: [group_of(w, name="1"), group_of(w)], ValueError,
         r"params\[1\]\['params'\]\['x'\]: got the name '1.x' .* wanted group names that keep"),
    ]],
    # overlap among params
    *[(f"overlap-{name}", params_are(make), ValueError, f"^{got} that overlaps {other}, {OVERLAP}")
      for name, make, got, other in [
          ("twice", lambda w: [w.params["b"], w.params["b"]],
           r"params\[1\]: got memory", r"params\[0\]"),
          ("view", lambda w: {"x": w.params["b"], "y": w.params["b"][2:4]},
           r"params\['y'\]: got memory", r"params\['x'\]"),
          ("partial", lambda w: [shared(w)[:7], np.ones(2), w.kept[0][6:]],
           r"params\[2\]: got memory", r"params\[0\]"),
          ("other-dtype", lambda w: [shared(w), w.kept[0][2:8].view(np.float64)],
           r"params\[1\]: got memory", r"params\[0\]"),
          ("groups", lambda w: [{"params": w.params["b"]}, {"params": [w.params["b"][1:]]}],
           r"params\[1\]\['params'\]\[0\]: got memory", r"params\[0\]\['params'\]"),
      ]],
    # the structure of gradients
    *[(f"grads-{name}", grads_are(make), error, f"^grads: got {message}")
      for keys in [r"the keys 'w', 'b'"]
      for name, make, error, message in [
          ("None", lambda w: None, TypeError, f"NoneType, wanted a mapping with {keys}"),
          ("array", lambda w: w.grads["w"], TypeError, f"ndarray, wanted a mapping with {keys}"),
          ("list", lambda w: [*w.grads.values()], TypeError, f"list, wanted a mapping with {keys}"),
          ("missing", lambda w: {"w": w.grads["w"]}, ValueError, f"no 'b', wanted {keys}"),
          ("unknown", lambda w: {**w.grads, "c": w.grads["b"]}, ValueError,
           f"the unknown 'c', wanted {keys}"),
          ("misspelt", lambda w: {"w": w.grads["w"], "B": w.grads["b"]}, ValueError,
           f"no 'b' and the unknown 'B', wanted {keys}"),
          ("empty", lambda w: {}, ValueError, f"no 'w', 'b', wanted {keys}"),
      ]],
    *[(f"grads-{name}", sequence(make), error, f"^grads: got {message}")
      for name, make, error, message in [
          ("mapping-for-list", lambda w: w.grads, TypeError, "dict, wanted a list of 2"),
          ("array-for-list", lambda w: np.ones((2, 6), np.float32), TypeError,
           "ndarray, wanted a list of 2"),
          ("generator", lambda w: iter(w.grads.values()), TypeError, ".*, wanted a list of 2"),
          ("short", lambda w: [w.grads["w"]], ValueError, "1 values, wanted 2, as many as param"),
          ("long", lambda w: [*w.grads.values(), None], ValueError, "3 values, wanted 2"),
          ("empty-list", lambda w: [], ValueError, "0 values, wanted 2"),
      ]],
    ("grads-list-for-array", lambda w: partial(gs.SGD(w.params["b"]).step, [w.grads["b"]]),
     TypeError, "^grads: got builtins.list, wanted numpy.ndarray"),
    ("grads-swapped", sequence(lambda w: [w.grads["b"], w.grads["w"]]), ValueError,
     r"^grads\[0\]: got shape \(6,\), wanted \(4, 6\)"),
    *[(f"grads-of-groups-{name}", grouped(make), error, f"^grads{message}")
      for name, make, error, message in [
          ("flat", lambda w: w.grads, TypeError, ": got dict, wanted a list of 2, each group's"),
          ("short", lambda w: [w.grads], ValueError, ": got 1 values, wanted 2, as many as groups"),
          ("long", lambda w: [w.grads, [None], None], ValueError, ": got 3 values, wanted 2"),
          ("inner-structure", lambda w: [w.grads, {"0": np.ones(3)}], TypeError,
           r"\[1\]: got dict, wanted a list of 1"),
          ("inner-length", lambda w: [w.grads, []], ValueError,
           r"\[1\]: got 0 values, wanted 1, as many as parameters"),
          ("inner-missing", lambda w: [{"b": None}, [None]], ValueError,
           r"\[0\]: got no 'w', wanted the keys 'w', 'b'"),
          ("inner-None", lambda w: [None, [None]], TypeError,
           r"\[0\]: got NoneType, wanted a mapping"),
          ("inner-dtype", lambda w: [w.grads, [np.ones(3, np.int64)]], TypeError,
           r"\[1\]\[0\]: got dtype int64, wanted float32, float64, bfloat16 or float16"),
      ]],
    # overlap of a gradient with what a step writes
    *[(f"gradient-is-{name}", grads_are(make), ValueError,
       rf"^grads\['w'\]: got memory that overlaps {other}, {OWN}")
      for name, make, other in [
          ("its-parameter", lambda w: {**w.grads, "w": w.params["w"]}, r"params\['w'\]"),
          ("a-view-of-it", lambda w: {**w.grads, "w": w.params["w"][:]}, r"params\['w'\]"),
          ("a-state", lambda w: {**w.grads, "w": w.opt.state["w"]["exp_avg"]},
           r"exp_avg of params\['w'\]"),
          ("a-subclass-of-a-state",
           lambda w: {**w.grads, "w": w.opt.state["w"]["exp_avg_sq"].view(Subclass)},
           r"exp_avg_sq of params\['w'\]"),
      ]],
    ("gradient-is-another-parameter", sequence(lambda w: [w.grads["w"], w.params["w"][2]]),
     ValueError, rf"^grads\[1\]: got memory that overlaps params\[0\], {OWN}"),
    ("gradient-is-another-state", lambda w: partial(
        w.opt.step, {**w.grads, "b": w.opt.state["w"]["exp_avg"][1]}),
     ValueError, rf"^grads\['b'\]: got memory that overlaps exp_avg of params\['w'\], {OWN}"),
    ("gradient-starts-inside", lambda w: in_buffer(w, slice(0, 6), slice(5, 11)), ValueError,
     f"^grads: got memory that overlaps params, {OWN}"),
    ("gradient-ends-inside", lambda w: in_buffer(w, slice(5, 11), slice(0, 6)), ValueError,
     f"^grads: got memory that overlaps params, {OWN}"),
    # parameters that change behind the optimizer's back
    ("resized", after(lambda a: a.resize((400, 600), refcheck=False)), ValueError,
     r"^params\['w'\]: got 240000 elements of float32 that are not those the .* not resized"),
    ("resized-to-less", after(lambda a: a.resize((2, 3), refcheck=False)), ValueError,
     r"^params\['w'\]: got 6 elements of float32 that are not those the .* not resized"),
    ("locked", after(lock), ValueError, r"^params\['w'\]: got a read-only array, wanted a writ"),
    ("reinterpreted", after(reinterpret), TypeError,
     r"^params\['w'\]: got dtype int32, wanted float32, float64, bfloat16 or float16"),
    # add_group
    *[(f"group-{name}", group_is(make), error, f"^{message}") for name, make, error, message in [
        ("array", lambda w: np.ones(3), TypeError, "group: got ndarray, wanted a mapping"),
        ("None", lambda w: None, TypeError, "group: got NoneType, wanted a mapping"),
        ("pairs", lambda w: [("params", np.ones(3))], TypeError, "group: got list, wanted a map"),
        ("without-params", lambda w: {"lr": 0.1}, ValueError,
         r"params\[1\]: got a group without 'params', wanted its arrays there"),
        ("of-nothing", lambda w: {"params": {}}, ValueError,
         r"params\[1\]\['params'\]: got no arrays, wanted at least one"),
        ("name", lambda w: group_of(w, name=b"head"), ValueError,
         r"params\[1\]\['name'\]: got b'head', wanted a text"),
        ("overlap", lambda w: {"params": w.params["w"][1]}, ValueError,
         r"params\[1\]\['params'\]: got memory that overlaps params\[0\]\['params'\]\['w'\], want"),
        ("overlap-within", lambda w: {"params": [shared(w), w.kept[0]]}, ValueError,
         r"params\[1\]\['params'\]\[1\]: got memory that overlaps params\[1\]\['params'\]\[0\]"),
    ]],
    # state dicts
    *[(f"state-is-{name}", lambda w, given=given: partial(w.opt.load_state_dict, given), TypeError,
       f"^state_dict: got {name}, wanted a mapping")
      for given, name in [(None, "NoneType"), (3, "int"), ("{}", "str"), ([], "list")]],
    *[(f"state-without-{key}", state_is(del_at(key)), ValueError,
       f"^state_dict: got no '{key}', wanted rule, t, state, groups, stages and storages")
      for key in ["rule", "t", "state", "groups", "stages", "storages"]],
    ("state-of-another-rule", lambda w: partial(
        w.opt.load_state_dict, gs.SGD(copied(w), momentum=0.9).state_dict()), ValueError,
     r"^state_dict\['rule'\]: got 'SGD', wanted 'Adam'"),
    ("state-of-a-near-rule", lambda w: partial(
        w.opt.load_state_dict, gs.AdamW(copied(w)).state_dict()), ValueError,
     r"^state_dict\['rule'\]: got 'AdamW', wanted 'Adam'"),
    ("state-with-another-option", lambda w: partial(
        w.opt.load_state_dict, gs.Adam(copied(w), amsgrad=True).state_dict()), ValueError,
     r"^state_dict\['state'\]\['w'\]: got 'step', .*'max_exp_avg_sq', wanted 'step', 'exp_avg'"),
    ("state-of-a-list", lambda w: partial(
        w.opt.load_state_dict, gs.Adam([*copied(w).values()]).state_dict()), ValueError,
     r"^state_dict\['groups'\]\[0\]\['params'\]: got '0', '1', wanted 'w', 'b'"),
    ("state-of-another-order", lambda w: partial(
        w.opt.load_state_dict, gs.Adam(dict(reversed(copied(w).items()))).state_dict()),
     ValueError, r"^state_dict\['groups'\]\[0\]\['params'\]: got 'b', 'w', wanted 'w', 'b'"),
    *[(f"state-{name}", state_is(change), error, rf"^state_dict\['{message}")
      for name, change, error, message in [
          ("t-negative", set_at("t", -1), ValueError, r"t'\]: got -1, wanted 0 or more"),
          ("t-float", set_at("t", 3.0), TypeError, r"t'\]: got float, wanted an integer"),
          ("t-bool", set_at("t", True), TypeError, r"t'\]: got bool, wanted an integer"),
          ("t-text", set_at("t", "3"), TypeError, r"t'\]: got str, wanted an integer"),
          ("t-huge", set_at("t", 2**63), ValueError, r"t'\]: got 9223372036854775808, wanted "),
          ("step-negative", set_at("state", "b", "step", -1), ValueError,
           r"state'\]\['b'\]\['step'\]: got -1, wanted 0 or more"),
          ("step-None", set_at("state", "b", "step", None), TypeError,
           r"state'\]\['b'\]\['step'\]: got NoneType, wanted an integer"),
          ("step-array", set_at("state", "b", "step", np.array(3)), TypeError,
           r"state'\]\['b'\]\['step'\]: got ndarray, wanted an integer"),
          ("step-huge", set_at("state", "b", "step", 2**63), ValueError,
           r"state'\]\['b'\]\['step'\]: got 9223372036854775808, wanted 0 or more, below"),
          ("missing-parameter", del_at("state", "b"), ValueError,
           r"state'\]: got 'w', wanted 'w', 'b'"),
          ("unknown-parameter", set_at("state", "c", {}), ValueError,
           r"state'\]: got 'w', 'b', 'c', wanted 'w', 'b'"),
          ("missing-array", del_at("state", "b", "exp_avg"), ValueError,
           r"state'\]\['b'\]: got 'step', 'exp_avg_sq', wanted 'step', 'exp_avg', 'exp_avg_sq'"),
          ("unknown-array", set_at("state", "b", "momentum_buffer", 0), ValueError,
           r"state'\]\['b'\]: got 'step', .*'momentum_buffer', wanted 'step', 'exp_avg'"),
          ("missing-count", del_at("state", "b", "step"), ValueError,
           r"state'\]\['b'\]: got 'exp_avg', 'exp_avg_sq', wanted 'step', "),
          ("state-None", set_at("state", None), TypeError,
           r"state'\]: got NoneType, wanted a mapping"),
          ("entry-list", set_at("state", "b", []), TypeError,
           r"state'\]\['b'\]: got list, wanted a mapping"),
          ("groups-None", set_at("groups", None), TypeError,
           r"groups'\]: got NoneType, wanted a list"),
          ("groups-short", set_at("groups", []), ValueError, r"groups'\]: got 0, wanted 1"),
          ("group-None", set_at("groups", 0, None), TypeError,
           r"groups'\]\[0\]: got NoneType, wanted a mapping"),
          ("group-params-int", set_at("groups", 0, "params", 2), TypeError,
           r"groups'\]\[0\]\['params'\]: got int, wanted a list"),
          ("group-without-params", del_at("groups", 0, "params"), ValueError,
           r"groups'\]\[0\]\['params'\]: got nothing, wanted 'w', 'b'"),
      ]],
    ("state-without-a-rate", state_is(del_at("groups", 0, "lr")), ValueError,
     "^lr: got nothing, wanted a value such as 0.001"),
    # the runtime
    *[(f"threads-{bad!r}", lambda w, bad=bad: partial(gs.set_num_threads, bad), error,
       f"^n: got {got}, wanted {wanted}")
      for bad, error, got, wanted in [
          (0, ValueError, "0", "1 to 256"), (-1, ValueError, "-1", "1 to 256"),
          (1000, ValueError, "1000", "1 to 256"), (2**70, ValueError, str(2**70), "1 to 256"),
          (2.5, TypeError, "float", "an integer"), (True, TypeError, "bool", "an integer"),
          ("two", TypeError, "str", "an integer"), (None, TypeError, "NoneType", "an integer")]],
    *[(f"target-{bad!r}", lambda w, bad=bad: partial(gs.set_target, bad), ValueError,
       f"^name: got {re.escape(repr(bad))}, wanted one of {gs.config()['targets'][0]}")
      for bad in ["avx1024", "", "AVX2", "auto", None, 2]],
    ("norm-float", lambda w: partial(gs.global_norm, [1.0]), TypeError,
     r"^arrays\[0\]: got builtins.float, wanted numpy.ndarray"),
]


# fmt: on


class Subclass(np.ndarray):
    """A subclass that changes nothing."""


@pytest.mark.parametrize(
    ("build", "error", "message"), [pytest.param(*row, id=name) for name, *row in BAD_CALLS]
)
def test_calls(build, error, message):
    """Each bad call, on an optimizer that is in the middle of its work."""
    world = World()
    assert_refused(world, build(world), error, message)


def test_works_again():
    """A parameter that was locked and is unlocked takes the step it missed."""
    world = World()
    world.params["w"].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        world.opt.step(world.grads)
    world.params["w"].flags.writeable = True
    assert world.opt.step(world.grads).t == 2


def test_states_cannot_be_resized():
    """The core holds their addresses: what a person gets to see has no memory to give up."""
    world = World()
    with pytest.raises(ValueError, match="does not own its data"):
        world.opt.state["w"]["exp_avg"].resize((400, 600), refcheck=False)
    other = copy.deepcopy(world.opt)
    with pytest.raises(ValueError, match="does not own its data"):
        other.state["w"]["exp_avg"].resize((400, 600), refcheck=False)


@pytest.mark.parametrize("key", ["tail", "", 2, -3, 1.0, None])
def test_unknown_group(key):
    """Groups are found by their names and positions alone."""
    groups = gs.SGD([{"params": np.ones(1), "name": "head"}, {"params": np.ones(1)}]).groups
    assert groups["head"] is groups[0]
    with pytest.raises((KeyError, IndexError, TypeError)):
        operator.getitem(groups, key)


# ---- what looks odd and is legal ----


def unaligned(array):
    """At an odd multiple of its item size: no vector is aligned there."""
    buffer = np.empty(array.size + 17, array.dtype)
    first = (-buffer.ctypes.data // array.itemsize) % 16 + 1
    view = buffer[first : first + array.size].reshape(array.shape)
    view[...] = array
    assert not array.size or view.ctypes.data % 64 == array.itemsize
    return view


def memmap(array, folder):
    path = folder / f"{id(array)}.bin"
    mapped = np.memmap(path, array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped


def matrix(array):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(array)


def with_dtype(array, dtype):
    """The same numbers, with a dtype object that is equal and not the same."""
    assert dtype == array.dtype
    assert dtype is not array.dtype
    return np.frombuffer(bytearray(array.tobytes()), dtype).reshape(array.shape)


FORMS = {
    "plain": lambda a, _: a.copy(),
    "unaligned to the vector": lambda a, _: unaligned(a),
    "memmap": memmap,
    "subclass": lambda a, _: a.copy().view(Subclass),
    "unpickled": lambda a, _: pickle.loads(pickle.dumps(a)),
    "dtype unpickled": lambda a, _: with_dtype(a, pickle.loads(pickle.dumps(a.dtype))),
    "dtype with metadata": lambda a, _: with_dtype(a, np.dtype(a.dtype, metadata={"unit": "m"})),
    "dtype that names its byte order": lambda a, _: with_dtype(
        a, a.dtype.newbyteorder("<" if np.little_endian else ">")
    ),
    "from a bytearray": lambda a, _: np.frombuffer(bytearray(a.tobytes()), a.dtype).reshape(
        a.shape
    ),
    "slice of rows": lambda a, _: np.stack([a, a])[1:].reshape(a.shape),
    "Fortran order too": lambda a, _: np.array(a, order="F") if a.ndim < 2 else a.copy(),
}
SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (1, 7), (7, 1), (33, 5)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("param_form", "grad_form"),
    [(p, g) for p in FORMS for g in FORMS if p == g or "plain" in (p, g)],
)
def test_forms(param_form, grad_form, dtype, tmp_path):
    """Each legal form of a parameter and a gradient gives the bits that plain arrays give."""
    params = [normal(shape, dtype, i) for i, shape in enumerate(SHAPES)]
    grads = [normal(shape, dtype, 50 + i) for i, shape in enumerate(SHAPES)]
    if {param_form, grad_form} & {"memmap"}:  # which cannot map nothing
        params = [p for p in params if p.size]
        grads = [g for g in grads if g.size]
    odd_params = [FORMS[param_form](p, tmp_path) for p in params]
    odd_grads = [FORMS[grad_form](g, tmp_path) for g in grads]
    opt, odd = gs.AdamW(params), gs.AdamW(odd_params)
    for _ in range(2):
        opt.step(grads)
        odd.step(odd_grads)
    for p, odd_p, g, odd_g in zip(params, odd_params, grads, odd_grads, strict=True):
        assert_same_bits(np.asarray(odd_p), p)
        assert_same_bits(np.asarray(odd_g), g)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_scalar_gradient(dtype):
    """Arithmetic makes scalars of arrays without dimensions: they are gradients of those."""
    p = np.array(3, dtype)
    opt = gs.SGD({"bias": p}, lr=0.5)
    for _ in range(2):
        opt.step({"bias": p * p})
    assert p == 3 - 9 / 2 - (3 - 9 / 2) ** 2 / 2


def test_matrix():
    """A matrix is an array with another product; an update is element by element."""
    p, g = normal((2, 3)), normal((2, 3), seed=1)
    odd = matrix(p.copy())
    gs.Adam(p).step(g)
    gs.Adam(odd).step(matrix(g))
    assert_same_bits(np.asarray(odd), p)


def test_memmap_reaches_the_file(tmp_path):
    """An update of a mapped file changes the file."""
    mapped = memmap(np.ones(1000, np.float32), tmp_path)
    gs.SGD(mapped, lr=1.0).step(np.full(1000, 0.25, np.float32))
    mapped.flush()
    assert (np.fromfile(mapped.filename, np.float32) == 0.75).all()


def adjacent(world):
    """Pieces of one buffer that touch and share no byte, with nothing in the middle of one."""
    buffer = shared(world)
    params = [buffer[3:6], buffer[0:3], buffer[1:1], buffer[8:10]]
    return gs.SGD(params, lr=1.0), [
        buffer[6:8][:0].reshape(0) if not p.size else np.ones(p.size, p.dtype) for p in params
    ]


def gap(world):
    """A gradient that fills the gap between two parameters exactly."""
    buffer = shared(world)
    return gs.SGD([buffer[0:4], buffer[8:12]], lr=1.0), [buffer[4:8], buffer[4:8]]


def alike(world):
    return gs.SGD([world.params["b"], np.ones(6, np.float32)], lr=1.0), [world.grads["b"]] * 2


def overlapping(world):
    return gs.SGD([np.ones(6, np.float32), np.ones(5, np.float32)], lr=1.0), [
        world.grads["b"],
        world.grads["b"][1:],
    ]


def locked(world):
    world.grads["b"].flags.writeable = False
    return gs.SGD([np.ones(6, np.float32)], lr=1.0), [world.grads["b"]]


LEGAL_CALLS = {
    "parameters that touch": adjacent,
    "a gradient between two parameters": gap,
    "a gradient for two parameters": alike,
    "gradients that overlap": overlapping,
    "a read-only gradient": locked,
}


@pytest.mark.parametrize("build", LEGAL_CALLS.values(), ids=LEGAL_CALLS)
def test_legal(build):
    """What looks like the bad rows above and is none; gradients are read only."""
    world = World()
    opt, grads = build(world)
    params = opt.groups[0].params
    wanted = [p - g for p, g in zip(params, grads, strict=True)]
    before = [g.tobytes() for g in grads]
    opt.step(grads)
    for p, w in zip(params, wanted, strict=True):
        assert_same_bits(p, w)
    assert [g.tobytes() for g in grads] == before


LEGAL_HYPER = [
    ("SGD", {"lr": 0}),
    ("SGD", {"lr": np.float32(0.1)}),
    ("SGD", {"lr": np.int64(1)}),
    ("SGD", {"lr": np.float16(0.5), "momentum": 0.5, "dampening": 1}),
    ("Adam", {"betas": [0.0, 0.5]}),
    ("SGD", {"nesterov": True, "momentum": 0.9}),
    ("SGD", {"maximize": np.True_}),
    ("SGD", {"nesterov": True, "momentum": lambda k: k / (k + 1)}),
    ("Adam", {"eps": 0.0}),
    ("Adam", {"betas": (lambda k: 0.9, 0.999)}),
]


@pytest.mark.parametrize(("rule", "hyper"), LEGAL_HYPER, ids=[hyper_id(*r) for r in LEGAL_HYPER])
def test_legal_hyperparameters(rule, hyper):
    """Any real number type in range, lists for tuples, functions anywhere."""
    world = World(rule, **hyper)
    assert world.opt.step(world.grads).t == 2


@pytest.mark.parametrize("n", [1, 2, 256, np.int64(3)])
def test_legal_threads(n):
    """Integers of any type."""
    gs.set_num_threads(n)
    assert gs.get_num_threads() == n
