"""One function per rule: optax's name and arguments where it has the rule, and ours after them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import optimizers
from ..optimizer import Optimizer
from ..rule import RULES
from .configuration import Configuration, jnp
from .native import jax, optax
from .transformation import Transformation


class Twin(NamedTuple):
    """optax's function for a rule, and what its arguments are called here.

    Attributes:
        name: the function's; in ``optax`` or ``optax.contrib``.
        ours: our names for its arguments, ``betas[0]`` for an item; those that are alike are left
            out, as are ``learning_rate``, ``b1``, ``b2`` and ``b3``.
        only: for an argument that our rule has no choice in, the value that it has; where it is
            left out, optax's default.
        momentum: the state whose dtype ``mu_dtype`` or ``accumulator_dtype`` gives.
    """

    name: str
    ours: Mapping[str, str] = {}
    only: Mapping[str, Any] = {}
    momentum: str = "exp_avg"


TWINS = {
    "SGD": Twin("sgd", momentum="momentum_buffer"),
    "Adagrad": Twin("adagrad"),
    "Adadelta": Twin("adadelta"),
    "RMSprop": Twin("rmsprop", {"decay": "alpha"}, {"eps_in_sqrt": False}),
    "Adam": Twin("adam"),
    "AdamW": Twin("adamw"),
    "Adamax": Twin("adamax"),
    "NAdam": Twin("nadam"),
    "RAdam": Twin("radam"),
    "LARS": Twin("lars"),
    "LAMB": Twin("lamb"),
    "Adan": Twin("adan", only={"eps_root": 0.0}),
    "AdEMAMix": Twin("ademamix", momentum="exp_avg_fast"),
    "ADOPT": Twin("adopt"),
    "Lion": Twin("lion"),
    "SignSGD": Twin("sign_sgd"),
    "Rprop": Twin(
        "rprop",
        {
            "eta_minus": "etas[0]",
            "eta_plus": "etas[1]",
            "min_step_size": "step_sizes[0]",
            "max_step_size": "step_sizes[1]",
        },
    ),
    "ScheduleFreeSGD": Twin("schedule_free_sgd", {"b1": "momentum"}),
    "ScheduleFreeAdamW": Twin("schedule_free_adamw"),
    "Prodigy": Twin("prodigy", {"estim_lr0": "d0", "estim_lr_coef": "d_coef"}),
    "DAdaptAdamW": Twin("dadapt_adamw"),
    "DoG": Twin("dog"),
    "DoWG": Twin("dowg"),
    "PolyakSGD": Twin("polyak_sgd", {"scaling": "lr"}),
}
ALIKE = {"learning_rate": "lr", "b1": "betas[0]", "b2": "betas[1]", "b3": "betas[2]"}
MASKS = ("mask", "weight_decay_mask")
MOMENTUM_DTYPES = ("mu_dtype", "accumulator_dtype")
WITHOUT = ("Muon",)  # Python stands between its passes
KEYWORD = inspect.Parameter.KEYWORD_ONLY
SHARED = {
    "states": None, "rounding": None, "split": False, "seed": None, "clip_norm": None,
    "clip_value": None, "nonfinite": "allow", "average": None, "copy_to": None, "stats": False,
}  # fmt: skip


def names() -> dict[str, type[Optimizer]]:
    """The functions' names, and the classes of their rules."""
    return {
        TWINS[name].name if name in TWINS else name.lower(): getattr(optimizers, name)
        for name in RULES
        if name not in WITHOUT
    }


def make(name: str, rule: type[Optimizer]) -> Callable[..., Transformation]:
    """The function of a rule."""
    twin = TWINS.get(rule.__name__, Twin(name))
    theirs = None
    if rule.__name__ in TWINS:
        theirs = getattr(optax, name, None) or getattr(optax.contrib, name, None)
    known = dict(inspect.signature(theirs).parameters) if theirs else {}
    known = {key: _with_default(key, parameter, twin) for key, parameter in known.items()}
    ours = {key: _ours(key, twin, rule) for key in known}
    covered = {mine.partition("[")[0] for mine in ours.values() if mine}
    # None, for the rule's own default: inject_hyperparams makes arrays of all numbers, and an array
    # switches a state on, or is not allowed.
    hyper = {
        key: parameter.replace(name=key, kind=KEYWORD, default=_injectable(parameter.default))
        for name, parameter in inspect.signature(rule).parameters.items()
        for key in ["learning_rate" if name == "lr" else name]
        if name not in (*covered, "params") and parameter.kind is not parameter.VAR_KEYWORD
    }
    if not theirs:
        hyper["learning_rate"] = hyper["learning_rate"].replace(kind=_POSITIONAL)
        hyper = {"learning_rate": hyper.pop("learning_rate"), **hyper}
    shared = [inspect.Parameter(key, KEYWORD, default=value) for key, value in SHARED.items()]
    plain = [p for p in known.values() if p.kind is not KEYWORD]
    keyed = [p for p in known.values() if p.kind is KEYWORD]
    if "weight_decay" in hyper and not {*MASKS} & {*known}:
        shared.append(inspect.Parameter("mask", KEYWORD, default=None))
    first = [p for p in hyper.values() if p.kind is not KEYWORD]
    last = [p for p in hyper.values() if p.kind is KEYWORD]
    signature = inspect.Signature([*plain, *first, *keyed, *last, *shared])

    def function(*args: Any, **kwargs: Any) -> Transformation:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            wanted = ", ".join(signature.parameters)
            raise TypeError(f"{name}: {error}, wanted {wanted}") from None
        bound.apply_defaults()
        return _transformation(rule, twin, ours, known, dict(bound.arguments))

    function.__name__ = function.__qualname__ = name
    function.__module__ = "gradstep.jax"
    function.__doc__ = _doc(name, rule, theirs, ours, known)
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _injectable(default: Any) -> Any:
    return None if isinstance(default, int | float) and not isinstance(default, bool) else default


def _with_default(key: str, parameter: inspect.Parameter, twin: Twin) -> inspect.Parameter:
    if key in twin.only:
        return parameter.replace(default=twin.only[key])
    return parameter


def _ours(key: str, twin: Twin, rule: type[Optimizer]) -> str | None:
    """Our name of an argument of optax's; None: ours has no such choice."""
    mine = twin.ours.get(key) or ALIKE.get(key, key)
    return mine if mine.partition("[")[0] in rule.rule.defaults else None


def _transformation(
    rule: type[Optimizer],
    twin: Twin,
    ours: Mapping[str, str | None],
    known: Mapping[str, inspect.Parameter],
    given: dict[str, Any],
) -> Transformation:
    shared = {key: given.pop(key) for key in SHARED}
    masks = [given.pop(key) for key in MASKS if key in given]
    mask = masks[0] if masks and masks[0] is not True else None
    dtypes = [given.pop(key) for key in MOMENTUM_DTYPES if key in given]
    if dtypes and dtypes[0] is not None:
        shared["states"] = _with_dtype(shared["states"], twin.momentum, dtypes[0])
    values: dict[str, Any] = {}
    for key, value in given.items():
        mine = ours.get(key, "lr" if key == "learning_rate" else key)
        if mine is None:
            _check_only(key, value, known[key].default, rule)
            continue
        name, _, index = mine.partition("[")
        filled = rule.rule.defaults[name] if value is None else value
        if index:
            items = list(values.get(name, rule.rule.defaults[name]))
            items[int(index[:-1])] = filled
            filled = tuple(items)
        values[name] = filled
    stages = {key: shared.pop(key) for key in ("clip_norm", "clip_value", "average", "nonfinite")}
    seed = shared.pop("seed")
    stages["seed"] = 0 if seed is None else seed
    return Transformation(Configuration(rule.rule, values, stages=stages, mask=mask, **shared))


def _with_dtype(states: Any, name: str, dtype: Any) -> Any:
    """``states`` with a momentum in a dtype, as optax's ``mu_dtype`` asks."""
    stored = jnp.dtype(dtype).name
    if states is None:
        return {name: stored}
    raise ValueError(
        f"states: got {states!r} beside a dtype for the momentum, wanted "
        f"states={{{name!r}: {stored!r}, …}} alone"
    )


def _check_only(key: str, value: Any, only: Any, rule: type[Optimizer]) -> None:
    """Raise ValueError for another value of an argument that our rule has no choice in."""
    # inject_hyperparams makes float32 arrays of all numbers, and traces them in its update.
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, jax.Array) and isinstance(only, float):
        value, only = value.item(), float(jnp.float32(only))
    same = value is only or (isinstance(value, type(only)) and value == only)
    if not same:
        raise ValueError(
            f"{key}: got {value!r}, wanted {only!r}: gradstep's {rule.__name__} has no other"
        )


def _doc(
    name: str,
    rule: type[Optimizer],
    theirs: Any,
    ours: Mapping[str, str | None],
    known: Mapping[str, inspect.Parameter],
) -> str:
    doc = inspect.cleandoc(rule.__doc__ or "")
    head = re.split(r"\n\s*\n(?=Args:)", doc)[0]
    lines = [head, ""]
    if theirs:
        where = theirs.__module__.split(".")
        place = "optax.contrib" if "contrib" in where else "optax"
        renamed = [f"``{key}`` is ``{mine}``" for key, mine in ours.items() if mine and mine != key]
        lines.append(f"Arguments and defaults are those of ``{place}.{name}``; then ours.")
        if renamed:
            lines.append("In :class:`gradstep." + rule.__name__ + "` " + ", ".join(renamed) + ".")
        fixed = [
            f"``{key}={known[key].default!r}``"
            for key, mine in ours.items()
            if mine is None and key not in (*MASKS, *MOMENTUM_DTYPES)
        ]
        if fixed:
            lines.append("There is only " + ", ".join(fixed) + ".")
    lines.append(f"None stands for the default of :class:`gradstep.{rule.__name__}`.")
    lines += [
        "",
        f"Formula, states and where frameworks differ: :class:`gradstep.{rule.__name__}`.",
        "",
        "Returns:",
        "    A :class:`Transformation`.",
    ]
    return "\n".join(lines)
