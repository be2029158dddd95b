"""The rules as optimizers, one short class in each file, here in order of complexity."""

# ruff: noqa: I001 - the order in which people read of them
from __future__ import annotations

from .sgd import SGD as SGD
from .adagrad import Adagrad as Adagrad
from .rmsprop import RMSprop as RMSprop
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .lars import LARS as LARS
from .lamb import LAMB as LAMB
from .schedulefreeadamw import ScheduleFreeAdamW as ScheduleFreeAdamW
from .lion import Lion as Lion
from .muon import Muon as Muon

from typing import TYPE_CHECKING

from ..rule import RULES

if not TYPE_CHECKING:  # type checkers take what is imported above, under its own name
    __all__ = [*RULES]  # noqa: PLE0604 - the classes are called as their rules
