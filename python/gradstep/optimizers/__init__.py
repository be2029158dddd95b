"""The rules as optimizers, one short class in each file, in the order of the catalogue."""

# ruff: noqa: I001 - the order in which the pages list them
from __future__ import annotations

from .sgd import SGD as SGD
from .asgd import ASGD as ASGD
from .rprop import Rprop as Rprop
from .adagrad import Adagrad as Adagrad
from .adadelta import Adadelta as Adadelta
from .rmsprop import RMSprop as RMSprop
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .adamax import Adamax as Adamax
from .nadam import NAdam as NAdam
from .radam import RAdam as RAdam
from .lars import LARS as LARS
from .lamb import LAMB as LAMB
from .stableadamw import StableAdamW as StableAdamW
from .adan import Adan as Adan
from .ademamix import AdEMAMix as AdEMAMix
from .adopt import ADOPT as ADOPT
from .lion import Lion as Lion
from .signsgd import SignSGD as SignSGD
from .adafactor import Adafactor as Adafactor
from .muon import Muon as Muon
from .schedulefreesgd import ScheduleFreeSGD as ScheduleFreeSGD
from .schedulefreeadamw import ScheduleFreeAdamW as ScheduleFreeAdamW
from .prodigy import Prodigy as Prodigy
from .dadaptadamw import DAdaptAdamW as DAdaptAdamW
from .dog import DoG as DoG
from .dowg import DoWG as DoWG
from .polyaksgd import PolyakSGD as PolyakSGD

from typing import TYPE_CHECKING

from ..rule import RULES

if not TYPE_CHECKING:  # type checkers take what is imported above, under its own name
    __all__ = [*RULES]  # noqa: PLE0604 - the classes are called as their rules
