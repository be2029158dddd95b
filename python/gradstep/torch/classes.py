"""One class per rule, made of what is known already: our catalogue and ``torch.optim``."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch

from .. import optimizers
from ..optimizer import Optimizer as NumpyOptimizer
from ..rule import RULES
from .groups import EXECUTION
from .optimizer import Optimizer


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(function).parameters)
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in ("self", "params") and parameter.kind is not parameter.VAR_KEYWORD
    }


def _make(rule: type[NumpyOptimizer]) -> type[Optimizer]:
    """The class of a rule: the signature of PyTorch's, if it has one, and ours after it."""
    name = rule.__name__
    hyper = _parameters(rule.__init__)
    twin = getattr(torch.optim, name, None)
    # PyTorch's own defaults and order; without a class of it, what its users may pass anyway.
    known = _parameters(twin.__init__) if twin else {}
    extra = twin([torch.zeros(1, 1)]).defaults if twin else dict.fromkeys(EXECUTION[:2])
    shared = _parameters(Optimizer.__init__)
    del shared["defaults"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = {**known, **{key: value for key, value in hyper.items() if key not in known}}
    if not twin:
        named |= {key: inspect.Parameter(key, keyword, default=None) for key in extra}
    signature = inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *sorted(named.values(), key=lambda parameter: parameter.kind),
            *shared.values(),
        ]
    )

    def __init__(*args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            wanted = ", ".join(list(signature.parameters)[1:])
            raise TypeError(f"{name}: {error}, wanted {wanted}") from None
        bound.apply_defaults()
        given = dict(bound.arguments)
        self, params = given.pop("self"), given.pop("params")
        own = {key: given.pop(key) for key in shared}
        off = [key for key in rule.rule.switches if given[key] is False]  # see Group
        given = {key: value for key, value in given.items() if key not in off}
        Optimizer.__init__(self, params, {**extra, **given}, **own)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return type(
        name,
        (Optimizer,),
        {
            "__init__": __init__,
            "__doc__": _doc(rule, twin is not None),
            "__module__": "gradstep.torch",
            "rule": rule.rule,
            "_twin": {key: value for key, value in extra.items() if key not in hyper},
        },
    )


def _doc(rule: type[NumpyOptimizer], has_twin: bool) -> str:
    """The rule's own text, for tensors."""
    text = inspect.getdoc(rule) or ""
    text = re.sub(r"\n\nExample:\n.*", "", text, flags=re.DOTALL)
    text = text.replace("params: see :class:`Optimizer`.", "params: tensors or groups of them.")
    if has_twin:
        text += (
            f"\n\nThe signature is that of ``torch.optim.{rule.__name__}``."
            "\n``foreach`` and ``fused`` change nothing; ``capturable`` and ``differentiable``"
            " may be None\nor False."
        )
    return text


CLASSES: dict[str, type[Optimizer]] = {name: _make(getattr(optimizers, name)) for name in RULES}
