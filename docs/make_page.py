"""Write docs/choosing-a-rate/page.png: the page of three trainings on scikit-learn's digits.

Needs scikit-learn and Pillow, and Chromium to take its picture.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import gradstep as gs
from gradstep.pages import write_page
from gradstep.tuning.curves import judge
from gradstep.tuning.logs import Log

OUT = Path(__file__).parent / "choosing-a-rate" / "page.png"
STEPS, WARM_UP, BATCH = 600, 30, 32


def run(lr: float) -> Log:
    """A network of one hidden layer, with momentum, a warm-up and a decay of its rate."""
    rng = np.random.default_rng(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16 - 0.3).astype(np.float32)
    w = {
        "hidden": (rng.standard_normal((64, 64)) / 8).astype(np.float32),
        "out": (rng.standard_normal((64, 10)) / 8).astype(np.float32),
    }
    rates = gs.schedules.constant(lr).warmup(WARM_UP)
    opt = gs.SGD(w, lr=rates, momentum=0.9, stats="sample")

    def loss_of(rows: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        hidden = np.maximum(x[rows] @ w["hidden"], 0)
        logits = hidden @ w["out"]
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        d = (np.exp(log_p) - np.eye(10, dtype=np.float32)[y[rows]]) / len(rows)
        d_hidden = d @ w["out"].T * (hidden > 0)
        gradients = {"hidden": x[rows].T @ d_hidden, "out": hidden.T @ d}
        return -float(log_p[np.arange(len(rows)), y[rows]].mean()), gradients

    order, test = rng.permutation(len(x))[:1500], np.arange(1500, len(x))
    rows, tested = [], []
    for step in range(1, STEPS + 1):
        loss, gradients = loss_of(rng.choice(order, BATCH))
        report = opt.step(gradients)
        rows.append((step, loss, report.lr, report.grad_norm))
        if step % 60 == 0:
            tested.append((step, loss_of(test)[0]))
    names = {"loss": "loss", "lr": "lr", "step": "t", "grad_norm": "grad_norm"}
    columns, others = np.array(rows, np.float64).T, np.array(tested, np.float64).T
    return Log(f"digits-lr-{lr:g}.jsonl", "JSON lines", names, *columns, *others, total=STEPS)


def runs() -> list[Log]:
    return [run(lr) for lr in (0.002, 0.05, 1.0)]


def picture(page: Path, out: Path, width: int, height: int) -> None:
    """What Chromium shows of a page, in its 256 commonest colours."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("chromium: not found, wanted it to take the picture")
    subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu",
            f"--window-size={width},{height}", f"--screenshot={out}", page.as_uri(),
        ],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    with Image.open(out) as file:
        shown = file.convert("RGB")
    counted = sorted(shown.getcolors(1 << 24), reverse=True)[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in counted for part in colour])
    shown.quantize(palette=palette, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page = write_page([judge(log) for log in runs()], Path(folder) / "page.html")
        picture(page, OUT, 1000, 1395)
    print(OUT)
