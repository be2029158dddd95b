"""What a transformation was asked: checked as the other front doors do, and laid out as the text of
a compiled step."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..hyperparameters import FINITE, NON_NEGATIVE, STAGE_RANGES, Driven, bounds
from ..rule import Rule, is_on
from ..schedules import Schedule
from ..stages import compile_stages
from ..storages import StorageOptions, Storages, Use
from .native import jax

if TYPE_CHECKING:
    Doubles = Sequence[float]

jnp = jax.numpy
DTYPES = ("float32", "float64", "bfloat16", "float16")
# The first line of every text: both sides speak of the same.
HEADER = f"version {_core.build()['version']}"
# The numbers that come with a call of a step, and which each may be. A norm may be what a step is
# skipped for.
INPUTS = {"loss": FINITE, "loss_scale": STAGE_RANGES["loss_scale"], "norm": NON_NEGATIVE}


class Given:
    """A number in an array, perhaps a traced one: it comes with each step."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __call__(self, _: int) -> float:
        return float(self.array)

    def __repr__(self) -> str:
        return "an array"


class Number(NamedTuple):
    """A number that is not in the text of a step."""

    place: str
    driven: Driven


def is_array(value: object) -> bool:
    return isinstance(value, jax.Array) or (isinstance(value, np.ndarray) and value.ndim == 0)


def wrapped(value: Any) -> Any:
    """A hyperparameter with arrays in it as what the checks take for a driven one."""
    if isinstance(value, tuple | list):
        return tuple(wrapped(item) for item in value)
    return Given(value) if is_array(value) else value


class Configuration:
    """What a transformation was asked.

    Args:
        rule: the rule.
        values: its hyperparameters, by our names; numbers, schedules, functions of the step count
            (which may be traced), or arrays.
        states, rounding, split: as the rule's class takes them.
        stages: ``clip_norm``, ``clip_value``, ``average``, ``nonfinite`` and ``seed``.
        copy_to: the dtype of a copy that each step fills, or None.
        stats: whether steps measure.
        mask: which leaves decay, a tree of bools or a function from parameters to one; None: all.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wanted.
    """

    def __init__(
        self,
        rule: Rule,
        values: Mapping[str, Any],
        *,
        states: Any,
        rounding: Any,
        split: Any,
        stages: Mapping[str, Any],
        copy_to: Any,
        stats: Any,
        mask: Any,
    ) -> None:
        self.rule = rule
        self.mask = mask
        self.started = {  # traced numbers that states start from; no step reads them again
            key: value for key, value in values.items() if key in rule.constant and is_array(value)
        }
        own = {key: wrapped(value) for key, value in values.items()}
        self.values = {**rule.defaults, **own, **dict.fromkeys(self.started, 0.0)}
        self.options = StorageOptions(states, rounding, split)
        self.storages: Storages = self.options.of(rule, [rule])
        self.stages = {key: wrapped(value) for key, value in stages.items()}
        self.averaging = stages["average"] is not None
        rule.check_averaging(self.averaging)
        if stages["nonfinite"] not in ("allow", "skip"):
            raise ValueError(
                f"nonfinite: got {stages['nonfinite']!r}, wanted 'allow' or 'skip': a compiled "
                "program cannot raise; state.report.skipped says what it did"
            )
        if not isinstance(stats, bool | np.bool_):
            raise TypeError(f"stats: got {stats!r}, wanted True or False")
        self.stats = bool(stats)
        if mask is not None and "weight_decay" not in rule.defaults:
            raise ValueError(f"mask: got a mask, but {rule.name} has no weight decay, wanted None")
        self.copy_to = None if copy_to is None else _dtype_name("copy_to", copy_to)
        check_float64("copy_to", self.copy_to)
        compile_stages(self.stages, self.averaging, single=False)  # type: ignore[arg-type]
        self.numbers(single=False)
        rule.check("", self.values, self.storages.states)
        self.present = rule.present(self.values)

    # ---- numbers ----

    def numbers(self, *, single: bool) -> tuple[list[float], float, list[Number]]:
        """The rule's numbers in the kernels' order, the gradient's sign, and what is driven."""
        compiled = self.rule.compile("", self.values, single)
        driven = [Number(f"hyper:0:{one.column}", one) for one in compiled.driven]
        return compiled.hyper, compiled.sign, driven

    def text(
        self,
        dtypes: Sequence[str],
        groups: Sequence[int],
        inputs: Mapping[str, Any],
        first: int,
        single: bool,
    ) -> Text:
        """A step over leaves as a text, and the numbers that it wants with each call.

        Args:
            dtypes: of each leaf.
            groups: of each leaf, 1 where it does not decay.
            inputs: further numbers, by name: ``loss``, ``loss_scale`` and ``norm``.
            first: the position of the first leaf among all.
            single: whether any leaf of the tree is stepped in float32.
        """
        hyper, sign, driven = self.numbers(single=single)
        lines = [HEADER, *[f"first {first}", "after"] * (first > 0), *["begins"] * self.begins]
        undecayed = self._without_decay(hyper) if any(groups) else None
        for numbers in (hyper,) if undecayed is None else (hyper, undecayed):
            lines.append(f"group {sign:g} {self.rule.kernels(self.values)}")
            lines.append("hyper " + _bits(numbers))
        lines += _runs(groups)
        for state in self.rule.states:
            lines.append(f"state {self._kind(state.name)}")
        for dtype in dict.fromkeys(dtypes):
            if bits := int(self.storages.stochastic(dtype, self.present)):
                lines.append(f"stochastic {dtype} {bits}")
        if self.options.split:
            lines.append("split")
        if self.copy_to is not None:
            lines.append(f"copy {self.copy_to}")
        controls, staged = compile_stages(self.stages, self.averaging, single)  # type: ignore[arg-type]
        for name in ("clip_norm", "clip_value"):
            if not math.isnan(controls[name]) and math.isfinite(controls[name]):
                lines.append(f"{name} {_bits([controls[name]])}")
        if self.averaging:
            decay = controls["decay"]
            lines.append(f"average {_bits([0.0 if math.isnan(decay) else decay])}")
        lines.append(f"seed {controls['seed']}")
        lines += ["skip"] * controls["check_finite"] + ["stats"] * self.stats
        if self.reported:
            lines.append("report " + " ".join(self.reported))
        if undecayed is not None:
            driven += [one for one in map(self._other_group, driven) if one is not None]
        driven += [Number(one.key, one) for one in staged]
        driven += [Number(name, _input(name, array)) for name, array in inputs.items()]
        lines += [_line(one) for one in driven]
        return Text("\n".join(lines), [one for one in driven if not _is_schedule(one)])

    def _kind(self, name: str) -> str:
        """How a state lies: ``-``, ``elements`` or the storage of its blocks."""
        if name not in self.present:
            return "-"
        storage = self.storages.states.get(name, "float32")
        return "elements" if _core.storage_block(storage) == 1 else storage

    def _without_decay(self, hyper: Sequence[float]) -> list[float]:
        column = self.rule.hyper_names.index("weight_decay")
        return [0.0 if i == column else x for i, x in enumerate(hyper)]

    def _other_group(self, number: Number) -> Number | None:
        """A driven number of the first group for the one without decay."""
        if number.driven.argument == "weight_decay":
            return None
        return Number(f"hyper:1:{number.driven.column}", number.driven)

    @property
    def reported(self) -> list[str]:
        """What a step says of itself, in order."""
        lr = self.values["lr"]  # whoever gives an array has it
        names = ["lr"] if callable(lr) and not isinstance(lr, Given) else []
        if self.stages["nonfinite"] == "skip":
            names.append("skipped")
        if self.wants_norm or self.stats:
            names.append("grad_norm")
        if self.stats:
            names += ["update_norm", "param_norm", "cosine", "g2_over_v"]
        return names

    @property
    def begins(self) -> bool:
        """Whether a state may stay unused for some steps: a number switches it on."""
        return any(name in self.rule.later for name in self.present)

    @property
    def divides(self) -> bool:
        """Whether a step may go leaf by leaf, once the norm is known."""
        return not self.rule.common and not self.stats

    @property
    def wants_norm(self) -> bool:
        return self.stages["clip_norm"] is not None or self.stages["nonfinite"] == "skip"

    @property
    def looks_at_all(self) -> str:
        """What makes a step look at all elements, in words; empty: nothing does."""
        if self.rule.gathers_for(self.values) or self.rule.factors:
            return f"{self.rule.name}, which looks at whole tensors"
        return "stats=True" if self.stats else ""

    # ---- leaves ----

    def undecayed(self, params: Any) -> list[int]:
        """Of each leaf 1 where the mask says that it does not decay."""
        mask = self.mask
        if mask is None:
            return [0] * len(jax.tree.leaves(params))
        mask = mask(params) if callable(mask) else mask
        try:
            whole = jax.tree.map(lambda one, part: jax.tree.map(lambda _: one, part), mask, params)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"mask: got a tree unlike params ({error}), wanted one bool for each leaf, or for "
                "each subtree"
            ) from None
        return [int(not decays) for decays in jax.tree.leaves(whole)]

    def check_leaf(self, argument: str, shape: tuple[int, ...], dtype: str) -> None:
        """Raise TypeError or ValueError for a parameter that cannot be stepped so."""
        self.storages.check_param(argument, dtype, 0, self.present)
        self.rule.check_param(argument, shape, 0, self.values)
        for state in self.rule.states:
            if state.name in self.present:
                check_float64(f"states[{state.name!r}]", self.storages.of(state.name, dtype))
            if state.initial and state.initial not in self.started:
                value = self.values[state.initial]
                self.storages.check_initial(state.initial, state.name, value, dtype)

    def check_leaves(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> None:
        """Raise ValueError where ``states`` or ``rounding`` names what no leaf has."""
        if shapes:
            names = self.rule.beside_any(self.present, shapes)
            self.options.check_used(
                [Use(self.rule.name, self.storages, names, list(dict.fromkeys(dtypes)))]
            )

    def check_update(self, dtypes: Sequence[str]) -> None:
        """Raise ValueError for what only a step that has the parameters to itself can do."""
        instead = "wanted tx.apply(params, grads, state) for it, which steps the parameters itself"
        for name, is_used in {
            "split": self.options.split,
            "average": self.averaging,
            "copy_to": self.copy_to is not None,
            "stats": self.stats,
        }.items():
            if is_used:
                raise ValueError(
                    f"{name}: got {self._asked(name)} through update, whose sum is made elsewhere, "
                    + instead
                )
        if any(self.storages.stochastic(dtype, ()) & 1 for dtype in dtypes):
            raise ValueError(
                "rounding: got parameters that are rounded stochastically through update, whose "
                "sum is rounded elsewhere, " + instead
            )

    def _asked(self, name: str) -> Any:
        return self.stages[name] if name in self.stages else getattr(self, name, True)

    @property
    def reads_parameters(self) -> bool:
        """Whether a step depends on the parameters, not on gradients alone."""
        decays = is_on(self.values.get("weight_decay", 0))
        points = any(state.is_point for state in self.rule.states)
        return decays or points or self.rule.gathers_for(self.values) or self.rule.factors

    def starts(self, dtype: str, shape: Sequence[int]) -> dict[str, tuple[Any, str, Any]]:
        """How the states of a leaf begin: by name the state, its storage and its first number."""
        group = {**self.values, **self.started}
        return {
            state.name: (state, storage, initial)
            for state, storage, initial in self.storages.starts(group, self.present, dtype)
            if state.beside(shape) is not None
        }


class Text(NamedTuple):
    """A compiled step, and what it wants with each call."""

    text: str
    inputs: list[Number]

    def values(self, count: Any) -> list[Any]:
        """The numbers of the step whose index is ``count``, as arrays."""
        return [_scalar(one.driven.argument, one.driven.function, count) for one in self.inputs]


def check_float64(argument: str, dtype: str | None) -> None:
    """Raise ValueError for float64 where JAX would make float32 of it."""
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError(
            f"{argument}: got float64, of which JAX makes float32, wanted another dtype, or "
            "jax.config.update('jax_enable_x64', True)"
        )


def _is_schedule(number: Number) -> bool:
    return isinstance(number.driven.function, Schedule)


def _scalar(argument: str, function: Any, count: Any) -> Any:
    value = function.array if isinstance(function, Given) else function(count)
    array = jnp.asarray(value)
    kinds = (jnp.floating, jnp.integer)
    halves = array.dtype == np.uint32 and array.shape == (2,)  # of a float64
    if (array.ndim and not halves) or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(
            f"{argument}: got {array.dtype} of shape {array.shape}, wanted one real number"
        )
    return array if array.dtype in (np.float64, np.uint32) else array.astype(np.float32)


def _input(name: str, array: Any) -> Driven:
    return Driven(0, name, name, INPUTS[name], Given(array), name == "loss_scale")


def _line(number: Number) -> str:
    driven = number.driven
    function = driven.function
    source = f"( {function.text()} )" if isinstance(function, Schedule) else "input"
    least, most, smallest = bounds(driven.range, driven.single)
    words = f"{driven.argument}: wanted {driven.range.wanted}"
    return f"number {number.place} {source} {_bits([least, most, smallest])} {words}"


def _bits(numbers: Doubles) -> str:
    """Numbers as the compiled step reads them."""
    return " ".join(struct.pack(">d", x).hex() for x in numbers)


def _runs(groups: Sequence[int]) -> list[str]:
    """The leaves' groups, as runs of equal ones."""
    lines: list[tuple[int, int]] = []
    for group in groups:
        if lines and lines[-1][1] == group:
            lines[-1] = (lines[-1][0] + 1, group)
        else:
            lines.append((1, group))
    return [f"leaves {count} {group}" for count, group in lines]


def _dtype_name(argument: str, dtype: Any) -> str:
    try:
        name = str(jnp.dtype(dtype).name)
    except TypeError:
        name = str(dtype)
    if name not in DTYPES:
        raise TypeError(f"{argument}: got {dtype!r}, wanted one of {', '.join(DTYPES)}")
    return name
