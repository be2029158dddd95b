"""What all rules share: groups, states, stages and the step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .engine import ONE, Compiled, Engine, Exchange
from .groups import Groups
from .hyperparameters import Choice, Range
from .parameters import Parameters, by_group
from .report import Report
from .rule import Rule
from .saving import Saved, check_kind
from .stages import Stages
from .storages import StorageOptions
from .tensors import Swap, check_params
from .turn import alone

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arguments import Grads, Params, Value
    from .arrays import Array
    from .storages import Allocate

    Counts = NDArray[np.int64]


class Optimizer(Saved):
    """The base of all rules: groups, states, stages, the step and its report.

    Args:
        params: one array, a sequence of arrays, a mapping from name to array, or a list of groups.
            A group is a mapping with ``params`` (one of the former three) and, if it wants,
            ``name``, ``frozen`` and hyperparameters of its own. Arrays are float32, float64,
            bfloat16 (of ml_dtypes) or float16, of any shape, C-contiguous and writable; they are
            updated in place and kept, not copied. A :class:`Shard` says that an array is a piece
            of a larger tensor. A step computes in float64 for float64 parameters, else in float32.
        defaults: the hyperparameters of groups that do not name them.
        states: how states are stored: a storage's name, or a mapping from state to name.
            ``"float32"``, ``"float64"``, ``"bfloat16"`` and ``"float16"`` (not for second moments)
            are arrays of the parameter's shape; ``"q8"`` and ``"q4"`` are codes of 8 and 4 bits
            with a scale for each block, in uint8 arrays, which :func:`decode` reads. None: in what
            the step computes in.
        rounding: ``"nearest"``, ``"stochastic"``, or a mapping from state, or ``"params"``, to one
            of them, for what is stored in bfloat16, float16, q8 or q4. Without an entry second
            moments and q4 momenta are rounded stochastically, the rest to nearest, as AMSGrad's
            maximum always is.
        split: keep the 16 bits that bfloat16 parameters lack in an int16 array,
            ``opt.state[name]["low"]``, so that both together are a float32 parameter. See
            :func:`split`.
        seed: of the random bits of stochastic rounding; from 0, below 2⁵².
        allocate: a callable that gets the name of an array to keep, such as ``"weight.exp_avg"``,
            its shape and its dtype, and returns one of zeros: ``np.memmap`` for states larger than
            memory. It is not asked for arrays without elements.
        clip_norm: scale all gradients down so that the norm of all of them together is at most
            this: by min(1, clip_norm / (norm + 1e-6)).
        clip_value: limit each element of a gradient to ± this, after ``clip_norm``.
        nonfinite: what to do where an element of a gradient is infinite or NaN. ``"allow"``: step.
            ``"skip"``: leave parameters, states and counts as they are, and say so in the report.
            ``"raise"``: the same with a FloatingPointError.
        average: keep a running mean of each parameter: after each step it moves towards the
            parameter by 1 − this, from the first parameter on. See :attr:`average`.
        copy_to: arrays in the structure of ``params``, of the same shapes and any of the dtypes,
            that each step fills with the new parameters, rounded to nearest.
        stats: measure norms, cosine and g²/v in each step, for the report. ``"sample"``: over a
            fixed sample of whole blocks, 32,768 elements at most, at next to no cost where there
            are millions; norms are then estimates, and rules without a momentum have a cosine,
            too: with a running average (β = 0.9) of the sampled gradients, kept for this alone.

    Any numeric hyperparameter, and ``clip_norm``, ``clip_value`` and ``average``, may be a number,
    a schedule, or a callable that takes the index k of the step about to be made (0, 1, …) and
    returns a number. A skipped step does not count.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wanted.

    Example:
        Clipping, averaging and a copy in another precision, in the same pass over memory:

        >>> import numpy as np, gradstep as gs
        >>> w, half = np.ones(4, np.float32), np.zeros(4, np.float16)
        >>> opt = gs.AdamW(w, states="q8", clip_norm=1.0, average=0.9, copy_to=half)
        >>> opt.step(np.array([3, 0, 4, 0], np.float32)).grad_norm
        5.0
        >>> half
        array([0.999, 1.   , 0.999, 1.   ], dtype=float16)
        >>> opt.stages["clip_norm"] = 0.5  # from the next step on
        >>> with opt.averaged():
        ...     print(w.round(4))
        [0.9999 1.     0.9999 1.    ]
    """

    rule: ClassVar[Rule]
    _ranges: ClassVar[Mapping[str, Range]] = {}  # of hyperparameters that this rule alone has
    _choices: ClassVar[Mapping[str, Choice]] = {}  # of those that only Python reads
    _family: ClassVar[str | None] = None  # a key of rule.FAMILIES, where its kind does not say it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "rule" in vars(cls):
            own = None if cls._check_param is Optimizer._check_param else cls._check_param
            cls.rule.complete(cls, cls._ranges, cls._choices, cls._check, own)

    @staticmethod
    def _check(prefix: str, group: Mapping[str, Any], storages: Mapping[str, str]) -> None:
        """What a rule demands of several hyperparameters together, see :meth:`Rule.check`."""

    @staticmethod
    def _check_param(
        argument: str, shape: tuple[int, ...], start: int, group: Mapping[str, Any]
    ) -> None:
        """What a rule demands of a parameter, see :meth:`Rule.check_param`."""

    def __init__(
        self,
        params: Params,
        defaults: Mapping[str, Any],
        *,
        states: str | Mapping[str, str] | None = None,
        rounding: str | Mapping[str, str] | None = None,
        split: bool = False,
        seed: int = 0,
        allocate: Allocate | None = None,
        clip_norm: Value | None = None,
        clip_value: Value | None = None,
        nonfinite: str = "allow",
        average: Value | None = None,
        copy_to: Any = None,
        stats: bool | str = False,
        **unknown: Any,
    ) -> None:
        if not hasattr(self, "rule"):
            raise TypeError("Optimizer: got the base class, wanted a rule such as AdamW")
        if not Rule.is_compiled(self.rule.name):
            raise RuntimeError(
                f"{self.rule.name}: got a core without this rule, wanted one that was built after "
                "the rule came into cpp/rules/catalogue.hpp"
            )
        for name in unknown:
            raise TypeError(
                f"{type(self).__name__}: got the unknown argument {name!r}, wanted one of "
                + ", ".join([*defaults, *(Optimizer.__init__.__kwdefaults__ or ())])
            )
        if allocate is not None and not callable(allocate):
            raise TypeError(f"allocate: got {type(allocate).__name__}, wanted a callable")
        stages = {
            "clip_norm": clip_norm,
            "clip_value": clip_value,
            "average": average,
            "nonfinite": nonfinite,
            "seed": seed,
        }
        self._engine = Engine(stages, stats)
        grouped = (
            isinstance(params, list | tuple)
            and bool(params)
            and all(isinstance(item, Mapping) for item in params)
        )
        given: Any = params if grouped else [{"params": params}]
        copies = copy_to if grouped else [copy_to]
        if grouped and copy_to is not None:
            by_group("copy_to", copy_to, len(given), "arrays")
        none = Parameters(
            self.rule,
            {**defaults, "frozen": False},
            StorageOptions(states, rounding, split),
            allocate,
            averaging=average is not None,
            copying=copy_to is not None,
            grouped=grouped,
        )
        held = none.added(given, copies)
        self._take(held, np.zeros(len(held.tensors), dtype=np.int64))

    def _take(self, held: Parameters, counts: Counts) -> None:
        """Step these parameters from now on."""
        self._turn = self._engine.turn
        compiled = Compiled(self._engine, held, counts)
        # A call within a call takes 2.5% of a small step's time.
        flatten: Callable[[Any], list[Any]] = (
            held.flatten if held.grouped else functools.partial(held.groups[0].flatten, "grads")
        )
        self._compiled, self._flatten = compiled, flatten

    # ---- what a person reads ----

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_" and "_compiled" in self.__dict__:  # a plain attribute would be ignored
            if name in self._held.defaults:
                raise AttributeError(f"{name}: got {value!r}, wanted it at groups[0][{name!r}]")
            if name in self._engine.stages:
                raise AttributeError(f"{name}: got {value!r}, wanted it at stages[{name!r}]")
        super().__setattr__(name, value)

    @property
    def t(self) -> int:
        """Updates applied so far, which is the index that schedules get at the next step."""
        return self._engine.t

    @property
    def groups(self) -> Groups:
        """The groups; assign to their entries to change hyperparameters."""
        return Groups(self._held.groups)

    @property
    def stages(self) -> Stages:
        """What a step does besides the rule, by name; assign to its entries to change it.

        ``clip_norm``, ``clip_value``, ``average`` (the decay), ``nonfinite`` and ``seed``.
        Averages cannot be switched on or off: their arrays are there from the start or not at all.
        """
        return self._engine.stages

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """For each parameter's name its own update count ``step`` and its arrays, live.

        Those are the rule's states as they are stored, ``low`` of a split parameter, and
        ``average``.
        """
        compiled = self._compiled  # once: another thread may add a group
        held: Parameters = compiled.held  # type: ignore[assignment]
        # Within averaged() they are where the parameters were.
        hidden = ("average",) if self._engine.shows_averages else ()
        # Views, which cannot be resized: the core keeps the arrays' addresses.
        return {
            name: {"step": int(count)} | {k: v.view() for k, v in own.items() if k not in hidden}
            for (name, own), count in zip(held.own().items(), compiled.counts, strict=True)
        }

    @property
    def average(self) -> Any:
        """The running means in the structure of ``params``, live; None without ``average``.

        They are of what the step computes in: float64 for float64 parameters, else float32. The
        first is the parameter as the first step finds it; each step that is not skipped moves
        every average, also those of parameters that it leaves alone.

        Raises:
            RuntimeError: within :meth:`averaged`, where the parameters hold them.
        """
        if not self._engine.averaging:
            return None
        if self._engine.shows_averages:
            raise RuntimeError(
                "average: read within averaged(), where the parameters hold the averages"
            )
        held = self._held
        return held.rebuild([kept["average"].view() for kept in held.own().values()])

    @property
    def copies(self) -> Any:
        """The arrays of ``copy_to`` in the structure of ``params``; None without."""
        held = self._held
        return held.rebuild([tensor.copy for tensor in held.tensors]) if held.copying else None

    @alone("fill_copies")
    def fill_copies(self) -> None:
        """Bring the arrays of ``copy_to`` in line with the parameters.

        For parameters that you have written to yourself: a step fills the copies of what it
        updates, and loading a state dict fills all of them.

        Raises:
            RuntimeError: without ``copy_to``; or this optimizer is stepping in another thread.

        Example:
            >>> import numpy as np, gradstep as gs
            >>> w, half = np.zeros(2, np.float32), np.zeros(2, np.float16)
            >>> opt = gs.SGD(w, copy_to=half)
            >>> w[:] = 0.5  # loaded from somewhere
            >>> opt.fill_copies()
            >>> half
            array([0.5, 0.5], dtype=float16)
        """
        if not self._held.copying:
            raise RuntimeError(
                "fill_copies: got an optimizer without copies, wanted one with copy_to"
            )
        self._held.fill_copies()

    def averaged(self) -> AbstractContextManager[None]:
        """Have the averages in the parameters, rounded to their dtype, for a ``with`` block.

        With :class:`ScheduleFreeSGD`, :class:`ScheduleFreeAdamW` and :class:`ASGD`, which have an
        average of their own, it is that one. The arrays of ``copy_to`` follow. At the end of the
        block, also by an exception, all of them are again what they were, to the bit. Within the
        block only read them: what is written to them is not kept apart.

        Raises:
            RuntimeError: without averages; or, within the block, for a step, saving or whatever
                else needs the parameters.
        """
        if not self._engine.averaging and not any(row.rule.shows for row in self._held.rows):
            raise RuntimeError(
                f"averaged: got {type(self).__name__} without averages, wanted one that was built "
                "with average=0.999 or another decay"
            )
        return self._engine.averaged(self._exchange)

    def _exchange(self) -> Exchange:
        held = self._held
        check_params(held.arguments("params"), held.tensors)
        shown: list[Array | None] = []
        for i, tensor in enumerate(held.tensors):
            if held.rows[tensor.group].rule.shows:
                shown.append(self._compiled.show(i, np.empty_like(tensor.param)))
            else:
                shown.append(tensor.average)
        return Swap(held.tensors, shown)

    def __repr__(self) -> str:
        return self._held.describe(type(self).__name__, self.t)

    # ---- the step ----

    # Keyword-only arguments would cost a small step 4%.
    def step(
        self,
        grads: Grads,
        loss_scale: float = ONE,
        zero_grads: bool = False,
        loss: float | None = None,
    ) -> Report:
        """Update every parameter in place.

        Args:
            grads: gradients in the structure of ``params`` (for groups: a list with each group's
                structure), each of its parameter's shape, float32, float64, bfloat16 or float16,
                or :class:`Rows`. None leaves its parameter, state and own count untouched, but for
                numbers that a rule has once for all of its parameters, such as Prodigy's ``d``.
            loss_scale: what the loss was multiplied by, > 0: gradients are divided by it.
            zero_grads: whether to set every gradient to 0 once it is used, also where the step is
                skipped. They must be writable then, and share no byte. Otherwise they are only
                read.
            loss: the loss that the gradients are of, without the ``loss_scale``: for rules that
                step by it, such as :class:`PolyakSGD`; others refuse it. One that is not finite
                counts as a gradient that is not; without ``nonfinite`` it is refused.

        Returns:
            The :class:`Report` of this step.

        Raises:
            TypeError, ValueError: before anything is written, naming the gradient or
                hyperparameter, what it got and what it wanted.
            FloatingPointError: with ``nonfinite="raise"``, naming the first gradient that is not
                finite; parameters, states and counts are as they were.
            RuntimeError: this optimizer is stepping in another thread at this moment.
        """
        try:
            del self._turn.free[0]
        except IndexError:
            raise self._turn.taken("step") from None
        try:
            compiled = self._compiled
            k = compiled.clock[0]
            compiled.refresh(k)
            return compiled.run(k, self._flatten(grads), loss_scale, zero_grads, None, loss)
        finally:
            self._turn.free.append(None)

    # ---- groups ----

    @alone("add_group")
    def add_group(self, group: Mapping[str, Any], copy_to: Any = None) -> None:
        """Add a group of parameters, a mapping as in the constructor.

        From then on ``step`` takes a list with each group's gradients.

        Args:
            group: ``params``, and if it wants ``name``, ``rule``, ``frozen`` and hyperparameters.
            copy_to: arrays in the structure of its ``params``, where the constructor got such.

        Raises:
            TypeError, ValueError: as the constructor; nothing is added then.

        Example:
            >>> import numpy as np, gradstep as gs
            >>> opt = gs.AdamW(np.zeros(2))
            >>> opt.add_group({"params": np.zeros(3), "lr": 0.1})
            >>> opt.step([np.ones(2), np.ones(3)])
            Report(t=1, lr=(0.001, 0.1))
        """
        check_kind("group", group, Mapping)
        held = self._held
        if (copy_to is not None) != held.copying:
            raise ValueError(
                f"copy_to: got {type(copy_to).__name__}, but the optimizer was built "
                f"{'with' if held.copying else 'without'} copies, wanted "
                + ("arrays in the structure of the group's params" if held.copying else "None")
            )
        more = held.added([group], [copy_to])
        fresh = np.zeros(len(more.tensors) - len(held.tensors), dtype=np.int64)
        self._take(more, np.concatenate([self._compiled.counts, fresh]))
