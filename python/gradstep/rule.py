"""A rule as a value: its hyperparameters, its states, its own checks, its kind."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .hyperparameters import RANGES, Choice, Driven, Range, check_takes_step, number

Check = Callable[[str, Mapping[str, Any], Mapping[str, str]], None]
CheckParam = Callable[[str, tuple[int, ...], int, Mapping[str, Any]], None]

# What a rule does with a gradient, which decides how large a rate it bears.
PLAIN = "plain"  # multiplies it by the rate
MOMENTUM = "momentum"  # averages it over steps
SIGN = "sign"  # keeps its sign alone
ADAPTIVE = "adaptive"  # divides it by its size, such as the root of a second moment

# What people look for, in the order in which the pages list it; a class that is in none by its kind
# says so by `_family`.
PLAIN_STEPS = "the gradient and its momentum"
FAMILIES = {
    PLAIN: PLAIN_STEPS,
    MOMENTUM: PLAIN_STEPS,
    ADAPTIVE: "a rate for each element",
    SIGN: "the sign alone",
    "matrices": "whole matrices",
    "large batches": "large batches",
    "without a rate": "without a rate or schedule to choose",
}


class State(NamedTuple):
    """A state of a rule: always there, or switched on by a hyperparameter."""

    name: str
    role: str
    option: str | None  # the hyperparameter that switches it on
    initial: str | None  # the hyperparameter that it starts from; None: from 0
    shape: str  # "same" as the parameter's, "rows", "columns", or "vector": where there are none
    gathered: bool  # in a rule of two passes: changes in the first
    fixed: bool  # no step changes it

    @property
    def is_point(self) -> bool:
        """Whether it is another point among the parameters, and starts as the parameter."""
        return self.role == "parameter"

    @property
    def is_factor(self) -> bool:
        """Whether it has a number for each row, or each column."""
        return self.shape in ("rows", "columns")

    def beside(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Its shape beside a parameter of this shape; None: such a parameter does without it."""
        if self.shape == "same" or (self.shape == "vector" and len(shape) < 2):
            return tuple(shape)
        if self.shape == "vector" or len(shape) < 2:
            return None
        *first, rows, columns = shape
        return (*first, rows, 1) if self.shape == "rows" else (*first, 1, columns)

    def is_on(self, group: Mapping[str, Any]) -> bool:
        """Whether a group with these hyperparameters has it: its option is not simply 0."""
        return self.option is None or is_on(group[self.option])


def is_on(value: object) -> bool:
    """Whether a hyperparameter is anything but a plain 0: a function of the step is."""
    return callable(value) or bool(value)


class Numbers(NamedTuple):
    """A group's hyperparameters as the kernels want them."""

    hyper: list[float]  # in the kernels' order; NaN for what is driven
    sign: float  # of the gradient: −1 to maximize
    frozen: float  # 1 for a group that no step changes
    driven: list[Driven]  # what must be called at each step


class Rule:
    """An update rule, as the compiled catalogue and the rule's class describe it.

    Args:
        name: the rule's name in the catalogue.

    Attributes:
        name: the name.
        hyper_names: the hyperparameters in the kernels' order; ``betas[0]`` is an item of a tuple.
        lengths: of each hyperparameter, how many numbers it has.
        states: what the rule keeps for each parameter, arrays.
        memory_names: the numbers that it keeps for each parameter besides.
        takes_rows: whether a gradient of some rows leaves the others as they are.
        gathers: whether it looks at a whole tensor before the parameter moves.
        switches: the hyperparameters, True or False, that choose other kernels for a group when it
            is built, see :meth:`kernels`.
        common: the hyperparameters, by their names in the kernels, that all of its groups share,
            since it looks at all tensors together; empty for other rules.
        takes_loss: whether a step wants the loss.
        scales_moment: whether its second moment is of something else than the gradients.
        shows: whether the point to evaluate is not the parameter.
        factors: whether it keeps numbers for rows and columns, where a parameter has such.
        checks_params: whether it demands something of a parameter, by its group's hyperparameters.
        has_direction: whether its part in Python redirects a step between the two passes.
        family: in which row of the pages it stands, one of ``FAMILIES``.
        defaults: each hyperparameter's default, ``maximize`` and ``frozen`` included.
        ranges: the numbers that each numeric hyperparameter may be; ``etas[0]`` is for an item of
            a tuple alone.
        choices: what hyperparameters may be that only the rule's part in Python reads.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        if not self.is_compiled(name):  # its class is there, to say so when it is used
            return
        known = _core.rules()[name]
        self.hyper_names: tuple[str, ...] = known["hyper_names"]
        states = tuple(State(**state) for state in known["states"])
        self.states = tuple(state for state in states if state.role != "direction")
        self.has_direction = self.states != states
        self.memory_names: tuple[str, ...] = known["memory_names"]
        self.takes_rows: bool = known["takes_rows"]
        self.gathers: bool = known["gathers"]
        self._gathers: dict[str, bool] = {name: self.gathers, **known["variants"]}
        words = [word for variant in known["variants"] for word in variant.split()[1:]]
        self.switches = tuple(sorted(set(words)))
        self.common: tuple[str, ...] = known["common"]
        self.takes_loss: bool = known["takes_loss"]
        self.scales_moment: bool = known["scales_moment"]
        self.shows: bool = known["shows"]
        self.factors = any(state.is_factor for state in self.states)
        self._takes_sign: bool = known["takes_sign"]
        self.lengths = Counter(hyper.partition("[")[0] for hyper in self.hyper_names)
        self.lr_column = self.hyper_names.index("lr")
        # They say what a state started from, so they cannot change from step to step.
        self.constant = frozenset(state.initial for state in self.states if state.initial)
        self.defaults: dict[str, Any] = {}
        self.ranges: dict[str, Range] = {}
        self.choices: Mapping[str, Choice] = {}
        self._check: Check | None = None
        self._check_param: CheckParam | None = None

    @staticmethod
    def is_compiled(name: str) -> bool:
        """Whether the compiled core has a rule of this name."""
        return name in _core.rules()

    def complete(
        self,
        made: type,
        ranges: Mapping[str, Range],
        choices: Mapping[str, Choice],
        check: Check,
        check_param: CheckParam | None,
    ) -> None:
        """Take what the rule's class knows: the defaults of its signature, and its own checks.

        Args:
            made: the class, whose constructor names the hyperparameters.
            ranges: of hyperparameters whose name does not say which numbers they may be.
            choices: of hyperparameters that only the rule's part in Python reads.
            check: what the rule demands of several hyperparameters together.
            check_param: what it demands of a parameter; None: nothing.
        """
        if not self.is_compiled(self.name):
            return
        parameters = inspect.signature(made).parameters.values()
        self.defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.default is not parameter.empty
        } | {"frozen": False}
        known = {**RANGES, **ranges}
        self.choices = choices
        names = [name for name in (*self.defaults, *self.hyper_names) if name not in choices]
        self.ranges = {name: known[name] for name in names if name in known}
        self._check, self._check_param = check, check_param
        chosen = getattr(made, "_family", None) or ("matrices" if self.has_direction else None)
        self.family = FAMILIES[chosen or self.kind({})]
        RULES[self.name] = self

    def check(self, prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        """Raise ValueError for hyperparameters that do not go together when a group is built.

        Args:
            prefix: what to put before a hyperparameter's name in an error.
            group: the hyperparameters by name.
            storages: the storage of each state for which one was asked.
        """
        if self._check is not None:
            self._check(prefix, group, storages)

    def kernels(self, group: Mapping[str, Any]) -> str:
        """The name in the compiled catalogue for a group: the rule's, and the switches that are on.

        Args:
            group: the hyperparameters by name; a switch that is missing is off.
        """
        return " ".join([self.name, *(key for key in self.switches if group.get(key))])

    def fixed(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters that a group keeps once its states have started."""
        return {key: group[key] for key in (*self.constant, *self.switches)}

    def gathers_for(self, group: Mapping[str, Any]) -> bool:
        """Whether it looks at whole tensors of a group, with the switches that are on."""
        return self._gathers[self.kernels(group)]

    @property
    def checks_params(self) -> bool:
        return self._check_param is not None

    def check_param(
        self, argument: str, shape: tuple[int, ...], start: int, group: Mapping[str, Any]
    ) -> None:
        """Raise ValueError for a parameter that the rule cannot step.

        Args:
            argument: what to call it in an error.
            shape: its shape, that of the whole tensor where it lies in several processes.
            start: at which element of a larger tensor it begins.
            group: its group's hyperparameters.
        """
        if self._check_param is not None:
            self._check_param(argument, shape, start, group)

    def check_averaging(self, averaging: bool) -> None:
        """Raise ValueError for averages of a rule that shows one of its own.

        Args:
            averaging: whether there are averages.
        """
        if self.shows and averaging:
            raise ValueError(
                f"average: got a decay with {self.name}, whose averaged() shows an average of its "
                "own, wanted None"
            )

    def beside_any(self, present: Collection[str], shapes: Collection[Sequence[int]]) -> list[str]:
        """Those of its states that some parameter has, in its order.

        Args:
            present: the names of those that groups have.
            shapes: the parameters'; rows and columns are where there are some.
        """
        return [
            state.name
            for state in self.states
            if state.name in present
            and (not self.factors or any(state.beside(shape) is not None for shape in shapes))
        ]

    @property
    def later(self) -> list[str]:
        """The states that may come and stay unused: a number switches them on, as a momentum."""
        return [state.name for state in self.states if state.option in self.ranges]

    def compile(self, prefix: str, group: Mapping[str, Any], single: bool) -> Numbers:
        """Check each hyperparameter of a group and lay them out as the kernels want them.

        Args:
            prefix: what to put before a hyperparameter's name in an error.
            group: the hyperparameters by name.
            single: whether any of the group's parameters is stepped in float32.

        Raises:
            TypeError, ValueError: a hyperparameter is missing, unknown, of a wrong type or range.
        """
        self._check_keys(prefix, group)
        row: list[float] = []
        driven: list[Driven] = []
        for column, name in enumerate(self.hyper_names):
            key, _, index = name.partition("[")
            value = self._item(prefix, key, int(index[:-1]), group[key]) if index else group[key]
            argument = prefix + name
            if key not in self.ranges:
                row.append(float(value))
                continue
            allowed = self.ranges.get(name, self.ranges[key])
            if callable(value):
                if key in self.constant or allowed.unit:
                    raise TypeError(
                        f"{argument}: got a function of the step, wanted {allowed.wanted}"
                        + self._why_constant(key)
                    )
                check_takes_step(argument, value)
                row.append(math.nan)
                driven.append(Driven(column, argument, key, allowed, value, single))
            else:
                row.append(number(argument, allowed, value, single))
        return Numbers(row, -1.0 if group["maximize"] else 1.0, float(group["frozen"]), driven)

    def _why_constant(self, key: str) -> str:
        """Why no function of the step may give a hyperparameter, where a state starts from it."""
        started = [state.name for state in self.states if state.initial == key]
        return f": {started[0]} starts from it, and no step reads it again" if started else ""

    def check_common(self, groups: Sequence[tuple[str, Sequence[float]]]) -> None:
        """Raise ValueError where groups differ in what all groups of the rule share.

        A rate of 0 is allowed: such a group has no part in anything.

        Args:
            groups: for each what to put before a hyperparameter's name in an error, and its numbers
                in the kernels' order; NaN for what is not known yet.
        """
        for name in self.common:
            column = self.hyper_names.index(name)
            known = [(prefix, numbers[column]) for prefix, numbers in groups]
            known = [one for one in known if one[1] == one[1] and (name != "lr" or one[1])]
            for prefix, value in known[1:]:
                if value != known[0][1]:
                    raise ValueError(
                        f"{prefix}{name}: got {self._shown(name, value)}, but {known[0][0]}{name} "
                        f"is {self._shown(name, known[0][1])}, wanted one for all groups of "
                        f"{self.name}, which looks at them together"
                        + (", or 0" if name == "lr" else "")
                    )

    def _shown(self, name: str, value: float) -> float | None:
        """A number of the kernels as a person gives it."""
        allowed = self.ranges.get(name, self.ranges.get(name.partition("[")[0]))
        return None if allowed is not None and value == allowed.none else value

    def _check_keys(self, prefix: str, group: Mapping[str, Any]) -> None:
        """Raise for what is missing or unknown, and for what is wanted to be true or false."""
        for key in group:
            if key not in self.defaults:
                raise TypeError(
                    f"{prefix}{key}: got a hyperparameter that {self.name} does not have, wanted "
                    f"one of {', '.join(self.defaults)}"
                )
        for key, default in self.defaults.items():
            if key not in group:
                raise ValueError(f"{prefix}{key}: got nothing, wanted a value such as {default!r}")
            if key in self.choices:
                self.choices[key].check(prefix + key, group[key])
            elif key not in self.ranges and not isinstance(group[key], bool | np.bool_):
                raise TypeError(f"{prefix}{key}: got {group[key]!r}, wanted True or False")

    def _item(self, prefix: str, key: str, index: int, value: Any) -> Any:
        length = self.lengths[key]
        if not isinstance(value, tuple | list) or len(value) != length:
            raise TypeError(
                f"{prefix}{key}: got {value!r}, wanted {length} numbers or schedules, as a tuple"
            )
        return value[index]

    def present(self, group: Mapping[str, Any]) -> list[str]:
        """The names of the states that a group with these hyperparameters has."""
        return [state.name for state in self.states if state.is_on(group)]

    def kind(self, group: Mapping[str, Any]) -> str:
        """What the rule does with gradients: ``PLAIN``, ``MOMENTUM``, ``SIGN`` or ``ADAPTIVE``.

        Args:
            group: the hyperparameters that switch states on; those that are missing count as their
                defaults.
        """
        known = {**self.defaults, **group}
        roles = {state.role for state in self.states if state.is_on(known)}
        if self._takes_sign:
            return SIGN
        if roles & {"second_moment", "magnitude"}:
            return ADAPTIVE
        return MOMENTUM if "momentum" in roles else PLAIN

    def by_name(self, numbers: list[float]) -> dict[str, Any]:
        """Numbers in the kernels' order by hyperparameter, several as a tuple."""
        found: dict[str, Any] = {}
        for name, x in zip(self.hyper_names, numbers, strict=True):
            key, _, index = name.partition("[")
            value = self._shown(name, x)
            found[key] = (*found.get(key, ()), value) if index else value
        return found

    def __repr__(self) -> str:
        return f"Rule({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return named, (self.name,)


def switched(argument: str, given: Any, built: Any) -> str:
    """What is wrong with another switch than a group was built with."""
    return (
        f"{argument}: got {given!r}, but the group was built with {built!r}, wanted a new "
        "optimizer to change it"
    )


RULES: dict[str, Rule] = {}  # those whose class is there, in the order of their classes


def named(name: str) -> Rule:
    """The rule of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in RULES:
        raise ValueError(f"rule: got {name!r}, wanted one of {', '.join(RULES)}")
    return RULES[name]
