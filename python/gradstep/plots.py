"""Pictures: data in, a file out. Alone in importing matplotlib.

Lines differ by dash and marker as well as by colour, so that they can be told apart in greyscale.
Figures are built without pyplot: no global state, no window, any backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .extras import need
from .schedules import Schedule

# Okabe and Ito's colours, from dark to light, which stay apart for the colour-blind.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "linestyle": "-", "marker": "o"},
    {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    {"color": "#D55E00", "linestyle": "-.", "marker": "^"},
    {"color": "#009E73", "linestyle": ":", "marker": "D"},
    {"color": "#CC79A7", "linestyle": (0, (6, 2, 1, 2, 1, 2)), "marker": "v"},
)
MARKS = 8  # markers a line


def _panels(count: int, title: str) -> tuple[Any, list[Any]]:
    """A figure with `count` axes, two a row where there are several."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = need("matplotlib.figure", "plots", "demo").Figure(
        figsize=(5.2 * columns + (2.2 if count == 1 else 0), 3.6 * rows), layout="constrained"
    )
    figure.suptitle(title)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count]:
        axis.grid(visible=True, which="major", color="0.88", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def _line(
    axis: Any,
    values: NDArray[np.float64],
    label: str,
    style: Mapping[str, Any],
    t: NDArray[np.int64] | None = None,
) -> None:
    """Draw `values` over `t` or their index, with a marker here and there."""
    every = max(1, len(values) // MARKS)
    x = np.arange(len(values)) if t is None else t
    axis.plot(x, values, label=label, linewidth=1.5, markersize=4, markevery=every, **style)


def _save(figure: Any, path: Path) -> Path:
    """Write the figure, in the format that the ending of `path` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def losses(
    panels: Mapping[str, Mapping[str, ArrayLike]], path: Path, *, title: str, first: float
) -> Path:
    """Loss over epochs on a logarithmic axis, one panel a rule, one line a run.

    Args:
        panels: rule to label to losses, float, shape (epochs + 1,): before training, then after
            each epoch. From the first value that is not finite on, a line is not drawn; a cross
            stands at its end.
        path: the file to write; its ending names the format.
        title: the headline.
        first: the usual loss before training, drawn as a thin line. Losses far above it are cut
            off.

    Returns:
        `path`.
    """
    figure, axes = _panels(len(panels), title)
    shown = np.concatenate([np.ravel(v) for runs in panels.values() for v in runs.values()])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    lowest, highest = shown.min(initial=first), min(shown.max(initial=first), 4 * first)
    for axis, (rule, runs) in zip(axes, panels.items(), strict=True):
        axis.set_title(rule)
        axis.set_yscale("log")
        axis.set_ylim(max(lowest, 1e-6) / 2, highest * 2)
        axis.axhline(first, color="0.6", linewidth=0.8)
        for (label, values), style in zip(runs.items(), cycle(STYLES)):
            y = np.asarray(values, dtype=np.float64)
            finite = int(np.argmin([*np.isfinite(y), False]))
            _line(axis, y[:finite], label, style)
            if 0 < finite < len(y):
                axis.plot(finite - 1, y[finite - 1], "x", color=style["color"], markersize=10)
        axis.set_xlabel("epochs")
        axis.set_ylabel("training loss (nats per example)")
        axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def schedules(
    lines: Sequence[Schedule] | Mapping[str, Schedule | ArrayLike],
    path: Path | str,
    *,
    total: int | None = None,
    title: str = "Schedules",
    per_epoch: int | None = None,
    unit: str | None = None,
) -> Path:
    """Values over updates, one line a schedule.

    Args:
        lines: schedules; or label to schedule or to values, float, shape (updates,).
        path: the file to write; its ending names the format.
        total: how many updates to show of schedules.
        title: the headline.
        per_epoch: updates an epoch, to show epochs on a second axis.
        unit: what a value of 1 stands for, if not 1.

    Returns:
        `path`.

    Raises:
        ValueError: `total` is missing where there is a schedule, or not above 0.
    """
    named = lines if isinstance(lines, Mapping) else {repr(s): s for s in lines}
    figure, (axis,) = _panels(1, title)
    for (label, line), style in zip(named.items(), cycle(STYLES)):
        if isinstance(line, Schedule):
            if total is None or total < 1:
                raise ValueError(f"total: got {total!r}, wanted how many updates to show")
            # No picture shows more points; jumps stay as steep as they are.
            t = np.unique(np.linspace(0, total - 1, 4000).astype(np.int64))
            _line(axis, line(t), label, style, t)
        else:
            _line(axis, np.asarray(line, dtype=np.float64), label, style)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axis.set_xlabel("updates")
    axis.set_ylabel("value" if unit is None else f"learning rate ÷ {unit}")
    if isinstance(lines, Mapping):
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    else:  # long labels
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    if per_epoch is not None:
        top = axis.secondary_xaxis(
            "top", functions=(lambda k: k / per_epoch, lambda e: e * per_epoch)
        )
        top.set_xlabel("epochs")
    return _save(figure, Path(path))


def by_rate(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]],
    path: Path,
    *,
    title: str,
    chance: float,
) -> Path:
    """Held-out accuracy by rate on a logarithmic axis, one panel a rule, a marker a verdict.

    Args:
        panels: rule to rates, accuracies in [0, 1] and verdicts, all of one length.
        path: the file to write; its ending names the format.
        title: the headline.
        chance: the accuracy of guessing, drawn as a thin line.

    Returns:
        `path`.
    """
    figure, axes = _panels(len(panels), title)
    verdicts = list(dict.fromkeys(v for panel in panels.values() for v in panel[2]))
    for axis, (rule, (rates, accuracies, judged)) in zip(axes, panels.items(), strict=True):
        axis.set_title(rule)
        x, y = np.asarray(rates, dtype=np.float64), 100 * np.asarray(accuracies, dtype=np.float64)
        order = np.argsort(x)
        axis.plot(x[order], y[order], color="0.7", linewidth=1, zorder=1)
        axis.axhline(100 * chance, color="0.6", linewidth=0.8)
        axis.annotate(
            "guessing", (0.5, 100 * chance), xycoords=("axes fraction", "data"), xytext=(0, 2),
            textcoords="offset points", ha="center", fontsize=7, color="0.4",
        )  # fmt: skip
        for verdict, style in zip(verdicts, cycle(STYLES)):
            chosen = np.array([v == verdict for v in judged])
            if chosen.any():
                axis.scatter(
                    x[chosen], y[chosen], label=verdict, zorder=2,
                    color=style["color"], marker=style["marker"],
                )  # fmt: skip
        axis.set_xscale("log")
        axis.set_ylim(0, 103)
        axis.set_xlabel("learning rate (per update)")
        axis.set_ylabel("held-out accuracy (%)")
        axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)
