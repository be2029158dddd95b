"""Write docs/schedules.md and its pictures: `python docs/make_schedules.py`.

Every shape stands beside its formula, drawn from its own values by what is below, without any
package: the files are the same on every machine. The site is built with it; nothing of it is
committed.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
from written import write

from gradstep import Schedule, schedules
from gradstep.schedules.base import MAKERS

HERE = Path(__file__).parent
TOTAL, WIDTH, HEIGHT, MARGIN = 200, 260, 96, 6

# What is drawn of each, over TOTAL updates; the first one's formula is shown.
SHOWN = {
    "constant": ["constant(1.0)"],
    "linear": ["linear(1.0, 0.0, total=150)"],
    "step": ["step(1.0, step_size=50, gamma=0.5)"],
    "drop": ["drop(1.0, milestones=[60, 150], gamma=0.3)"],
    "exponential": [
        "exponential(1.0, decay_rate=0.5, decay_steps=40)",
        "exponential(1.0, decay_rate=0.5, decay_steps=40, staircase=True)",
    ],
    "geometric": ["geometric(0.01, 1.0, total=150)"],
    "inverse_time": ["inverse_time(1.0, decay_rate=1.0, decay_steps=30)"],
    "inverse_sqrt": ["inverse_sqrt(1.0, timescale=30, warmup=30)"],
    "noam": ["noam(model_size=1, warmup=40)"],
    "polynomial": [
        "polynomial(1.0, total=150, power=2)",
        "polynomial(1.0, total=60, end_value=0.1, cycle=True)",
    ],
    "power_decay": ["power_decay(1.0, total=150)"],
    "cosine": ["cosine(1.0, total=150)", "cosine(1.0, total=150, power=3)"],
    "cosine_wave": ["cosine_wave(1.0, half_period=50)"],
    "cosine_restarts": [
        "cosine_restarts(1.0, first=30, t_mult=2)",
        "cosine_restarts(1.0, first=50, gamma=0.7, end_value=0.1)",
    ],
    "tanh": ["tanh(1.0, total=150)"],
    "wsd": [
        'wsd(1.0, total=180, decay=60, warmup=30, tail="linear")',
        'wsd(1.0, total=180, decay=60, warmup=30, tail="cosine")',
        'wsd(1.0, total=180, decay=60, warmup=30, tail="1-sqrt")',
        'wsd(1.0, total=180, decay=60, warmup=30, tail="1-power", power=3)',
        'wsd(1.0, total=180, decay=60, warmup=30, tail="exponential", end_value=0.01)',
    ],
    "one_cycle": ["one_cycle(1.0, total=180)", "one_cycle(1.0, total=180, three_phase=True)"],
    "cyclic": [
        "cyclic(0.1, 1.0, step_size=25)",
        'cyclic(0.1, 1.0, step_size=25, policy="triangular2")',
        'cyclic(0.1, 1.0, step_size=25, policy="exp_range", gamma=0.99)',
        'cyclic(0.1, 1.0, step_size=50, policy="annealing", anneal="cosine")',
    ],
    "interpolate": ['interpolate([(0, 0.2), (40, 1.0), (120, 0.3), (180, 0.0)], "cosine")'],
    "table": ["table([0.2, 0.9, 0.4, 1.0, 0.1]).stairs(40)"],
    "warmup": [
        "cosine(1.0, total=180).warmup(40)",
        "cosine(1.0, total=180).warmup(40, start_value=0.5, one_based=True)",
    ],
    "join": ["join([constant(0.5), linear(1.0, 0.0, total=80)], at=[70])"],
    "add": ["cosine(0.5, total=150) + 0.2"],
    "multiply": ["linear(1.0, 0.0, total=200) * cyclic(0.5, 1.0, step_size=10)"],
    "scale": ["0.5 * linear(1.0, 0.0, total=150)"],
    "clamp": ["linear(1.0, 0.0, total=150).clamp(0.2, 0.8)"],
    "shift": ["cosine(1.0, total=100).shift(50)"],
    "repeat": ["linear(1.0, 0.0, total=100).repeat(60)"],
    "stairs": ["cosine(1.0, total=8).stairs(20)"],
}


def picture(schedule: Schedule) -> str:
    """The values of TOTAL updates as a line in an SVG, over 0 to 1; a jump is vertical."""
    values = schedule.range(TOTAL)
    x = MARGIN + np.arange(TOTAL) * (WIDTH - 2 * MARGIN) / (TOTAL - 1)
    y = HEIGHT - MARGIN - values * (HEIGHT - 2 * MARGIN)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    floor = HEIGHT - MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">\n'
        f'<path d="M{MARGIN},{MARGIN}V{floor}H{WIDTH - MARGIN}" fill="none" stroke="#888"/>\n'
        f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="2"/>\n</svg>\n'
    )


def formula(name: str) -> str:
    """The first sentence or two of a docstring, up to where the arguments begin."""
    made = MAKERS[name] if not hasattr(Schedule, name) else getattr(Schedule, name)
    text = inspect.getdoc(made) or ""
    text = re.split(r"\n(?:Args|Raises|Example|Source|Where others differ|This is):?", text)[0]
    return re.sub(r"``", "`", re.sub(r":func:`(\w+)`", r"`\1`", text)).strip()


def reference(name: str) -> str:
    """A link to where its arguments are."""
    if hasattr(schedules, name):
        return f"{{py:func}}`gradstep.schedules.{name}`"
    return f"{{py:meth}}`gradstep.schedules.Schedule.{name}`"


INTRODUCTION = (
    f"Each picture shows {TOTAL} updates, values from 0 to 1. `t` is the index of the update about "
    "to be made, from 0; all lengths are counted in updates."
)
COMBINED = {
    "add": "The sum of two schedules, or of a schedule and a number: `a + b`.",
    "multiply": "The product of two schedules: `a * b`.",
}


BESIDE = """## Beside the shapes

- `s.warmup(w)` counts inside the `total` of a shape that has one; what is composed has none, so
  warm up first, then scale: `0.5 * cosine(0.1, total=100).warmup(10)`. Also `.scale`, `.clamp`,
  `.shift`, `.repeat`, `.stairs`, and `.branch(t, tail)` to cool down from step t.
- In epochs: `cosine(0.1, epochs=90, steps_per_epoch=391).warmup(epochs=5, steps_per_epoch=391)`,
  for every shape that takes `total`; or as a share of the total, `.warmup(ratio=0.05)`. Both are
  rounded up to whole updates, and what is made counts in updates.
- `s.range(start, stop, out=…)` and `s(t, out=…)` fill arrays; `schedules.sample(f, total)` makes a
  table of any function's values, which can be saved.
- `schedules.explain(s, total)`, `schedules.diff(a, b, at=t)`, `schedules.sparkline(s, total)`, and
  `gradstep plot SPEC … --out file.png` look at them; `--csv file.csv` (or `-`) writes every value,
  to the last bit. In a notebook, a schedule shows its curve.
- `schedules.Plateau(s, gamma=…, patience=…)` is the one that observes a metric.
- `schedules.updates(epochs=…, samples=…, batch_size=…)` converts to updates;
  `schedules.linear_scaling` and `sqrt_scaling` carry a rate over to another batch size.
- `schedules.from_torch(scheduler, …)` and `schedules.compat.{optax,keras,huggingface}` make the
  schedules of other frameworks, off-by-ones included."""


def files() -> dict[Path, str]:
    """Every file and what it holds."""
    missing = set(MAKERS) - set(SHOWN)
    if missing:
        raise LookupError(f"SHOWN lacks {', '.join(sorted(missing))}")
    lines = ["# Every schedule", "", INTRODUCTION, ""]
    made = {}
    for name, expressions in SHOWN.items():
        lines += [f"## {name}", "", COMBINED.get(name) or formula(name), ""]
        for i, expression in enumerate(expressions):
            path = Path("schedules") / f"{name}{i or ''}.svg"
            made[HERE / path] = picture(schedules.parse(expression))
            lines += [f"![{name}]({path.as_posix()})", "", f"`{expression}`", ""]
        if name not in COMBINED:
            lines += [f"**Reference:** {reference(name)}", ""]
    lines += [BESIDE, ""]
    made[HERE / "schedules.md"] = "\n".join(lines).rstrip() + "\n"
    return made


if __name__ == "__main__":
    write(files())
