"""What the tests of other frameworks' trainings share: digits, a judge, who listens to logs."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pytest

from gradstep.tuning import Verdict, callbacks

SWEEP = {"low": 1e-5, "points": 40}
BATCH = 64


def imported(name: str) -> Any:
    """A framework, whatever it warns of when it is imported; or skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y.astype(np.int64)


class Told:
    """In place of the judge of losses: fine, until it has seen ten steps."""

    seen: list[Any]

    def __init__(self) -> None:
        Told.seen = []

    def __call__(
        self,
        step: int,
        loss: float,
        lr: float | None = None,
        grad_norm: float | None = None,  # noqa: ARG002
    ) -> Verdict:
        Told.seen.append((step, loss, lr))
        if len(Told.seen) < 10:
            return Verdict("inconclusive", step, 1.0, "no step yet", {})
        return Verdict("too low", step, 3.0, "told so", {"loss": loss, "fall": np.inf})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Told` judges."""
    monkeypatch.setattr(callbacks, "LossMonitor", Told)


@pytest.fixture
def written() -> Any:
    """What a logger writes down, as a function of its name."""
    handlers: list[Any] = []

    class Lines(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.lines.append(f"{record.levelname} {record.getMessage()}")

    def listen(name: str) -> list[str]:
        logger, handler = logging.getLogger(name), Lines()
        handlers.append((logger, handler, logger.level))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        return handler.lines

    yield listen
    for logger, handler, level in handlers:
        logger.removeHandler(handler)
        logger.setLevel(level)


def says(lines: list[str], words: str) -> None:
    assert [line for line in lines if words in line], (words, lines)
