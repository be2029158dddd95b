"""Which targets a processor is offered, and in which words one is refused."""

import platform
import re
from pathlib import Path

import pytest

import gradstep as gs
from gradstep import _core

LACKS = "this processor lacks "
UNSAVED = "the operating system does not save the registers "
OF_AVX512 = "AVX512F, AVX512BW, AVX512DQ, AVX512VL"

# CPUID leaf 1 ECX, leaf 7 EBX, XCR0; then what is said of sse4, avx2 and avx512.
PROCESSORS = {
    "Conroe": (0x0000E3BD, 0, 0,
        [LACKS + "SSE4.1", LACKS + "SSE4.1, SSE4.2, POPCNT, AVX, AVX2",
         LACKS + "SSE4.1, SSE4.2, POPCNT, AVX, AVX2, FMA, F16C, " + OF_AVX512]),
    "Nehalem": (0x0098E3BD, 0, 0,
        ["", LACKS + "AVX, AVX2", LACKS + "AVX, AVX2, FMA, F16C, " + OF_AVX512]),
    "Sandy Bridge": (0x1FBAE3FF, 0, 7,
        ["", LACKS + "AVX2", LACKS + "AVX2, FMA, F16C, " + OF_AVX512]),
    "Haswell": (0x7FFAFBFF, 0x000027AB, 7, ["", "", LACKS + OF_AVX512]),
    "Haswell, a system without AVX": (0x77FAFBFF, 0x000027AB, 0,
        ["", UNSAVED + "YMM", LACKS + OF_AVX512]),
    "Zen 3": (0x7EF8320B, 0x219C97A9, 0x207, ["", "", LACKS + OF_AVX512]),
    "Knights Landing": (0x7FF8F3BF, 0x1C0D23AB, 0xE7,
        ["", "", LACKS + "AVX512BW, AVX512DQ, AVX512VL"]),
    "Skylake-X": (0x7FFEFBFF, 0xD39FFFFB, 0x2E7, ["", "", ""]),
    "Skylake-X, AVX-512 masked": (0x7FFEFBFF, 0xD39FFFFB, 0x207, ["", "", UNSAVED + "opmask, ZMM"]),
    "Skylake-X, half of ZMM": (0x7FFEFBFF, 0xD39FFFFB, 0x267, ["", "", UNSAVED + "ZMM"]),
    "Skylake-X, only SSE saved": (0x7FFEFBFF, 0xD39FFFFB, 3,
        ["", UNSAVED + "YMM", UNSAVED + "YMM, opmask, ZMM"]),
    "Alder Lake": (0x7FFAFBFF, 0x239CA7EB, 0x207, ["", "", LACKS + OF_AVX512]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors(name):
    """The registers of real processors, and of systems that save less than they have."""
    *registers, wanted = PROCESSORS[name]
    assert _core.target_refusal("baseline", *registers) == ""
    assert [_core.target_refusal(t, *registers) for t in ("sse4", "avx2", "avx512")] == wanted


def test_this_processor():
    """Each target of the build is offered or has a reason, and Linux tells of the same features."""
    config = gs.config()
    offered, refused = config["targets"], config["refused"]
    assert not set(offered) & set(refused)
    if platform.machine() not in ("x86_64", "AMD64"):
        assert len(offered) == 1
        assert not refused
        return
    assert {*offered, *refused} == {"baseline", "sse4", "avx2", "avx512"}
    if platform.system() != "Linux":
        return
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = re.search(r"^flags\s*:(.*)$", about, re.MULTILINE)[1].split()
    assert ("avx2" in offered) == ("avx2" in flags)
    assert ("avx512" in offered) == (
        {f"avx512{part}" for part in ("f", "bw", "dq", "vl")} <= {*flags}
    )


def test_a_refused_target_says_why(monkeypatch):
    """By name, in the error as in config()."""
    monkeypatch.setattr(_core, "targets", lambda: ["baseline"])
    monkeypatch.setattr(_core, "refused_targets", lambda: {"avx512": LACKS + "AVX512BW"})
    with pytest.raises(
        ValueError,
        match=r"^name: got 'avx512', wanted one of baseline; this processor lacks AVX512BW$",
    ):
        gs.set_target("avx512")
