"""Chromium, without a window."""

import shutil
import subprocess

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def browse(address, folder, width, dark, *more):
    """What it writes on its output; an error of a script is a failure."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},1600",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", *more, address,
        ],
        check=True, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in said if "[PST]" not in line]  # the theme's own: its mode
    return done.stdout


def drawn_rows(address, folder, width, dark):
    """The share of a screenshot's rows that have something in them; its theme must be the right."""
    imread = pytest.importorskip("matplotlib.image").imread
    browse(address, folder, width, dark, f"--screenshot={folder / 'page.png'}")
    picture = imread(folder / "page.png")[..., :3]
    assert picture.shape[1] == width
    assert (np.median(picture) < 0.2) == dark
    assert (np.median(picture) > 0.9) != dark
    return (picture.std(axis=(1, 2)) > 0.05).mean()
