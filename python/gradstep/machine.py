"""What this machine is: the processor, its caches, and how gradstep was built for it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import numpy as np

from . import runtime

UNKNOWN = "unknown"


def _read(path: Path) -> str:
    """The stripped text of a small file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system gives it, or `unknown`."""
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware", "cpu model") and value.strip():
            return value.strip()
    name = _sysctl("machdep.cpu.brand_string") or platform.processor()
    return name or platform.machine() or UNKNOWN


def _sysctl(name: str) -> str:
    """What macOS answers to a name; empty elsewhere."""
    text = ctypes.create_string_buffer(256)
    if sys.platform == "darwin":
        size = ctypes.c_size_t(len(text) - 1)
        ask = ctypes.CDLL(None).sysctlbyname
        ask(name.encode(), text, ctypes.byref(size), None, ctypes.c_size_t())
    return text.value.decode(errors="replace").strip()


def processors() -> int:
    """How many logical processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:  # noqa: RET505 - so mypy knows that either is right somewhere
        return os.cpu_count() or 1


def caches(cpus: Path = Path("/sys/devices/system/cpu")) -> dict[str, str]:
    """The first processor's data caches, for example `{"L2": "1024 KiB, shared by 2"}`.

    Args:
        cpus: where Linux describes its processors.

    Returns:
        Level to size, in order of level; empty where the system does not say.
    """
    found: dict[str, str] = {}
    for index in sorted(cpus.glob("cpu0/cache/index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if not level or not size or kind == "Instruction":
            continue
        share = _count(_read(index / "shared_cpu_list"))
        size = size.replace("K", " KiB").replace("M", " MiB")
        found[f"L{level}"] = size + (f", shared by {share}" if share > 1 else "")
    return dict(sorted(found.items()))


def _count(cpu_list: str) -> int:
    """How many processors a list such as `0-3,8` names."""
    spans = (part.split("-") for part in cpu_list.split(",") if part)
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)


def free_memory(
    meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that can still be had, as far as the system says, and no more than a container may."""
    free = _free_on_windows()
    for line in _read(meminfo).splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable" and value.split()[:1]:
            free = int(value.split()[0]) << 10
    limit, used = _read(group / "memory.max"), _read(group / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        left = max(0, int(limit) - int(used))
        free = left if free is None else min(free, left)
    return free


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("physical", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("others", ctypes.c_ulonglong * 5),
    )


def _free_on_windows() -> int | None:
    done = 0
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if sys.platform == "win32":
        done = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free) if done else None


def describe() -> dict[str, str]:
    """Everything that decides how fast a step is here, from label to text.

    Whatever `config()` says appears under its own key, so that a new entry there
    needs nothing here.
    """
    config = runtime.config()
    rows = {
        key: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for key, value in config.items()
    }
    cores = os.cpu_count()
    rows["CPU"] = cpu_name() + (f", {cores} logical cores" if cores else "")
    rows |= {f"cache {level}": size for level, size in caches().items()} or {"caches": UNKNOWN}
    rows["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    rows["python"] = f"{platform.python_implementation()} {platform.python_version()}"
    rows["numpy"] = np.__version__
    return rows


def one_line() -> str:
    """The machine in one line, to stand under a table of timings."""
    config = runtime.config()
    levels = ", ".join(f"{level} {size}" for level, size in caches().items())
    return (
        f"{cpu_name()}; {levels or 'caches ' + UNKNOWN}; "
        f"target {config['target']}, threads {config['threads']}"
    )
