"""Draw each rule's path on one function of two numbers, for docs/make_rules.py.

Beale's function from one point, by the code itself and without any package: the picture is the same
on every machine.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

import gradstep as gs
from gradstep.rule import Rule

STEPS = 300
START, LOWEST = (1.0, 1.2), (3.0, 0.5)
LEFT, RIGHT, BOTTOM, TOP = -0.5, 4.5, -1.0, 1.75
SCALE = 32  # pixels of 1
WIDTH, HEIGHT, TITLE, CELL = (RIGHT - LEFT) * SCALE, (TOP - BOTTOM) * SCALE, 15, 2
FONT = 'font-family="sans-serif" font-size="11"'
GREYS = tuple(f"#{255 - 13 * k:02x}{255 - 12 * k:02x}{255 - 10 * k:02x}" for k in range(9))

# The arguments of each; a rule that is not here goes by its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.003, "momentum": 0.9},
    "Adagrad": {"lr": 0.3},
    "RMSprop": {"lr": 0.02},
    "Adam": {"lr": 0.1},
    "AdamW": {"lr": 0.1},
    "LARS": {"lr": 10.0},
    "LAMB": {"lr": 0.03},
    "ScheduleFreeAdamW": {"lr": 0.1},
    "Lion": {"lr": 0.01},
    "Adadelta": {"lr": 3.0},
    "Adamax": {"lr": 0.1},
    "NAdam": {"lr": 0.1},
    "RAdam": {"lr": 0.005},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.01},
    "Adafactor": {"lr": 0.05},
    "Muon": {"lr": 0.02},
    "Adan": {"lr": 0.1},
    "AdEMAMix": {"lr": 0.05},
    "ADOPT": {"lr": 0.05},
    "SignSGD": {"lr": 0.02},
    "StableAdamW": {"lr": 0.05},
    "ScheduleFreeSGD": {"lr": 0.01},
}


def beale(x: float, y: float) -> tuple[float, np.ndarray]:
    """The function's value and gradient, by operations that every machine rounds alike."""
    y2 = y * y
    y3 = y2 * y
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y2, 2.625 - x + x * y3
    by_x = 2 * (a * (y - 1) + b * (y2 - 1) + c * (y3 - 1))
    by_y = 2 * (a * x + b * (2 * x * y) + c * (3 * x * y2))
    return a * a + b * b + c * c, np.array([by_x, by_y])


def path(rule: Rule) -> list[tuple[float, float]]:
    """The points to evaluate, before each update and after the last; a matrix has one row."""
    options = OPTIONS.get(rule.name, {})
    p = np.array([START] if rule.has_direction else START)
    opt = getattr(gs, rule.name)(p, **options)
    points = [START]
    for _ in range(STEPS):
        value, gradient = beale(*map(float, p.reshape(-1)))
        more = {"loss": value} if rule.takes_loss else {}
        opt.step(gradient.reshape(p.shape), **more)
        if rule.shows:
            with opt.averaged():
                shown = p.copy()
        else:
            shown = p
        x, y = map(float, shown.reshape(-1))
        if not (math.isfinite(x) and math.isfinite(y)):
            break
        points.append((x, y))
    return points


def place(x: float, y: float) -> str:
    """Where a point is in its panel."""
    far = 1e4  # what is far outside, still as a number that readers of SVG take
    x, y = (min(max(v, -far), far) for v in (x, y))
    return f"{(x - LEFT) * SCALE:.1f},{(TOP - y) * SCALE:.1f}"


def level(x: float, y: float) -> int:
    """Which grey: one for each factor of 4 in the function's value, from 1/256 on."""
    value = beale(x, y)[0]
    return sum(value > 4.0**k for k in range(-4, len(GREYS) - 5))


@functools.cache
def ground() -> str:
    """The function in greys, the lower the lighter, cells of one grey in a row as one."""
    cells = []
    columns = int(WIDTH / CELL)
    for row in range(int(HEIGHT / CELL)):
        y = TOP - (row + 0.5) * CELL / SCALE
        greys = [level(LEFT + (i + 0.5) * CELL / SCALE, y) for i in range(columns)] + [-1]
        begin = 0
        for i in range(1, columns + 1):
            if greys[i] != greys[begin]:
                cells.append(
                    f'<path d="M{begin * CELL},{row * CELL}h{(i - begin) * CELL}v{CELL}'
                    f'H{begin * CELL}z" fill="{GREYS[greys[begin]]}"/>'
                )
                begin = i
    return "\n".join(cells)


def picture(rule: Rule) -> str:
    """A rule's path, a dot at every 20th update, a circle where it begins and a cross to reach."""
    points = path(rule)
    options = ", ".join(f"{k}={v:g}" for k, v in OPTIONS.get(rule.name, {}).items())
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="1.8"/>'
        for x, y in (place(*point).split(",") for point in points[20::20])
    )
    x, y = place(*START).split(",")
    goal = place(*LOWEST)
    size = f'width="{WIDTH:g}" height="{HEIGHT:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{HEIGHT + TITLE:g}" '
        f'{FONT}><rect width="{WIDTH:g}" height="{TITLE:g}" fill="#fff"/>'
        f'<text x="2" y="{TITLE - 4:g}">{rule.name}'
        f'<tspan dx="4" fill="#555" font-size="8">{options}</tspan></text>'
        f'<svg y="{TITLE:g}" {size}>{ground()}'
        f'<path d="M{goal}m-4,-4l8,8m0,-8l-8,8" stroke="#d55e00" stroke-width="2"/>'
        f'<polyline points="{" ".join(place(*point) for point in points)}" fill="none" '
        f'stroke="#0072b2" stroke-width="1.2"/><g fill="#0072b2">{dots}</g>'
        f'<circle cx="{x}" cy="{y}" r="3" fill="none" stroke="#000"/></svg></svg>\n'
    )


CAPTION = (
    f"{STEPS} updates of each rule on Beale's function, from the circle towards the cross; a dot "
    "at every 20th. Light is low. Arguments that are not named are defaults. One function says "
    "little about a network: see how each moves, not which is best."
)
