"""The same rules under ``jax.jit``, in place: a transformation of optax's for each.

>>> import jax, jax.numpy as jnp, gradstep.jax
>>> tx = gradstep.jax.adamw(1e-3, weight_decay=0.01)
>>> params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
>>> state = tx.init(params)
>>> grads = jax.tree.map(jnp.ones_like, params)
>>> params, state = jax.jit(tx.apply, donate_argnums=(0, 2))(params, grads, state)
>>> int(state.count)
1
"""

from __future__ import annotations

from typing import Any

from . import functions
from .files import load, save
from .state import Report, State
from .transformation import Transformation

_FUNCTIONS = {name: functions.make(name, rule) for name, rule in functions.names().items()}
globals().update(_FUNCTIONS)

__all__ = ["Report", "State", "Transformation", "load", "save", *_FUNCTIONS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "muon":
        raise AttributeError(
            "gradstep.jax.muon: got a rule with products of matrices between its passes, which no "
            "compiled step here makes, wanted optax.contrib.muon for the matrices and a rule of "
            "gradstep.jax for the rest, by optax.multi_transform"
        )
    raise AttributeError(f"module 'gradstep.jax' has no attribute {name!r}")
