"""The rules as optimizers, one short class in each file, here in order of complexity."""

# ruff: noqa: F401, I001 - the order in which people read of them
from __future__ import annotations

from .sgd import SGD
from .adagrad import Adagrad
from .rmsprop import RMSprop
from .adam import Adam
from .adamw import AdamW
from .lars import LARS
from .lamb import LAMB
from .schedulefreeadamw import ScheduleFreeAdamW
from .lion import Lion

from ..rule import RULES

__all__ = [*RULES]  # noqa: PLE0604 - the classes are called as their rules
