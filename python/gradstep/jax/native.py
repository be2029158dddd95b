"""The compiled step as JAX sees it: one call of XLA's FFI, and what it cannot be part of."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

from ..extras import need

OLDEST = (0, 6, 1)  # jaxlib: the first with jax.shard_map; 0.5.0 ran all else
TARGET = "gradstep_step"

jax: Any = need("jax", "gradstep.jax", "jax")
optax: Any = need("optax", "gradstep.jax", "jax")
need("optax.contrib", "gradstep.jax", "jax")
import jaxlib  # noqa: E402

_version = tuple(int(part) for part in jaxlib.__version__.split(".")[:3] if part.isdigit())
if _version < OLDEST:
    raise ImportError(
        f"gradstep.jax: got jaxlib {jaxlib.__version__}, wanted "
        f'{".".join(map(str, OLDEST))} or newer: pip install --upgrade "gradstep[jax]"'
    )
try:
    _xla: Any = importlib.import_module(f"{__package__}._xla")
except ImportError as error:
    raise ImportError(
        f"gradstep.jax: got no compiled part ({error}), wanted gradstep built with it: "
        'GRADSTEP_JAX=1 pip install "gradstep[jax]" (where there is no jaxlib, as for musl, there '
        "can be none)"
    ) from error

from jax.extend.core import Primitive  # noqa: E402
from jax.interpreters import ad, batching, mlir  # noqa: E402

jax.ffi.register_ffi_target(TARGET, _xla.handler, platform="cpu")

# Passes all operands on and asks, where a program is traced, batched, differentiated and compiled,
# whether the step may stand there. It leaves nothing behind in the program.
_guard = Primitive("gradstep_guard")
_guard.multiple_results = True


@_guard.def_impl  # type: ignore[untyped-decorator]
def _pass_on(*operands: Any, alone: str) -> list[Any]:  # noqa: ARG001
    return list(operands)


@_guard.def_abstract_eval  # type: ignore[untyped-decorator]
def _same(*operands: Any, alone: str) -> list[Any]:  # noqa: ARG001
    return list(operands)


def _refuse_batching(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "gradstep.jax: got a step within vmap, wanted one step of the stacked parameters, which an "
        "element-wise rule steps alike, or a loop over them"
    )


def _refuse_differentiation(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "gradstep.jax: got a step that is differentiated, which it cannot be, wanted "
        "jax.lax.stop_gradient around it, or an optimizer of optax for this one"
    )


batching.primitive_batchers[_guard] = _refuse_batching
ad.primitive_jvps[_guard] = _refuse_differentiation

_SHARDED = (
    "gradstep.jax: got arrays on {count} devices under plain jit, which would gather them for the "
    "step, wanted jax.shard_map around it, so that each device steps its own part: "
    "docs/jax.md#several-devices"
)


def _check_place(ctx: Any, alone: str) -> None:
    """Raise for a place in a program where the step cannot be compiled."""
    module = ctx.module_context
    if getattr(module.lowering_parameters, "for_export", False):
        raise NotImplementedError(
            "gradstep.jax: got a step that is exported, but its compiled part is no portable code, "
            "wanted an export of the model without its optimizer"
        )
    hosted = getattr(getattr(ctx, "jaxpr_eqn_ctx", None), "compute_type", None) == "device_host"
    others = [platform for platform in module.platforms if platform != "cpu"]
    if others and not hosted:
        raise NotImplementedError(
            f"gradstep.jax: got arrays on {others[0]}, wanted them on the CPU, or the step within "
            "jax.experimental.compute_on.compute_on('device_host'): docs/jax.md#host-offload"
        )
    place = module.axis_context
    manual = set(getattr(place, "manual_axes", ()))
    mesh = getattr(place, "mesh", None)
    if mesh is None:
        count = getattr(place, "num_devices", None) or 1
        if count > 1:
            raise NotImplementedError(_SHARDED.format(count=count))
    elif mesh.size > 1 and set(mesh.axis_names) != manual:
        raise NotImplementedError(_SHARDED.format(count=mesh.size))
    elif mesh.size > 1 and alone:
        raise NotImplementedError(alone)


def _lowered(ctx: Any, *operands: Any, alone: str) -> Any:
    _check_place(ctx, alone)
    return list(operands)


mlir.register_lowering(_guard, _lowered)


def step(
    text: str,
    operands: Sequence[Any],
    results: Sequence[tuple[tuple[int, ...], Any]],
    aliases: Sequence[tuple[int, int]],
    alone: str,
) -> list[Any]:
    """One compiled step.

    Args:
        text: what stays the same from step to step, see ``cpp/functional.hpp``.
        operands: arrays.
        results: the shape and dtype of each result.
        aliases: which operands and results are one buffer.
        alone: why shards cannot make this step each for itself; empty: they can.

    Raises:
        NotImplementedError: the step stands where it cannot be.
    """
    call = _compiled(text, tuple(results), tuple(aliases), alone)
    return list(call(*operands))


@functools.lru_cache(maxsize=512)
def _compiled(
    text: str,
    results: tuple[tuple[tuple[int, ...], Any], ...],
    aliases: tuple[tuple[int, int], ...],
    alone: str,
) -> Any:
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    ffi = jax.ffi.ffi_call(TARGET, shapes, input_output_aliases=dict(aliases))

    def gradstep_step(*operands: Any) -> Any:
        return ffi(*_guard.bind(*operands, alone=alone), text=text)

    return jax.jit(gradstep_step)
