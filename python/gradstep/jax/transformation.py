"""A rule as optax's transformation, and as one fused step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..rule import Rule
from ..storages import compute_type, dtype_of, new_state
from .configuration import DTYPES, HEADER, Configuration, Text
from .native import jax, optax, step
from .state import Report, State

jnp, tree_util = jax.numpy, jax.tree_util
COUNT = np.int32
# XLA's time to compile a call grows with the third power of its buffers: 1,600 take 8 s.
MOST_LEAVES = 64  # of one call, where a step may be divided


class Transformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """A rule for JAX: optax's ``init`` and ``update``, and ``apply``, the fused step.

    Made by the functions of this package, such as :func:`gradstep.jax.adamw`.

    ``params, state = tx.apply(params, grads, state)`` is one compiled call for all leaves: the
    rule, its stages and storages in one pass over memory, in place where parameters and state are
    donated (``jax.jit(train_step, donate_argnums=(0, 1))``).

    ``updates, state = tx.update(grads, state, params)`` is optax's protocol, for chains and
    wrappers. The sum with the parameters is then another pass, by ``optax.apply_updates``.

    Attributes:
        configuration: what it was asked.
    """

    configuration: Configuration
    _steps: _Steps

    def __new__(cls, configuration: Configuration) -> Transformation:
        steps = _Steps(configuration)
        self: Transformation = super().__new__(cls, steps.init, steps.update)
        self.configuration = configuration
        self._steps = steps
        return self

    # It never changes, so that it is its own copy; a file could not hold its functions.
    def __copy__(self) -> Transformation:
        return self

    def __deepcopy__(self, memo: object) -> Transformation:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("gradstep.jax: got a transformation to pickle, wanted it made anew")

    def __repr__(self) -> str:
        return f"gradstep.jax.Transformation({self.configuration.rule.name})"

    def apply(
        self,
        params: Any,
        grads: Any,
        state: State,
        *,
        value: Any = None,
        loss_scale: Any = None,
        norm: Any = None,
    ) -> tuple[Any, State]:
        """One step: new parameters and state.

        Args:
            params: a tree of float32, float64, bfloat16 or float16 arrays of any shape.
            grads: gradients, a tree of the same structure and shapes.
            state: of ``init``, or of the last step.
            value: the loss, for rules that step by it (:func:`polyak_sgd`).
            loss_scale: what gradients are divided by.
            norm: that of all gradients, loss scale and all, where ``grads`` are one of several
                shards; None: these are all. It is trusted: with ``nonfinite="skip"`` a step is
                skipped where it is not finite.

        Returns:
            The parameters and the state; ``state.report`` says what the step did, and
            ``state.copy`` is the copy, if there is one.

        Raises:
            TypeError, ValueError: a leaf is refused, by its path.
            NotImplementedError: the step stands where it cannot be compiled: within vmap, under
                differentiation, in an export, sharded without ``shard_map``.

        Example:
            >>> import jax, jax.numpy as jnp, gradstep.jax
            >>> tx = gradstep.jax.adamw(0.1, clip_norm=1.0)
            >>> params = {"w": jnp.zeros(3)}
            >>> state = tx.init(params)
            >>> @jax.jit
            ... def train_step(params, state):
            ...     grads = jax.grad(lambda p: ((p["w"] - 1) ** 2).sum())(params)
            ...     return tx.apply(params, grads, state)
            >>> for _ in range(50):
            ...     params, state = train_step(params, state)
            >>> print(f"{params['w'][0]:.2f} after {state.count} steps")
            1.00 after 50 steps
        """
        leaves = Leaves.of("params", params)
        inputs = {"loss": value, "loss_scale": loss_scale, "norm": norm}
        return self._steps.step(leaves, grads, state, inputs, moves=True)


class _Steps:
    """The functions of a transformation."""

    def __init__(self, configuration: Configuration) -> None:
        self.asked = configuration
        self.rule: Rule = configuration.rule

    # ---- init ----

    def init(self, params: Any) -> State:
        """The state before the first step, for a tree of parameters."""
        leaves = Leaves.of("params", params)
        asked = self.asked
        for argument, leaf in zip(leaves.arguments, leaves.values, strict=True):
            asked.check_leaf(argument, leaf.shape, leaf.dtype.name)
        asked.check_leaves([leaf.shape for leaf in leaves.values], leaves.dtypes)
        starts = [asked.starts(leaf.dtype.name, leaf.shape) for leaf in leaves.values]
        states = {
            name: leaves.rebuilt(
                [
                    _first(name, own[name], leaf) if name in own else None
                    for own, leaf in zip(starts, leaves.values, strict=True)
                ]
            )
            for name in asked.present
        }
        numbers = len(self.rule.memory_names)
        memory = jnp.zeros((len(leaves.values), numbers, 2), np.uint32) if numbers else None
        return State(
            count=jnp.zeros((), COUNT),
            states=states,
            memory=memory,
            begun=jnp.zeros((), np.bool_) if asked.begins else None,
            average=leaves.each(_computed) if asked.averaging else None,
            low=leaves.each(_zeros16) if asked.options.split else None,
            copy=leaves.each(self._copied) if asked.copy_to else None,
            report=Report(**{name: jnp.zeros((), _reported(name)) for name in asked.reported}),
        )

    def _copied(self, leaf: Any) -> Any:
        return jnp.array(leaf, dtype_of(str(self.asked.copy_to)))

    # ---- a step ----

    def update(
        self, updates: Any, state: State, params: Any = None, **extra: Any
    ) -> tuple[Any, State]:
        """The change of each parameter, and the new state: optax's protocol."""
        if params is None:
            if self.asked.reads_parameters:
                raise ValueError(
                    f"params: got None, but {self.rule.name} reads the parameters here, wanted "
                    "tx.update(grads, state, params)"
                )
            params = jax.tree.map(jnp.zeros_like, updates)
        leaves = Leaves.of("params", params)
        self.asked.check_update(leaves.dtypes)
        # optax gives all transformations of a chain the same: what is not for this one is no error
        inputs = {"loss": extra.get("value") if self.rule.takes_loss else None}
        return self.step(leaves, updates, state, inputs, moves=False)

    def step(
        self,
        leaves: Leaves,
        grads: Any,
        state: State,
        inputs: Mapping[str, Any],
        *,
        moves: bool,
    ) -> tuple[Any, State]:
        """The parameters, or their changes, and the new state.

        Args:
            leaves: the parameters.
            grads: their gradients.
            state: the state.
            inputs: ``loss``, ``loss_scale`` and ``norm``; None where there is none.
            moves: whether the parameters move; else their changes come out.
        """
        asked = self.asked
        given = {name: number for name, number in inputs.items() if number is not None}
        self._check_inputs(given)
        self._check(leaves, state)
        gradients = leaves.beside("grads", grads)
        spans, alone = self._spans(leaves), self._alone("norm" in given)
        if len(spans) > 1 and asked.wants_norm and "norm" not in given:
            [given["norm"]] = step(f"{HEADER}\nnorm", gradients, [((2,), np.uint32)], [], alone)
        kept = self._kept(leaves, state)
        groups, dtypes = asked.undecayed(leaves.rebuilt(leaves.values)), leaves.dtypes
        single = any(compute_type(dtype) == "float32" for dtype in dtypes)
        found: dict[str, list[Any]] = {}
        for i, span in enumerate(spans):
            part = slice(span.start, span.stop)
            text = asked.text(dtypes[part], groups[part], given, span.start, single)
            call = Call(text, moves)
            call.read(state.count)
            if i:  # one after the other, each with all threads
                call.read(found["count"][-1])
            call.make("count", (), COUNT)
            if asked.begins:
                call.read(state.begun)
                call.make("begun", (), np.bool_)
            for number in text.values(state.count):
                call.read(number)
            if state.memory is not None:
                call.keep("memory", state.memory if len(spans) == 1 else state.memory[part])
            for name in asked.reported:
                call.make(name, (), _reported(name))
            for j in span:
                self._add_leaf(call, leaves.values[j], gradients[j], kept, j)
            for name, results in call.run(alone).items():
                found.setdefault(name, []).extend(results)
        return leaves.rebuilt(found.get("params", [])), self._state(leaves, found)

    def _spans(self, leaves: Leaves) -> list[range]:
        """The leaves of each call of a step."""
        count = len(leaves.values)
        each = MOST_LEAVES if self.asked.divides else max(count, 1)
        return [range(i, min(i + each, count)) for i in range(0, max(count, 1), each)]

    def _check_inputs(self, given: Mapping[str, Any]) -> None:
        """Raise ValueError for a number that nothing uses, or one that is missing."""
        name = self.rule.name
        if "loss" in given and not self.rule.takes_loss:
            raise ValueError(f"value: got a loss, which {name} does not use, wanted none")
        if "loss" not in given and self.rule.takes_loss:
            raise ValueError(f"value: got nothing, wanted the loss, value=loss: {name} steps by it")
        if "norm" in given and not self.asked.wants_norm:
            raise ValueError(
                "norm: got a norm, which nothing uses here, wanted none, or a transformation with "
                "clip_norm or nonfinite='skip'"
            )

    def _check(self, leaves: Leaves, state: State) -> None:
        if not isinstance(state, State):
            raise TypeError(
                f"state: got {type(state).__name__}, wanted the State of tx.init, or of a step"
            )
        for argument, leaf in zip(leaves.arguments, leaves.values, strict=True):
            self.asked.check_leaf(argument, leaf.shape, leaf.dtype.name)
        if set(state.states) != set(self.asked.present) or (
            (state.average is not None) != self.asked.averaging
            or (state.low is not None) != self.asked.options.split
            or (state.copy is not None) != (self.asked.copy_to is not None)
            or (state.begun is not None) != self.asked.begins
            or (state.memory is not None) != bool(self.rule.memory_names)
        ):
            raise ValueError(
                "state: got what another transformation keeps, with the states "
                f"{sorted(state.states)}, wanted a State of this one's init, with "
                f"{sorted(self.asked.present)}"
            )
        _check_array("count", state.count, (), COUNT)
        if self.asked.begins:
            _check_array("begun", state.begun, (), np.bool_)
        if numbers := len(self.rule.memory_names):
            _check_array("memory", state.memory, (len(leaves.values), numbers, 2), np.uint32)

    def _alone(self, has_norm: bool) -> str:
        """Why one of several shards cannot make this step by itself; empty: it can."""
        asked = self.asked
        if whole := asked.looks_at_all:
            return (
                f"gradstep.jax: got {whole}, within shard_map, where each device has a part, "
                "wanted replicated tensors outside of it, or an element-wise rule"
            )
        if asked.wants_norm and not has_norm:
            return (
                "norm: got nothing within shard_map, where a shard's gradients are not all, "
                "wanted norm=jnp.sqrt(jax.lax.psum(sum of squares, axis names)) for clip_norm and "
                "nonfinite='skip'"
            )
        return ""

    def _kept(self, leaves: Leaves, state: State) -> dict[str, list[Any]]:
        """What the state keeps for each leaf, by name."""
        asked = self.asked
        kept = {
            name: leaves.beside_state(f"state.states[{name!r}]", state.states[name])
            for name in asked.present
        }
        if asked.options.split:
            kept["low"] = leaves.beside_state("state.low", state.low)
        if asked.averaging:
            kept["average"] = leaves.beside_state("state.average", state.average)
        for argument, leaf, *arrays in zip(
            leaves.arguments, leaves.values, *kept.values(), strict=True
        ):
            starts = asked.starts(leaf.dtype.name, leaf.shape)
            for name, array in zip(kept, arrays, strict=True):
                if name in starts or name not in asked.present:
                    _check_kept(name, argument, leaf, array, starts.get(name))
        return kept

    def _add_leaf(
        self, call: Call, leaf: Any, gradient: Any, kept: Mapping[str, list[Any]], j: int
    ) -> None:
        asked = self.asked
        if call.moves:
            call.keep("params", leaf)
        else:
            call.read(leaf)
        if "low" in kept:
            call.keep("low", kept["low"][j])
        # A gradient that nobody wants afterwards gives its memory to the change.
        if not call.moves and gradient.dtype == leaf.dtype:
            call.keep("params", gradient)
        else:
            call.read(gradient)
            if not call.moves:
                call.make("params", leaf.shape, leaf.dtype)
        for name in (*asked.present, "average"):
            if name in kept and kept[name][j] is not None:
                call.keep(name, kept[name][j])
            elif name in kept:
                call.none(name)
        if asked.copy_to is not None:
            call.make("copy", leaf.shape, dtype_of(asked.copy_to))

    def _state(self, leaves: Leaves, found: Mapping[str, list[Any]]) -> State:
        asked = self.asked
        return State(
            count=found["count"][0],
            states={name: leaves.rebuilt(found.get(name, [])) for name in asked.present},
            memory=_joined(found.get("memory", [])),
            begun=found["begun"][0] if asked.begins else None,
            average=leaves.rebuilt(found.get("average", [])) if asked.averaging else None,
            low=leaves.rebuilt(found.get("low", [])) if asked.options.split else None,
            copy=leaves.rebuilt(found.get("copy", [])) if asked.copy_to is not None else None,
            report=Report(**{name: found[name][0] for name in asked.reported}),
        )


class Call:
    """The buffers of a compiled step, in its order.

    Args:
        text: what stays the same, and which numbers come with each call.
        moves: whether the parameters move; else their changes come out.
    """

    def __init__(self, text: Text, moves: bool) -> None:
        first, _, rest = text.text.partition("\n")
        self.text = text.text if moves else f"{first}\nupdate\n{rest}"
        self.moves = moves
        self._operands: list[Any] = []
        self._results: list[tuple[tuple[int, ...], Any]] = []
        self._aliases: list[tuple[int, int]] = []
        self._names: list[tuple[str, int]] = []

    def read(self, array: Any) -> None:
        """An array that the step reads."""
        self._operands.append(array)

    def make(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """An array that the step makes."""
        self._names.append((name, len(self._results)))
        self._results.append((shape, np.dtype(dtype)))

    def keep(self, name: str, array: Any) -> None:
        """An array that the step changes where it lies."""
        self._aliases.append((len(self._operands), len(self._results)))
        self.read(array)
        self.make(name, array.shape, array.dtype)

    def none(self, name: str) -> None:
        """A leaf does without this array."""
        self._names.append((name, -1))

    def run(self, alone: str) -> dict[str, list[Any]]:
        """The results by name, each a list over leaves."""
        results = step(self.text, self._operands, self._results, self._aliases, alone)
        found: dict[str, list[Any]] = {}
        for name, index in self._names:
            found.setdefault(name, []).append(None if index < 0 else results[index])
        return found


class Leaves(NamedTuple):
    """The leaves of a tree of parameters."""

    values: list[Any]
    arguments: list[str]  # what each is called in an error
    structure: Any

    @classmethod
    def of(cls, root: str, tree: Any) -> Leaves:
        """Those of a tree; raises TypeError for one that is no array of real numbers."""
        pairs, structure = tree_util.tree_flatten_with_path(tree)
        arguments = [root + tree_util.keystr(path) for path, _ in pairs]
        values = [
            _checked(argument, leaf) for argument, (_, leaf) in zip(arguments, pairs, strict=True)
        ]
        for argument, leaf in zip(arguments, values, strict=True):
            if getattr(leaf, "weak_type", False):
                raise TypeError(
                    f"{argument}: got a weakly typed {leaf.dtype}, as a Python number makes it, "
                    f"wanted jnp.asarray(…, dtype=jnp.{leaf.dtype})"
                )
        return cls(values, arguments, structure)

    @property
    def dtypes(self) -> list[str]:
        return [leaf.dtype.name for leaf in self.values]

    def rebuilt(self, values: Sequence[Any]) -> Any:
        return self.structure.unflatten(values)

    def each(self, make: Callable[[Any], Any]) -> Any:
        return self.rebuilt([make(leaf) for leaf in self.values])

    def beside(self, root: str, tree: Any) -> list[Any]:
        """The leaves of gradients, each of its parameter's shape."""
        pairs, structure = tree_util.tree_flatten_with_path(tree)
        if structure != self.structure:
            seen, _ = tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
            raise ValueError(self._mismatch(root, seen, structure))
        found = []
        for (path, leaf), param in zip(pairs, self.values, strict=True):
            argument = root + tree_util.keystr(path)
            gradient = _checked(argument, leaf)
            if gradient.shape != param.shape:
                raise ValueError(
                    f"{argument}: got shape {gradient.shape}, wanted {param.shape}, the parameter's"
                )
            if gradient.dtype.name == "float64" and compute_type(param.dtype.name) != "float64":
                raise TypeError(
                    f"{argument}: got float64 for a parameter in {param.dtype}, wanted its dtype "
                    "or a smaller one"
                )
            found.append(gradient)
        return found

    def _mismatch(self, root: str, pairs: Sequence[Any], structure: Any) -> str:
        """The first path that only one of two trees has, or what differs otherwise."""
        own = [argument.partition("[")[2] for argument in self.arguments]
        theirs = [tree_util.keystr(path).partition("[")[2] for path, _ in pairs]
        for (path, leaf), name in zip(pairs, theirs, strict=True):
            if leaf is None and name in own:
                return f"{root}{tree_util.keystr(path)}: got None, wanted an array"
        for name, argument in zip(own, self.arguments, strict=True):
            if name not in theirs:
                path = argument[argument.find("[") :] if "[" in argument else ""
                return f"{root}{path}: got nothing there, wanted the gradient of {argument}"
        for (path, _), name in zip(pairs, theirs, strict=True):
            if name not in own:
                return (
                    f"{root}{tree_util.keystr(path)}: got a gradient without a parameter, wanted "
                    "the structure of params"
                )
        return f"{root}: got the structure {structure}, wanted that of params, {self.structure}"

    def beside_state(self, root: str, tree: Any) -> list[Any]:
        """What the state keeps for each, None where it keeps nothing."""
        try:
            return list(self.structure.flatten_up_to(tree))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{root}: got a tree unlike params ({error}), wanted the state of these parameters"
            ) from None


def _checked(argument: str, leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{argument}: got {type(leaf).__name__}, wanted an array")
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.is_deleted():
        raise ValueError(
            f"{argument}: got an array that was donated to a step before, wanted what that step "
            "returned"
        )
    if leaf.dtype == jax.dtypes.float0:
        raise TypeError(
            f"{argument}: got float0, the gradient of an integer, wanted a leaf of real numbers: "
            "optax.masked leaves others out"
        )
    if leaf.dtype.name not in DTYPES:
        raise TypeError(
            f"{argument}: got dtype {leaf.dtype}, wanted one of {', '.join(DTYPES)}: "
            "optax.masked leaves other leaves out"
        )
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _first(name: str, start: tuple[Any, str, Any], leaf: Any) -> Any:
    """A state of a leaf at its start."""
    state, storage, initial = start
    dtype = dtype_of(storage)
    if state.is_point:
        return jnp.array(leaf, dtype)  # a copy: a buffer cannot be donated twice
    if dtype == np.uint8:
        shape = np.broadcast_to(np.float32(0), leaf.shape)
        return jnp.asarray(new_state(name, state, storage, float(initial), shape, None))
    return jnp.full(state.beside(leaf.shape), initial, dtype)


def _check_kept(
    name: str, argument: str, leaf: Any, array: Any, start: tuple[Any, str, Any] | None
) -> None:
    """Raise ValueError for an array of the state that is not what the leaf has."""
    shape: tuple[int, ...] = leaf.shape
    dtype = np.dtype(np.int16 if name == "low" else compute_type(leaf.dtype.name))
    if start is not None:
        state, storage, _ = start
        dtype = dtype_of(storage)
        shape = state.beside(shape) or ()
        if dtype == np.uint8:
            shape = (_core.storage_bytes(storage, leaf.size),)
    _check_array(f"{name} of {argument}", array, shape, dtype)


def _joined(parts: Sequence[Any]) -> Any:
    """What several calls keep, as one array; None: nothing."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _check_array(name: str, array: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise ValueError for an array of the state that is no such array."""
    found = (getattr(array, "shape", None), getattr(array, "dtype", None))
    if found != (shape, np.dtype(dtype)):
        raise ValueError(
            f"state: got {name} as {found[1]} of shape {found[0]}, wanted {np.dtype(dtype)} of "
            f"shape {shape}, from tx.init of these parameters"
        )


def _computed(leaf: Any) -> Any:
    return jnp.array(leaf, compute_type(leaf.dtype.name))


def _zeros16(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, np.int16)


def _reported(name: str) -> Any:
    return np.bool_ if name == "skipped" else np.float32
