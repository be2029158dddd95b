"""States as files, and as the state dicts of the classes for NumPy: they are the same."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import optimizers
from ..optimizer import Optimizer
from ..schedules import Schedule
from .configuration import jnp
from .native import jax
from .state import State
from .transformation import Leaves, Transformation

tree_util = jax.tree_util


def save(path: str | os.PathLike[str], tx: Transformation, params: Any, state: State) -> None:
    """Write a state to a safetensors file that the rule's class for NumPy reads, and PyTorch's.

    The parameters are not in it: they are yours to save. A leaf is called by its path, its keys
    joined by dots; with a mask after its group, ``decayed`` or ``undecayed``. A function that is no
    schedule of gradstep's, or an array, is saved as its number at this step.

    Args:
        path: where; a file that is there is replaced, whole or not at all.
        tx: the transformation.
        params: the parameters.
        state: the state.

    Raises:
        ValueError: two leaves have one name.
        OSError: the file cannot be written; what was there is still there.

    Example:
        >>> import numpy as np, jax.numpy as jnp, gradstep as gs, gradstep.jax, tempfile, pathlib
        >>> tx, params = gradstep.jax.adamw(0.1), {"w": jnp.ones(3)}
        >>> params, state = tx.apply(params, params, tx.init(params))
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "state"
        >>> gradstep.jax.save(file, tx, params, state)
        >>> int(gradstep.jax.load(file, tx, params).count)
        1
        >>> opt = gs.AdamW({"w": np.array(params["w"])})
        >>> opt.load(file)
        >>> opt.t
        1
    """
    twin = _Twin(tx, params, int(state.count))
    twin.take(state)
    twin.optimizer.save(path)


def load(path: str | os.PathLike[str], tx: Transformation, params: Any) -> State:
    """The state that :func:`save` wrote, or a class for NumPy or PyTorch.

    Hyperparameters stay the transformation's.

    Args:
        path: the file.
        tx: the transformation.
        params: the parameters.

    Raises:
        TypeError, ValueError: the file is damaged, of another kind, or does not fit.
        OSError: the file cannot be read.
    """
    twin = _Twin(tx, params, 0)
    twin.optimizer.load(path)
    return twin.state()


class _Twin:
    """The class for NumPy over copies of the parameters, asked for the same.

    Args:
        tx: the transformation.
        params: the parameters.
        count: the steps made.

    Attributes:
        optimizer: the optimizer. With a mask it has two groups, ``decayed`` and ``undecayed``.
        names: what it calls each leaf.
    """

    def __init__(self, tx: Transformation, params: Any, count: int) -> None:
        self.asked = asked = tx.configuration
        self.fresh: State = tx.init(params)
        leaves = Leaves.of("params", params)
        self.structure = leaves.structure
        plain = [_name(path) for path, _ in tree_util.tree_flatten_with_path(params)[0]]
        arrays = dict(zip(plain, map(np.array, leaves.values), strict=False))
        if len(set(plain)) < len(plain):
            raise ValueError(
                "params: got two leaves of one name, wanted paths that keep them apart"
            )
        undecayed = asked.undecayed(leaves.rebuilt(leaves.values))
        groups: Any = arrays
        self.names = plain
        if any(undecayed):
            parts: list[dict[str, Any]] = [{}, {}]
            for name, part in zip(plain, undecayed, strict=True):
                parts[part][name] = arrays[name]
            groups = [{"name": "decayed", "params": parts[0]}] if parts[0] else []
            groups.append({"name": "undecayed", "params": parts[1], "weight_decay": 0.0})
            prefix = ("decayed.", "undecayed.") if parts[0] else ("", "")
            self.names = [prefix[part] + name for name, part in zip(plain, undecayed, strict=True)]
        cls: Any = getattr(optimizers, asked.rule.name)
        values = {key: _at(value, count) for key, value in asked.values.items() if key != "frozen"}
        values |= {key: float(value) for key, value in asked.started.items()}
        self.optimizer: Optimizer = cls(
            groups,
            **values,
            states=asked.options.states,
            rounding=asked.options.rounding,
            split=asked.options.split,
            **{key: _at(value, count) for key, value in asked.stages.items()},
        )

    def take(self, state: State) -> None:
        """Bring a state into the optimizer."""
        saved = self.optimizer.state_dict()
        kept = {name: self.structure.flatten_up_to(tree) for name, tree in state.states.items()}
        if self.asked.averaging:
            kept["average"] = self.structure.flatten_up_to(state.average)
        if self.asked.options.split:
            kept["low"] = self.structure.flatten_up_to(state.low)
        for k, key in enumerate(self.asked.rule.memory_names):
            numbers = np.ascontiguousarray(state.memory).view(np.float64)[..., 0]
            kept[key] = [numbers[i, k : k + 1] for i in range(len(numbers))]
        saved["t"] = int(state.count)
        for i, name in enumerate(self.names):
            entry = saved["state"][name]
            entry["step"] = int(state.count)
            entry.update({k: np.array(v[i]) for k, v in kept.items() if v[i] is not None})
        self.optimizer.load_state_dict(saved)

    def state(self) -> State:
        """The optimizer's state."""
        saved = self.optimizer.state_dict()
        entries = [saved["state"][name] for name in self.names]
        if any(entry["step"] != saved["t"] for entry in entries):
            raise ValueError(
                f"path: got parameters whose counts differ from the optimizer's, {saved['t']}, "
                "wanted a state whose parameters all had a gradient in each step"
            )

        def tree(key: str) -> Any:
            arrays = [entry.get(key) for entry in entries]
            return self.structure.unflatten([None if a is None else jnp.asarray(a) for a in arrays])

        asked, memory, begun = self.asked, self.fresh.memory, self.fresh.begun
        if keys := asked.rule.memory_names:
            numbers = np.array([[[entry[key][0]] for key in keys] for entry in entries])
            memory = jnp.asarray(numbers.view(np.uint32))
        if asked.begins:
            options = [state.name for state in asked.rule.states if state.option]
            used = [entry[key].any() for entry in entries for key in options if key in entry]
            begun = jnp.asarray(any(used))
        made: State = self.fresh._replace(
            count=jnp.asarray(saved["t"], np.int32),
            states={name: tree(name) for name in asked.present},
            memory=memory,
            begun=begun,
            average=tree("average") if asked.averaging else None,
            low=tree("low") if asked.options.split else None,
        )
        return made


def _name(path: Any) -> str:
    return ".".join(_word(key) for key in path) or "0"


def _word(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _at(value: Any, count: int) -> Any:
    """A hyperparameter as a file holds it: functions and arrays as their number at this step."""
    if isinstance(value, tuple):
        return tuple(_at(item, count) for item in value)
    if callable(value) and not isinstance(value, Schedule):
        return float(value(count))
    return value
