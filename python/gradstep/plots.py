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
MARKS = 8  # markers per line
MOST_POINTS = 20_000  # per line of a run: no picture shows more
MOST_MARKS = 50
FORMATS = (
    ".png",
    ".svg",
    ".pdf",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".eps",
    ".ps",
    ".svgz",
)
LARGEST = 1e30  # what is beyond is drawn no more than what is not finite


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


def check_path(path: Path | str) -> Path:
    """The path of a picture, if one can be written there: matplotlib would choose another name.

    Raises:
        ValueError: its ending names no format, or it is a folder.
        ImportError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"path: got {str(path)!r}, wanted one that ends with {', '.join(FORMATS)}")
    if path.is_dir():
        raise ValueError(f"path: got the folder {str(path)!r}, wanted a file")
    need("matplotlib.figure", "plots", "demo")
    return path


def _save(figure: Any, path: Path) -> Path:
    """Write the figure, in the format that the ending of `path` names."""
    check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def losses(
    panels: Mapping[str, Mapping[str, ArrayLike]], path: Path, *, title: str, first: float
) -> Path:
    """Loss over epochs on a logarithmic axis, one panel per rule, one line per run.

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
    """Values over updates, one line per schedule.

    Args:
        lines: schedules; or label to schedule or to values, float, shape (updates,).
        path: the file to write; its ending names the format.
        total: how many updates to show of schedules.
        title: the headline.
        per_epoch: updates per epoch, to show epochs on a second axis.
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
    """Held-out accuracy by rate on a logarithmic axis, one panel per rule, one marker per verdict.

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


def search(
    rates: Sequence[float],
    losses: Sequence[ArrayLike],
    others: Mapping[str, Sequence[float]],
    path: Path | str,
    *,
    title: str,
) -> Path:
    """Loss by rate: the mean over the seeds, within a band from the lowest to the highest.

    Rates that have no loss stand at the top, by what became of them; a thin line marks the best.
    Losses far above that of the lowest rate are cut off.

    Args:
        rates: of the runs that finished, from low to high.
        losses: their last losses, one array per rate, shape (seeds,).
        others: what became of other rates, and which.
        path: the file to write; its ending names the format.
        title: the headline.

    Returns:
        `path`.

    Raises:
        ValueError: there is no rate at all.
    """
    if not any([rates, *others.values()]):
        raise ValueError("rates: got none, wanted at least one to draw")
    figure, (axis,) = _panels(1, title)
    axis.set_xscale("log")
    several = any(np.size(row) > 1 for row in losses)
    if len(rates) > 0:
        rows = [np.asarray(row, dtype=np.float64) for row in losses]
        mean, low, high = np.array([(row.mean(), row.min(), row.max()) for row in rows]).T
        if several:
            label = "lowest to highest of the seeds"
            axis.fill_between(rates, low, high, color="0.85", linewidth=0, label=label)
        axis.plot(rates, mean, label="mean of the seeds" if several else "loss", **STYLES[0])
        # Far above where training begins, which is near the loss of the lowest rate, all is bad.
        bottom, usual = low.min(), max(mean[0], float(np.median(mean)))
        top = min(high.max(), bottom + 3 * (usual - bottom))
        if bottom > 0 and top > 10 * bottom:
            axis.set_yscale("log")
            axis.set_ylim(bottom / 1.5, top * 1.5)
        elif top > bottom:
            axis.set_ylim(bottom - 0.06 * (top - bottom), top + 0.06 * (top - bottom))
        best = rates[int(np.argmin(mean))]
        axis.axvline(best, color="0.4", linewidth=0.8, zorder=0)
        axis.annotate(
            f"best: {best:.3g}", (best, 0), xycoords=("data", "axes fraction"), xytext=(3, 4),
            textcoords="offset points", fontsize=8, color="0.3",
        )  # fmt: skip
    for (label, given), style in zip(others.items(), STYLES[1:], strict=False):
        if len(given) > 0:
            axis.plot(
                given, np.full(len(given), 0.97), linestyle="", label=label, color=style["color"],
                marker=style["marker"], transform=axis.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    axis.set_xlabel("learning rate (per update)")
    axis.set_ylabel("last loss (in the objective's unit)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, Path(path))


def range_test(
    rates: ArrayLike,
    losses: ArrayLike,
    smoothed: ArrayLike,
    path: Path,
    *,
    interval: tuple[float, float] | None,
    suggestion: float | None,
    confidence: str,
) -> Path:
    """Losses of a sweep over rates on a logarithmic axis, what they say shaded and marked.

    Args:
        rates: float, shape (points,).
        losses: float, shape (sweeps, points); what is not finite is not drawn.
        smoothed: float, shape (points,); the same.
        path: the file to write; its ending names the format.
        interval: the rates between which to shade; None shades nothing.
        suggestion: the rate to mark; None marks nothing.
        confidence: for the headline.

    Returns:
        `path`.
    """
    figure, (axis,) = _panels(1, f"Range test: confidence {confidence}")
    x, y = np.asarray(rates, dtype=np.float64), np.asarray(smoothed, dtype=np.float64)
    shown = np.asarray(losses, dtype=np.float64)
    finite = y[np.isfinite(y)] if np.isfinite(y).any() else shown[np.isfinite(shown)]
    least, most = float(finite.min()), float(finite.max())
    axis.set_ylim(least - 0.3 * (most - least or 1), most + 0.5 * (most - least or 1))
    for i, sweep in enumerate(shown):
        axis.plot(
            x, sweep, linestyle="", marker=".", markersize=4, color="0.55",
            label="one batch each" if i == 0 else None,
        )  # fmt: skip
    axis.plot(x, y, label="smoothed", linewidth=2, **STYLES[0] | {"marker": None})
    if interval is not None:
        label = f"worth trying: {interval[0]:.2g} to {interval[1]:.2g}"
        axis.axvspan(*interval, color="0.88", zorder=0, label=label)
    if suggestion is not None:
        style = STYLES[1] | {"marker": None}
        axis.axvline(suggestion, label=f"suggestion: {suggestion:.2g}", linewidth=1.5, **style)
    axis.set_xscale("log")
    axis.set_xlabel("learning rate (per update)")
    axis.set_ylabel("loss before the step (in the training's unit)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, path)


def runs(
    lines: Mapping[str, tuple[ArrayLike, str]],
    path: Path | str,
    *,
    title: str = "Loss at several rates",
    smooth: int = 10,
) -> Path:
    """Loss over updates at several rates on one axis, the verdicts in the legend.

    Args:
        lines: label, such as the rate, to the losses of every update, float, shape (updates,), and
            the verdict. From the first loss that is not finite or beyond 1e30 on, a line is not
            drawn; a cross stands at its end. Losses far above the first are cut off.
        path: the file to write; its ending names the format.
        title: the headline.
        smooth: the median of so many losses is drawn; 1 draws each.

    Returns:
        `path`.

    Raises:
        ValueError: there is no line, or one has no loss; `smooth` is below 1.
    """
    if not lines:
        raise ValueError("lines: got none, wanted at least one to draw")
    if smooth < 1:
        raise ValueError(f"smooth: got {smooth}, wanted at least 1")
    figure, (axis,) = _panels(1, title)
    firsts, lowest = [], []
    for (label, (losses, verdict)), style in zip(lines.items(), cycle(STYLES)):
        y = np.asarray(losses, dtype=np.float64)
        if y.size == 0:
            raise ValueError(f"lines[{label!r}]: got no loss, wanted at least one")
        finite = int(np.argmin([*(np.abs(y) < LARGEST), False]))
        t, middles = _medians(y[:finite], smooth)
        _line(axis, middles, f"{label}: {verdict}", style, t)
        if 0 < finite < len(y):
            axis.plot(t[-1], middles[-1], "x", color=style["color"], markersize=10)
        firsts += list(y[: min(1, finite)])
        lowest += list(middles)
    top, bottom = max(firsts, default=1.0), min(lowest, default=0.0)
    if bottom > 0:
        axis.set_yscale("log")
        axis.set_ylim(bottom / 1.5, top * 4)
    else:
        axis.set_ylim(bottom - 0.05 * (top - bottom), top + (top - bottom))
    axis.set_xlabel("updates")
    axis.set_ylabel("loss (in the training's unit)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, Path(path))


def _medians(y: NDArray[np.float64], length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where the middles of blocks are, and their medians, which lag behind nothing."""
    starts = np.arange(0, len(y), length)
    middles = np.array([np.median(y[i : i + length]) for i in starts])
    return starts + np.minimum(length, len(y) - starts) // 2, middles


def run(
    losses: ArrayLike,
    rates: ArrayLike,
    ratios: ArrayLike,
    path: Path | str,
    *,
    title: str = "A run",
    marks: Sequence[tuple[int, str]] = (),
    smooth: int = 10,
) -> Path:
    """One run over its steps: loss, rate, and norm of the update over that of the weights.

    Args:
        losses, rates, ratios: of every step, float, shape (steps,). What is not finite or beyond
            1e30 is not drawn, nor are rates and ratios that are not above 0.
        path: the file to write; its ending names the format.
        title: the headline.
        marks: steps, from 1, and what to write at them, such as verdicts; of very many, some.
        smooth: the median of so many losses and ratios is drawn over each of them.

    Returns:
        `path`.

    Raises:
        ValueError: `smooth` is below 1.
    """
    if smooth < 1:
        raise ValueError(f"smooth: got {smooth}, wanted at least 1")
    figure, axes = _panels(3, title)
    labels = ["loss (in the training's unit)", "learning rate (per update)", "‖update‖ ÷ ‖weights‖"]
    for i, (axis, values, label) in enumerate(
        zip(axes, (losses, rates, ratios), labels, strict=True)
    ):
        y = np.asarray(values, dtype=np.float64)
        shown = (np.abs(y) < LARGEST) & ((y > 0) | (i == 0))
        t, y = np.flatnonzero(shown) + 1, y[shown]
        few = -(-len(y) // MOST_POINTS)  # of so many steps one is drawn
        style = {"color": "black", "linewidth": 1.5}
        if i == 1:
            axis.plot(t[:: few or 1], y[:: few or 1], drawstyle="steps-mid", **style)
        elif len(y):
            every = "each step" if few == 1 else f"every {few}th step"
            axis.plot(t[::few], y[::few], color="0.7", linewidth=0.8, label=every)
            length = max(smooth, few)
            at, middles = _medians(y, length)
            axis.plot(t[at], middles, label=f"median of {length}", **style)
            axis.legend(frameon=False, fontsize=8)
        if len(y) and y.min() > 0:
            axis.set_yscale("log")
        axis.set_xlim(1, max(2, len(shown)))
        axis.set_xlabel("steps")
        axis.set_ylabel(label)
        for at_step, text in marks[:: -(-len(marks) // MOST_MARKS) or 1]:
            axis.axvline(at_step, color="0.4", linewidth=0.8, linestyle=":")
            if i == 0:
                axis.annotate(
                    text, (at_step, 0), xycoords=("data", "axes fraction"), xytext=(2, 3),
                    rotation=90, textcoords="offset points", fontsize=8, color="0.2",
                )  # fmt: skip
    return _save(figure, Path(path))


# Of each lane what is drawn there, and how.
LANES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "compute": {"forward": {"color": "0.8"}, "backward": {"color": "0.62"}},
    "down": {"down": {"color": STYLES[1]["color"]}},
    "step": {"step": {"color": STYLES[2]["color"]}},
    "up": {"up": {"color": STYLES[3]["color"]}},
}


def timeline(
    panels: Mapping[str, Sequence[tuple[str, float, float]]], path: Path | str, *, title: str
) -> Path:
    """Iterations whose optimizer is offloaded, one below the other, over one axis of time.

    What comes after the backward pass is shaded.

    Args:
        panels: label to what went on (forward, backward, down, step or up), and when it began and
            ended, in milliseconds from the iteration's own beginning.
        path: the file to write; its ending names the format.
        title: the headline.

    Returns:
        `path`.

    Raises:
        ValueError: there is no iteration, or nothing went on in one.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels: got none, or an empty one, wanted what went on in each")
    figure = need("matplotlib.figure", "plots", "demo").Figure(
        figsize=(9, 0.7 + 1.75 * len(panels)), layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False).flat)
    longest = max(end for spans in panels.values() for _, _, end in spans)
    for axis, (label, spans) in zip(axes, panels.items(), strict=True):
        end, rest = _lanes(axis, spans)
        words = f"{label}: {end:.4g} ms, {rest:.3g} ms of them after the backward pass"
        axis.set_title(words, loc="left", fontsize=10)
        axis.set_xlim(0, longest * 1.01)
    axes[-1].set_xlabel("time (ms)")
    return _save(figure, Path(path))


def _lanes(axis: Any, spans: Sequence[tuple[str, float, float]]) -> tuple[float, float]:
    """Draw one iteration: a bar for each span, what remains after the backward pass shaded.

    Returns:
        When it ended, and how much of that came after the backward pass.
    """
    for y, (lane, kinds) in enumerate(LANES.items()):
        for kind, style in kinds.items():
            bars = [(start, stop - start) for what, start, stop in spans if what == kind]
            # A thin edge in its own colour keeps in sight what is short.
            axis.broken_barh(
                bars, (y - 0.36, 0.72), linewidth=0.4, edgecolor=style["color"], **style
            )
            if bars and lane == "compute":
                middle = (bars[0][0] + sum(bars[-1])) / 2
                axis.text(middle, y, f"{kind} pass", ha="center", va="center", fontsize=8)
    end = max(stop for _, _, stop in spans)
    computed = max((stop for what, _, stop in spans if what == "backward"), default=end)
    axis.axvspan(computed, end, color="0.92", zorder=0)
    axis.axvline(end, color="0.3", linewidth=0.8)
    axis.set_yticks(range(len(LANES)), LANES)
    axis.set_ylim(len(LANES) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelbottom=True)
    axis.grid(visible=True, axis="x", color="0.88", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return end, end - computed
