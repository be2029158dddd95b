"""What the docs show runs and prints what they say."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradstep as gs

README = Path(__file__).parent.parent / "README.md"
MODULES = sorted(info.name for info in pkgutil.walk_packages(gs.__path__, "gradstep."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_readme_code():
    """The first lines train towards where the gradient is zero; the next ones follow them."""
    first, second = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {}
    exec(first, names)
    assert names["opt"].t == 1000
    for p in names["params"].values():
        np.testing.assert_allclose(p, p.flat[0])
        assert 0.3 < p.flat[0] <= 1
    exec(second, names)
    assert names["opt"].t == 1
    assert names["opt"].groups["bias"]["lr"] == 0.005


def test_the_page_of_schedules_is_as_the_code_makes_it():
    made = Path(__file__).parent.parent / "docs" / "make_schedules.py"
    subprocess.run([sys.executable, str(made), "--check"], check=True, timeout=100)
