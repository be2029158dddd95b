"""States as files, and as the state dicts of the classes for NumPy: they are the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import optimizers
from ..optimizer import Optimizer
from .configuration import Given
from .native import jax
from .state import State
from .transformation import Leaves, Transformation

tree_util = jax.tree_util
Names = list[str]


def save(path: str | os.PathLike[str], tx: Transformation, params: Any, state: State) -> None:
    """Write a state to a safetensors file that the rule's class for NumPy reads, and PyTorch's.

    The parameters are not in it: they are yours to save. A leaf is called by its path, its keys
    joined by dots.

    Args:
        path: where; a file that is there is replaced, whole or not at all.
        tx: the transformation.
        params: the parameters.
        state: the state.

    Raises:
        TypeError: a hyperparameter is a function that is no schedule.
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
    opt = _optimizer(tx, params)
    opt.load_state_dict(_dict_of(opt, tx, params, state))
    opt.save(path)


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
    opt = _optimizer(tx, params)
    opt.load(path)
    return _state_of(opt.state_dict(), tx, params)


def _names(params: Any) -> Names:
    pairs, _ = tree_util.tree_flatten_with_path(params)
    return [".".join(_word(key) for key in path) or "0" for path, _ in pairs]


def _word(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _optimizer(tx: Transformation, params: Any) -> Optimizer:
    """The class for NumPy over copies of the parameters, asked for the same."""
    asked = tx.configuration
    leaves = Leaves.of("params", params)
    arrays = {
        name: np.array(leaf) for name, leaf in zip(_names(params), leaves.values, strict=True)
    }
    if len(arrays) < len(leaves.values):
        raise ValueError("params: got two leaves of one name, wanted paths that keep them apart")
    cls: Any = getattr(optimizers, asked.rule.name)
    values = {key: _plain(value) for key, value in asked.values.items() if key != "frozen"}
    values |= {key: float(value) for key, value in asked.started.items()}
    stages = {key: _plain(value) for key, value in asked.stages.items()}
    opt: Optimizer = cls(
        arrays,
        **values,
        states=asked.options.states,
        rounding=asked.options.rounding,
        split=asked.options.split,
        **stages,
    )
    return opt


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return float(value.array) if isinstance(value, Given) else value


def _numbers(state: State) -> np.ndarray[Any, Any]:
    """What the rule keeps for each leaf, float64, a row each."""
    rows = [np.ascontiguousarray(part).view(np.float64)[..., 0] for part in state.memory]
    return np.concatenate(rows)


def _dict_of(opt: Optimizer, tx: Transformation, params: Any, state: State) -> dict[str, Any]:
    asked, saved = tx.configuration, opt.state_dict()
    structure = jax.tree.structure(params)
    kept = {name: structure.flatten_up_to(tree) for name, tree in state.states.items()}
    if asked.averaging:
        kept["average"] = structure.flatten_up_to(state.average)
    if asked.options.split:
        kept["low"] = structure.flatten_up_to(state.low)
    memory = _numbers(state) if state.memory else None
    saved["t"] = int(state.count)
    for i, name in enumerate(_names(params)):
        entry = saved["state"][name]
        entry["step"] = int(state.count)
        for key, values in kept.items():
            if values[i] is not None:
                entry[key] = np.array(values[i])
        for k, key in enumerate(asked.rule.memory_names):
            entry[key] = np.array([memory[i, k]]) if memory is not None else entry[key]
    return saved


def _state_of(saved: Mapping[str, Any], tx: Transformation, params: Any) -> State:
    asked = tx.configuration
    fresh: State = tx.init(params)
    names, structure = _names(params), jax.tree.structure(params)
    entries = [saved["state"][name] for name in names]
    if any(entry["step"] != saved["t"] for entry in entries):
        raise ValueError(
            f"path: got parameters whose counts differ from the optimizer's, {saved['t']}, wanted "
            "a state whose parameters all had a gradient in each step"
        )

    def tree(key: str) -> Any:
        arrays = [entry.get(key) for entry in entries]
        return structure.unflatten([None if a is None else jax.numpy.asarray(a) for a in arrays])

    memory, first = [], 0
    for part in fresh.memory:
        rows = entries[first : first + len(part)]
        numbers = np.array(
            [[float(entry[key][0]) for key in asked.rule.memory_names] for entry in rows]
        )
        memory.append(jax.numpy.asarray(numbers[..., None].view(np.uint32)))
        first += len(part)
    made: State = fresh._replace(
        count=jax.numpy.asarray(saved["t"], np.int32),
        states={name: tree(name) for name in asked.present},
        memory=tuple(memory),
        average=tree("average") if asked.averaging else None,
        low=tree("low") if asked.options.split else None,
        copy=fresh.copy,
    )
    return made
