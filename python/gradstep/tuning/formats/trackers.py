"""What trackers write by themselves: MLflow's metric files, TensorBoard's event files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TextIO

from ...extras import need
from ..columns import Chosen, number
from ..logs import Log, Rows, finish
from .common import Asked, of_series

MLFLOW = "MLflow's metrics"


def read_mlflow(name: str, file: TextIO, asked: Asked) -> tuple[Log, ...]:  # noqa: ARG001
    """One metric of a run, called as the file; a folder joins those of a run."""
    rows = Rows()
    for line in file:
        words = line.split()
        if len(words) == 3:
            rows.add({"step": float(words[2]), "loss": number(words[1])})
    metric = Path(name).name
    return (finish(name, MLFLOW, Chosen({"loss": (metric,), "step": ("step",)}), rows),)


def is_events(head: bytes) -> bool:
    """Whether a file begins as TensorBoard's do: a length, its checksum, the first event."""
    if len(head) < 24:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 0 < length < 1 << 20 and b"brain.Event:" in head[12 : 12 + min(length, 4096)]


def read_events(path: Path, asked: Asked, name: str) -> Log:
    """The scalars of a run."""
    need("tensorboard", "TensorBoard's event files", "logs")
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )
    from tensorboard.util import tensor_util  # noqa: PLC0415

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    series: dict[str, tuple[list[float], list[float]]] = {}
    for tag in tags["scalars"]:
        scalars = events.Scalars(tag)
        series[tag] = [e.step for e in scalars], [e.value for e in scalars]
    for tag in tags["tensors"]:
        tensors = events.Tensors(tag)
        values = [tensor_util.make_ndarray(e.tensor_proto) for e in tensors]
        if all(value.size == 1 and value.dtype.kind in "fiu" for value in values):
            series[tag] = [e.step for e in tensors], [float(value.ravel()[0]) for value in values]
    [log] = of_series(name, "TensorBoard's events", series, asked)
    return log
