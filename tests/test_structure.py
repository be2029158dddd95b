"""The house's order: who may include or import whom, and that nothing is there by half."""

import ast
import functools
import inspect
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convergence
import gradstep as gs
import reference
import reference_schedules
from cases import EVERY, OPTIONS
from gradstep.schedules.base import MAKERS

ROOT = Path(__file__).parent.parent
CPP = ROOT / "cpp"
PYTHON = ROOT / "python" / "gradstep"

# A file includes or imports only rooms listed before its own, or its own. A new file that is in no
# room here fails: it is to be given its place.
CPP_ROOMS = [
    "random.hpp",
    "math.hpp",
    "rules/",
    "storage/",
    "schedules/",
    "table.hpp",
    "kernels/",
    "kernels.inl",
    "targets/",
    "cpuid.",
    "dispatch.",
    "parallel",
    "schedule.",
    "flat.",
    "rows.",
    "walk.",
    "factored.",
    "measure.",
    "pipeline.",
    "functional.",
    "bindings/",
]
TORCH_ROOMS = [
    "memory",
    "private",
    "layout",
    "sharded",
    "orthogonal",
    "trust",
    "groups",
    "keeping",
    "starting",
    "call",
    "held",
    "bound",
    "parts",
    "exchange",
    "loading",
    "base",
    "optimizer",
    "backward",
    "classes",
    "placing",
    "offloading.links",
    "offloading.simulated",
    "offloading.taken",
    "offloading.slots",
    "offloading.worker",
    "offloading.resident",
    "offloading.pipeline",
    "offloading.waits",
    "offloading.optimizer",
    "offloading",
]
JAX_ROOMS = ["native", "state", "configuration", "transformation", "files", "functions"]
FORMAT_ROOMS = ["common", "objects", "tables", "trackers", "text", "files"]
PYTHON_ROOMS = [
    "main_interpreter",
    "_core",
    "extras",
    "files",
    "progress",
    "tables",
    "charts",
    "notebooks",
    "checks",
    "arrays",
    "rows",
    "schedules.arguments",
    "schedules.drawing",
    "schedules.base",
    "schedules.families",
    "schedules.units",
    "schedules.plateau",
    "schedules.compat.optax",
    "schedules.compat.keras",
    "schedules.compat.huggingface",
    "schedules.compat.torch",
    "schedules.compat",
    "schedules.looking",
    "schedules",
    "hyperparameters",
    "rule",
    "runtime",
    "storages",
    "arguments",
    "watched",
    "groups",
    "stages",
    "report",
    "turn",
    "engine",
    "orthogonal",
    "tensors",
    "parameters",
    "checkpoint",
    "saving",
    "optimizer",
    *(f"optimizers.{name.lower()}" for name in gs.rule.RULES),
    "optimizers",
    "placing",
    "layers",
    "__init__",
    "machine",
    *(f"torch.{name}" for name in TORCH_ROOMS),
    "torch",
    *(f"jax.{name}" for name in JAX_ROOMS),
    "jax",
    "bench",
    "bench_training",
    "bench_offload",
    "plots",
    "tuning.handles",
    "tuning.range_test",
    "tuning.calm",
    "tuning.monitor",
    "tuning.adapting",
    "tuning.finding",
    "tuning.lines",
    "tuning.piping",
    "tuning.watching",
    "tuning.columns",
    "tuning.logs",
    *(f"tuning.formats.{name}" for name in FORMAT_ROOMS),
    "tuning.formats",
    "tuning.signs",
    "tuning.curves",
    "tuning.following",
    "tuning.sharing",
    "tuning.databases",
    "tuning.searched",
    "tuning.search",
    "tuning.loop",
    "tuning.callbacks",
    "tuning.keras",
    "tuning.lightning",
    "tuning.sklearn",
    "tuning.transformers",
    "tuning",
    "pages",
    "demo",
    "cli",
    "__main__",
]

# Packages that import some of their modules once they are asked for, and name them for mypy before.
ON_FIRST_USE = {"__init__", "tuning"}

# What may be seen in these files alone; elsewhere it is a leak.
CPP_ALONE = {
    r"\bomp\.h\b|\b_OPENMP\b|pragma omp (?!simd)|GOMP_": "parallel",
    r"pthread|std::thread|#include <thread>|\bsched_|fork|\bdl(open|sym)": "parallel",
    r"\b(std::)?(atomic|mutex|condition_variable)\b": ("parallel", "dispatch.", "functional."),
    r"_mm\w*_|immintrin|arm_neon": "parallel",  # the denormal modes; kernels are plain loops
    r"pybind11|\bPy[A-Z]\w+|Python\.h": "bindings/",
    r"float_control|fast-math|\bfma\b": (),
}
PYTHON_ALONE = {
    "argparse": {"cli"},
    "matplotlib": {"plots"},
    "keras": {"tuning.keras"},
    "lightning": {"tuning.lightning"},
    "pytorch_lightning": {"tuning.lightning"},
    "transformers": {"tuning.transformers"},
    "sklearn": {"demo", "tuning.sklearn"},
    "tqdm": {"progress"},
    "optuna": {"tuning.sharing"},
    "sqlalchemy": {"tuning.databases"},
    "ml_dtypes": {"storages", "checkpoint"},
    "safetensors": set(),
    "torch": {
        "bench",
        "bench_training",
        "bench_offload",
        *(f"torch.{name}" for name in TORCH_ROOMS),
        "torch",
        "tuning.loop",
    },
    "optax": {"bench", *(f"jax.{name}" for name in JAX_ROOMS), "jax"},
    "jax": {"bench", *(f"jax.{name}" for name in JAX_ROOMS), "jax"},
}
# The demo asks whether there will be plots before it trains; it draws with plots alone.
PYTHON_ASKED = {("demo", "matplotlib")}


def cpp_files():
    return sorted(path.relative_to(CPP).as_posix() for path in CPP.rglob("*") if path.is_file())


def python_modules():
    """Dotted names below the package; a package within it has the name of its folder."""
    paths = [path.relative_to(PYTHON).with_suffix("") for path in PYTHON.rglob("*.py")]
    names = (
        path.parent if path.name == "__init__" and path.parent.name else path for path in paths
    )
    return sorted(".".join(name.parts) for name in names)


def room(name, rooms):
    """The index of the room that a file is in."""
    found = [i for i, prefix in enumerate(rooms) if name.startswith(prefix)]
    assert len(found) == 1, f"{name} is in {len(found)} rooms: give it one"
    return found[0]


@functools.cache
def code(name):
    """A C++ file without its comments."""
    text = (CPP / name).read_text(encoding="utf-8")
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


@functools.cache
def tree(module):
    path = PYTHON.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


# ---- C++ ----


def test_cpp_is_there():
    """The tests below are about something."""
    assert len(cpp_files()) > 20
    assert "rules/sgd.hpp" in cpp_files()


@pytest.mark.parametrize("name", cpp_files())
def test_cpp_includes_only_rooms_below(name):
    """Our own files are included by quotes, and stand in the same room or one before it."""
    own = room(name, CPP_ROOMS)
    for line in re.findall(r"^\s*#\s*include.*$", code(name), flags=re.MULTILINE):
        if re.search(r"<[^>]+>", line):
            assert not (CPP / re.search(r"<([^>]+)>", line)[1]).exists(), f"{name}: {line}"
            continue
        path = Path(os.path.normpath(Path(name).parent / re.search(r'"([^"]+)"', line)[1]))
        assert (CPP / path).is_file(), f"{name}: {line}: no such file from here"
        assert room(path.as_posix(), CPP_ROOMS) <= own, f"{name}: {line}: a room above its own"


@pytest.mark.parametrize(
    "name", [n for n in cpp_files() if n.startswith(("rules/", "storage/", "schedules/"))]
)
def test_mathematics_is_alone(name):
    """What is included inside each target's namespace brings nothing of the system with it."""
    assert not re.search(r"#\s*include\s*<", code(name)), f"{name} includes a system header"
    assert "std::" not in code(name)
    assert "#pragma once" in code(name)


@pytest.mark.parametrize("name", cpp_files())
def test_cpp_keeps_to_its_room(name):
    """Threads, OpenMP, processors and Python are each known in one place."""
    for pattern, allowed in CPP_ALONE.items():
        found = re.search(pattern, code(name))
        assert not found or name.startswith(allowed), f"{name}: {found[0]!r}"


# ---- Python ----


def imports(module):
    """(name, whether it runs when the module is imported) of each import; our own begin with a dot
    and are told as seen from the package.

    A call with a constant first argument, `need("tqdm", …)`, may be an import, too.
    """

    def walk(node, now):
        for child in ast.iter_child_nodes(node):
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            inner = (
                now
                and not typing
                and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            )
            if isinstance(child, ast.Import):
                yield from ((alias.name, now) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = module.split(".")
                if not (PYTHON / Path(*above)).is_dir():
                    above = above[:-1]
                assert child.level <= len(above) + 1, f"{module} imports from outside the package"
                inside = above[: len(above) + 1 - child.level]
                if child.level and not child.module:
                    names = (".".join([*inside, alias.name]) for alias in child.names)
                    yield from ((f".{name}", now) for name in names)
                elif child.level:
                    yield "." + ".".join([*inside, child.module]), now
                else:
                    yield child.module, now
            elif isinstance(child, ast.Call) and child.args:
                first = child.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield f"?{first.value}", now
            yield from walk(child, inner)

    yield from walk(tree(module), True)


@pytest.mark.parametrize("module", python_modules())
def test_python_imports_only_rooms_below(module):
    """Our own modules are imported by relative names, also within functions.

    A package may name for type checkers what it imports once it is asked for.
    """
    own = PYTHON_ROOMS.index(module)
    for name, now in imports(module):
        if not now and module in ON_FIRST_USE:
            continue
        assert name.partition(".")[0] != "gradstep", f"{module} imports {name}: wanted from ."
        if name.startswith("."):
            other = name[1:]
            while other not in PYTHON_ROOMS:  # what is imported from a module
                other = other.rpartition(".")[0]
            assert PYTHON_ROOMS.index(other) < own, f"{module} imports {name}, a room above"


@pytest.mark.parametrize("module", python_modules())
def test_python_keeps_to_its_room(module):
    """Arguments are parsed and pictures drawn in one place, and each optional package has its."""
    for name, _ in imports(module):
        package = name.removeprefix("?").partition(".")[0]
        asked = name.startswith("?") and (module, name[1:]) in PYTHON_ASKED
        if package in PYTHON_ALONE and not asked:
            assert module in PYTHON_ALONE[package], f"{module} imports {name}"


@pytest.mark.parametrize("module", python_modules())
def test_numpy_is_all_that_is_needed(module):
    """What importing a module imports is ours, NumPy's or Python's own.

    A room that is called after a package is for those who have that.
    """
    for name, now in imports(module):
        if now and not name.startswith((".", "?")):
            package = name.partition(".")[0]
            known = {"numpy", module.partition(".")[0], *sys.stdlib_module_names}
            known |= {"jaxlib", "optax"} if module.startswith("jax") else set()
            assert package in known, name


# ---- what a reader can hold in mind ----


def python_functions():
    """Name and lines of code of each function, its signature and docstring left out."""
    for path in sorted((ROOT / "python").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                yield f"{path.relative_to(ROOT)}: {node.name}", lines


def cpp_functions():
    """Name and lines of each function: from the line that opens it to the brace that closes it."""
    other = r"(namespace|struct|class|union|enum|const struct|extern|if|for|while|switch|else|do)\b"
    for path in [*CPP.rglob("*.[hci]*"), ROOT / "tests" / "selftest.cpp"]:
        lines = path.read_text(encoding="utf-8").splitlines()
        for i, line in enumerate(lines):
            indent = len(line) - len(line.lstrip())
            text = line.strip()
            if not text.endswith("{") or text[0] in "}#" or re.match(other, text):
                continue
            if re.search(r"\b(struct|class)\b", text) or text.endswith("= {"):
                continue
            end = next(
                j
                for j, last in enumerate(lines[i + 1 :], start=i + 1)
                if last.strip().startswith("}") and len(last) - len(last.lstrip()) <= indent
            )
            yield f"{path.relative_to(ROOT)}:{i + 1}: {text}", end - i + 1


@pytest.mark.parametrize(
    ("functions", "most", "at_least"), [(python_functions, 50, 800), (cpp_functions, 60, 300)]
)
def test_functions_are_short(functions, most, at_least):
    lengths = dict(functions())
    assert len(lengths) >= at_least  # it found them
    assert {name: lines for name, lines in lengths.items() if lines > most} == {}


def test_the_front_doors_are_short_files():
    files = [PYTHON / "optimizer.py", *(PYTHON / "torch").glob("*.py")]
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


# ---- nothing by half ----


def test_rooms_are_inhabited():
    """No room is listed that is not there."""
    for prefix in CPP_ROOMS:
        assert any(name.startswith(prefix) for name in cpp_files()), prefix
    assert set(PYTHON_ROOMS) == {*python_modules(), "_core"}
    assert (PYTHON / "_core.pyi").is_file()


def missing_of_rules():
    """What each rule lacks, in words."""
    files = {path.stem for path in (CPP / "rules").glob("*.hpp")}
    files -= {"catalogue", "rule", "state", *SHARED_BY_RULES}
    classes = {
        name: made
        for name, made in vars(gs.optimizers).items()
        if inspect.isclass(made) and "rule" in vars(made)
    }
    known = {
        name.lower(): name for name in [*gs._core.rules(), *classes, *reference.RULES, *OPTIONS]
    }
    for file in sorted(files | set(known)):
        name = known.get(file, file)
        for place, is_there in {
            f"cpp/rules/{file}.hpp": file in files,
            "a line in cpp/rules/catalogue.hpp and a core built since": name in gs._core.rules(),
            "a class in python/gradstep/optimizers/": name in classes,
            "a function and its row of RULES in tests/reference.py": name in reference.RULES,
            "a row of OPTIONS in tests/cases.py": name in OPTIONS,
            "a row of DIGITS in tests/convergence.py": name in convergence.DIGITS,
        }.items():
            if not is_there:
                yield f"{name} lacks {place}"


# What several rules share, in files of its own.
SHARED_BY_RULES = {"cautious", "schedulefree", "trust"}


def test_rules_have_all_their_parts():
    """A file, a line in the catalogue, a class, a function in the reference, options to test."""
    assert not list(missing_of_rules())


@pytest.mark.parametrize("rule", EVERY)
def test_rule_has_what_its_kind_asks_for(rule):
    """Bounds to fall below where it is element-wise, and the reference of the point it shows."""
    if convergence.is_elementwise(rule):
        assert rule in convergence.VALLEYS, (
            f"{rule} lacks a row of VALLEYS in tests/convergence.py: its arguments, and below what "
            "it brings Rosenbrock's and Beale's functions"
        )
    if gs.rule.RULES[rule].shows:
        assert rule in reference.SHOWN, f"{rule} lacks a row of SHOWN in tests/reference.py"


@pytest.mark.parametrize("rule", EVERY)
def test_rule_can_be_read_of(rule):
    """Its docstring has each part, of which the docs' page on rules is made."""
    made = getattr(gs, rule)
    assert issubclass(made, gs.Optimizer)
    assert made.rule.name == made.__name__ == rule
    assert rule in gs.__all__
    for part in DOCSTRING:
        assert part in (vars(made).get("__doc__") or ""), f"{rule}'s docstring lacks {part!r}"
    for state in made.rule.states:
        assert state.name in made.__doc__, f"the docstring lacks the state {state.name}"


DOCSTRING = ["When:", "Args:", "State", "Source:", "Example:", "Where frameworks differ:"]


@pytest.mark.parametrize("rule", EVERY)
def test_rule_has_the_same_hyperparameters_everywhere(rule):
    """The class's, in the order of the kernels', and the reference's."""
    value = gs.rule.RULES[rule]
    group = dict(getattr(gs, rule)(np.ones((1, 1))).groups[0])
    assert group.pop("maximize") is False
    assert group.pop("frozen") is False
    assert [
        f"{key}[{i}]" if isinstance(values, tuple) else key
        for key, values in group.items()
        if key not in value.choices
        for i in range(len(values) if isinstance(values, tuple) else 1)
    ] == [*value.hyper_names, *value.switches]
    parameters = inspect.signature(getattr(gs, rule)).parameters
    assert list(parameters) == ["params", *group, "maximize", "shared"]
    for row in OPTIONS[rule]:  # what is given goes where its name says
        given = dict(getattr(gs, rule)(np.ones((2, 2)), **row).groups[0])
        assert given == {**value.defaults, **row}
    twin = inspect.signature(reference.RULES[rule]).parameters.values()
    named = {p.name for p in twin if p.kind is p.KEYWORD_ONLY}
    named -= {"loss"} if value.takes_loss else set()
    handed_on = any(p.kind is p.VAR_KEYWORD for p in twin)  # to the rule it builds upon
    assert named <= set(group) if handed_on else named == set(group)
    for state in value.states:
        assert {state.option, state.initial} - {None} <= set(group)


@pytest.mark.parametrize("rule", EVERY)
def test_every_hyperparameter_is_tested(rule):
    """Some row of OPTIONS has it at neither its default nor 0, or a wrong formula would pass."""
    defaults = gs.rule.RULES[rule].defaults
    for key, default in defaults.items():
        if key not in ("maximize", "frozen"):  # every rule is tested with the former
            values = [row.get(key, default) for row in OPTIONS[rule]]
            off = () if default is True else (0, False)
            assert any(value not in (default, *off) for value in values), (
                f"no row of OPTIONS[{rule!r}] in tests/cases.py has {key} at another value than "
                f"{default!r} and 0"
            )


def test_sums_have_one_set_of_names():
    assert gs._core.sum_names == gs.report.Sums._fields


def test_storages_have_all_their_parts():
    """A file for each, and no other."""
    files = {path.stem for path in (CPP / "storage").glob("*.hpp")}
    assert files - {"catalogue", "storage", "blocks"} == set(gs._core.storages())


def test_schedules_have_all_their_parts():
    """Each form stands in the file that its name begins with; each shape has its twin, and people
    can read of it."""
    forms = set(gs._core.schedules())
    files = {path.stem for path in (CPP / "schedules").glob("*.hpp")} - {"catalogue", "math"}
    for file in files:
        assert any(form.startswith(file) for form in forms), file
    for form in forms:
        assert any(form.startswith(file) for file in files), form
    families = (PYTHON / "schedules" / "families.py").read_text(encoding="utf-8")
    for form in forms:
        stem = form.partition("_")[0] if form.startswith("piecewise") else form
        easy = form.removesuffix("_square").removesuffix("_root")
        written = f'"{form}"' in families or f'"{easy}"' in families
        assert written or f'"{stem}_{{' in families, f"no shape uses {form}"
    for name in MAKERS:
        assert inspect.isfunction(getattr(reference_schedules, name)), name
    for name in set(MAKERS) - {"add", "multiply"}:
        made = getattr(gs.schedules, name, None) or getattr(gs.Schedule, name)
        for part in ["Raises:", "Example:"]:
            assert part in made.__doc__, f"{name}'s docstring lacks {part!r}"


def test_targets_have_all_their_parts():
    """Each target of the build has a file and is built on some processor; each file is a target."""
    files = {path.stem for path in (CPP / "targets").glob("*.cpp")}
    assert files == {name for names in targets_by_processor().values() for name in names}
    assert set(gs._core.targets()) <= files


# ---- what the linker sees of a target ----


@functools.cache
def cmake():
    return (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def targets_by_processor():
    """CMakeLists.txt: a pattern for the processor's name, and its targets."""
    found = re.findall(r'if\(processor MATCHES "([^"]+)"\)\s+set\(targets ([^)]+)\)', cmake())
    assert found
    return {pattern: names.split() for pattern, names in found}


def own_targets():
    machine = platform.machine().lower()
    for pattern, names in targets_by_processor().items():
        if re.search(pattern, machine):
            return names
    return ["baseline"]


def flags(target):
    """How CMakeLists.txt has a release compile a target's file."""
    common = re.search(r"target_compile_options\(flags INTERFACE(.*?)\n\s*\$<", cmake(), re.DOTALL)
    release = re.search(r"CONFIG:Release>:(\S+?)>", cmake())[1]
    every = re.search(r"set\(flags_every ([^$]+)\$", cmake())[1]
    own = re.search(rf"set\(flags_{target} ([^)]+)\)", cmake())
    standard = re.search(r"CMAKE_CXX_STANDARD (\d+)", cmake())[1]
    return [
        f"-std=c++{standard}",
        "-fPIC",
        "-fvisibility=hidden",
        release,
        *common[1].split(),
        *every.split(),
        *(own[1].split() if own else []),
    ]


# By where they really are: c++ is mostly another name for one of the others.
COMPILERS = sorted(
    {os.path.realpath(path) for path in map(shutil.which, ["c++", "g++", "clang++"]) if path}
)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILERS or not shutil.which("nm"), reason="no C++ compiler or no nm")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems write symbols otherwise")
@pytest.mark.parametrize("target", own_targets())
def test_target_shows_one_symbol(target, tmp_path):
    """Its table alone: what is weak the linker may take from any target, for all of them."""
    for compiler in COMPILERS:
        made = tmp_path / "target.o"
        source = CPP / "targets" / f"{target}.cpp"
        subprocess.run(
            [compiler, *flags(target), "-w", "-c", str(source), "-o", str(made)],
            check=True,
            timeout=300,
        )
        lines = subprocess.run(
            ["nm", "-C", str(made)], check=True, timeout=60, capture_output=True, text=True
        ).stdout.splitlines()
        symbols = [re.fullmatch(r"[0-9a-f ]*\s([A-Za-z])\s(.+)", line).groups() for line in lines]
        assert not [symbol for symbol in symbols if symbol[0] in "wWvVu"]
        shown = [name for kind, name in symbols if kind.isupper() and kind != "U"]
        assert shown == [f"gradstep::targets::{target}"]
