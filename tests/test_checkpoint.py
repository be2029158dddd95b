"""Checkpoints: what is loaded is what was saved, and a file is whole or it is refused."""

import contextlib
import errno
import functools
import itertools
import json
import math
import os
import random
import re
import stat
import struct
import textwrap
import threading
import tracemalloc
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradstep as gs
from cases import OPTIONS
from cases import given as wanted_by
from gradstep import checkpoint, files, schedules
from processes import run

DTYPES = [ml_dtypes.bfloat16 if name == "bfloat16" else name for name in checkpoint._DTYPES]

SCHEDULES = [
    schedules.constant(0.1),
    schedules.cosine(1 / 3, total=1000, end_value=1e-300),
    schedules.join(
        [schedules.linear(0.0, 0.1, total=5), schedules.cyclic(0.0, 1.0, step_size=3)], at=[5]
    ),
]

STATE = {
    "rule": "AdamW",
    "t": 7,
    "state": {
        "weight": {
            "step": 7,
            "exp_avg": np.arange(6, dtype=np.float32).reshape(2, 3),
            "exp_avg_sq": np.arange(5, dtype=np.uint8),
        },
        "bias": {"step": 0, "exp_avg": np.array(2.5, dtype=ml_dtypes.bfloat16)},
    },
    "groups": [{"lr": SCHEDULES[0], "betas": (0.9, SCHEDULES[1]), "name": None, "params": ["a"]}],
    "stages": {"clip_norm": math.inf, "seed": 3, "nonfinite": "skip"},
}


def same(a, b):
    """Equal in value, type and bits; of arrays, dtype and shape too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


def refused(path, match):
    """Loading raises, names the file and says what is wrong; so does mapping it."""
    for mapped in (False, True):
        with pytest.raises(ValueError, match=re.escape(str(path)) + ": .*" + match):
            checkpoint.load(path, mapped=mapped)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


# ---- what is saved is what is loaded ----

texts = st.text(max_size=5) | st.sampled_from(
    ["$tensor", "$", "state", "__metadata__", "a.b", "a", "b", "~2", "\0", "é😀"]
)


@st.composite
def ndarrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = math.prod(shape)
    if dtype.kind == "b":  # a byte has other values
        return draw(hnp.arrays(dtype, shape))
    n = size * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=n, max_size=n)), dtype).reshape(shape)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**2047), 2**2047)
    | st.floats()
    | texts
    | st.sampled_from(SCHEDULES)
    | ndarrays()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)


LEAF = (type(None), bool, int, float, str, gs.Schedule)


def arrays_in(value):
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [a for v in value for a in arrays_in(v)] if not isinstance(value, LEAF) else []


@settings(max_examples=150, deadline=None)
@given(state=st.dictionaries(texts, values, max_size=4))
def test_round_trip(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "round_trip.safetensors"
    checkpoint.save(path, state)
    loaded = checkpoint.load(path)
    assert same(state, loaded)
    assert all(a.flags.writeable and a.flags.aligned for a in arrays_in(loaded))
    assert same(state, checkpoint.load(path, mapped=True))
    plain = safetensors.numpy.load_file(path)
    assert sorted((a.dtype.name, a.shape, a.tobytes()) for a in plain.values()) == sorted(
        (a.dtype.name, a.shape, a.tobytes()) for a in arrays_in(state)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (3, 5)])
def test_dtypes_and_shapes(path, dtype, shape):
    array = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    checkpoint.save(path, {"state": {"w": {"s": array}}, "odd": np.zeros(3, np.uint8)})
    assert same(checkpoint.load(path)["state"]["w"]["s"], array)
    assert same(safetensors.numpy.load_file(path)["w.s"], array)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10.0)[::-2],
        np.broadcast_to(np.float32(3), (4,)),
        np.frombuffer(b"\0" * 9, np.uint8)[1:].view(np.float64),
    ],
    ids=["fortran", "reversed", "broadcast", "unaligned"],
)
def test_layouts(path, array):
    checkpoint.save(path, {"a": array})
    assert same(checkpoint.load(path)["a"], np.ascontiguousarray(array))


def test_pieces(path, monkeypatch):
    """Whatever the tensors' ends are to the checksums' ends."""
    monkeypatch.setattr(checkpoint, "_PIECE", 8)
    for sizes in ([8], [16, 8], [7, 1, 8], [3, 0, 20, 1], [0], [], [1] * 17):
        state = {str(i): np.arange(n, dtype=np.uint8) for i, n in enumerate(sizes)}
        checkpoint.save(path, state)
        assert same(checkpoint.load(path), state)
        metadata = safetensors.safe_open(path, "np").metadata()
        assert len(metadata["tensors_crc32"]) == 8 * math.ceil(sum(sizes) / 8)


def test_scalars_and_subclasses_become_plain(path):
    state = {
        "f": np.float32(0.1),
        "i": np.int64(3),
        "b": np.bool_(True),
        "h": ml_dtypes.bfloat16(1.5),
        "s": np.str_("x"),
        "m": types.MappingProxyType({"a": 1}),
        "group": gs.SGD(np.ones(2), 0.5).groups[0],
        "map": np.ones(2).view(np.memmap),
    }
    checkpoint.save(path, state)
    loaded = checkpoint.load(path)
    group = loaded.pop("group")
    assert type(group) is dict
    assert group == dict(state["group"])
    expected = {"f": float(np.float32(0.1)), "i": 3, "b": True, "h": 1.5, "s": "x", "m": {"a": 1}}
    assert same(loaded, {**expected, "map": np.ones(2)})


def test_names(path):
    """Readable, and unique where places read the same."""
    one = np.ones(1, np.float32)
    checkpoint.save(
        path,
        {
            "state": {
                "layer.0.weight": {"exp_avg": one},
                "layer": {"0.weight": {"exp_avg": 2 * one}},
            },
            "average": {"weight": 3 * one},
            "list": [4 * one, (5 * one,)],
            "__metadata__": 6 * one,
        },
    )
    assert {name: a.item() for name, a in safetensors.numpy.load_file(path).items()} == {
        "layer.0.weight.exp_avg": 1,
        "layer.0.weight.exp_avg~2": 2,
        "average.weight": 3,
        "list.0": 4,
        "list.1.0": 5,
        "__metadata__~2": 6,
    }


def test_format(path):
    """As docs/checkpoints.md has it, read without any of our code."""
    checkpoint.save(path, STATE)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert list(header) == ["__metadata__", "weight.exp_avg", "bias.exp_avg", "weight.exp_avg_sq"]
    tensors = data[8 + length :]
    offsets = [header[name]["data_offsets"] for name in list(header)[1:]]
    assert offsets == [[0, 24], [24, 26], [26, 31]]
    assert len(tensors) == 31
    assert length % 8 == 0
    metadata = header["__metadata__"]
    assert metadata["gradstep_checkpoint"] == "1"
    assert metadata["tensors_crc32"] == f"{crc32(tensors):08x}"
    assert data[41:49].decode() == metadata["header_crc32"]
    assert metadata["header_crc32"] == f"{crc32(data[:41] + b'0' * 8 + data[49 : 8 + length]):08x}"
    structure = json.loads(metadata["structure"])
    assert structure["state"]["weight"] == {
        "step": 7,
        "exp_avg": {"$tensor": "weight.exp_avg"},
        "exp_avg_sq": {"$tensor": "weight.exp_avg_sq"},
    }
    assert structure["groups"][0]["betas"]["$tuple"][0] == 0.9
    assert structure["groups"][0]["lr"] == {"$schedule": {"schedule": "constant", "value": 0.1}}
    assert structure["stages"]["clip_norm"] == {"$float": "7ff0000000000000"}


def crc32(data):
    """ISO-HDLC, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("rule", "options"),
    [(rule, options) for rule in gs._core.rules() for options in OPTIONS[rule]],
    ids=itertools.count(),
)
def test_resume_is_bit_identical(rule, options, path):
    """To never having stopped."""
    rng = np.random.default_rng(0)
    # matrices, which every rule steps
    start = [rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((2, 2))]
    grads = [[[rng.standard_normal(p.shape).astype(p.dtype)] for p in start] for _ in range(10)]

    def build(params):
        groups = [{"params": [p], "name": name} for p, name in zip(params, "ab", strict=True)]
        constant = "lr" in gs.rule.RULES[rule].constant
        lr = 0.1 if constant else schedules.cosine(0.1, total=9)
        return getattr(gs, rule)(groups, **{**options, "lr": lr})

    def run(opt, steps):
        for k in steps:
            opt.step(grads[k], **wanted_by(rule))

    straight = [p.copy() for p in start]
    opt = build(straight)
    run(opt, range(5))
    checkpoint.save(path, opt.state_dict())
    halfway = [p.copy() for p in straight]
    run(opt, range(5, 10))
    for mapped in (False, True):
        resumed = [p.copy() for p in halfway]
        again = build(resumed)
        again.load_state_dict(checkpoint.load(path, mapped=mapped))
        run(again, range(5, 10))
        assert same(resumed, straight)
        assert same(again.state_dict(), opt.state_dict())
        assert not same(resumed, halfway)


# ---- what a file cannot hold ----


class Odd:
    def __repr__(self):
        return "<odd>"


ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (lambda: 0.1, TypeError, r"\(function\), which a file cannot hold; wanted a schedule"),
        (functools.partial(max, 1), TypeError, r"\(partial\), which a file cannot hold"),
        (Odd(), TypeError, r"got <odd> \(Odd\), wanted numbers, text"),
        ({1, 2}, TypeError, r"\(set\), wanted"),
        (b"x", TypeError, r"\(bytes\), wanted"),
        (1j, TypeError, r"\(complex\), wanted"),
        (np.longdouble(1), TypeError, r"\((longdouble|float128)\), wanted"),
        (np.timedelta64(1, "ns"), TypeError, r"\(timedelta64\), wanted"),
        ({1: 2}, TypeError, "got the key 1, wanted text keys"),
        ("\ud800", ValueError, "wanted text that UTF-8 has"),
        ({"\ud800": 2}, ValueError, "wanted text that UTF-8 has"),
        (2**2048, ValueError, "got an integer of 2049 bits, wanted at most 2048"),
        (-(2**5000), ValueError, "got an integer of 5001 bits"),
        (np.zeros(2, object), TypeError, "got dtype object, wanted one of bool"),
        (np.zeros(2, "U3"), TypeError, "got dtype <U3"),
        (np.zeros(2, ">f4"), TypeError, "got dtype >f4, .* in native byte order"),
        (np.zeros(2, complex), TypeError, "got dtype complex128"),
        (np.zeros(2, ml_dtypes.int4), TypeError, "got dtype int4"),
        (np.ma.zeros(2), TypeError, "got a masked array"),
        (ITSELF, ValueError, "got more than 100 levels, wanted fewer"),
    ],
    ids=itertools.count(),
)
def test_refused_before_a_byte_is_written(tmp_path, path, value, kind, message):
    place = re.escape("state_dict['groups'][0]['betas'][1]")
    with pytest.raises(kind, match=f"^{place}.*{message}"):
        checkpoint.save(path, {"groups": [{"betas": (0.9, value)}], "a": np.ones(3)})
    assert not list(tmp_path.iterdir())


def test_refused_arguments(tmp_path, path, monkeypatch):
    with pytest.raises(TypeError, match="state_dict: got list, wanted a mapping"):
        checkpoint.save(path, [])
    with pytest.raises(TypeError):
        checkpoint.save(3, {})
    monkeypatch.setattr(checkpoint, "_HEADER_LIMIT", 200)
    with pytest.raises(ValueError, match=r"take [0-9]+ bytes, wanted at most 200"):
        checkpoint.save(path, {"a": "x" * 100})
    assert not list(tmp_path.iterdir())


# ---- damage ----


def test_every_flipped_bit_and_every_truncation(path):
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    assert len(whole) < 2000
    names_it = re.escape(f"{path}: got ")
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            at = bit // 8
            os.pwrite(file.fileno(), bytes([whole[at] ^ 1 << bit % 8]), at)
            with pytest.raises(ValueError, match=names_it):
                checkpoint.load(path, mapped=bool(bit % 2))
            os.pwrite(file.fileno(), whole[at : at + 1], at)
        assert same(checkpoint.load(path), STATE)
        for length in reversed(range(len(whole))):
            file.truncate(length)
            refused(path, "truncated")


def test_random_damage(path, monkeypatch):
    """Bytes overwritten, zeroed, lost, inserted or swapped, over several pieces and tensors."""
    monkeypatch.setattr(checkpoint, "_PIECE", 1024)
    rng = random.Random(0)
    some = np.random.default_rng(0).standard_normal(500)
    checkpoint.save(path, {**STATE, "more": {"a": some, "b": some[::-1], "c": some[:9]}})
    whole = path.read_bytes()
    names_it = re.escape(f"{path}: got ")
    refusals = 0
    for i in range(3000):
        a, b = sorted(rng.randrange(len(whole)) for _ in range(2))
        b = min(b, a + 1 + rng.randrange(2000))
        data = bytearray(whole)
        match i % 5:
            case 0:
                data[a:b] = rng.randbytes(b - a)
            case 1:
                data[a:b] = bytes(b - a)
            case 2:
                del data[a:b]
            case 3:
                data[a:a] = rng.randbytes(b - a)
            case 4:
                data[a : a + 8], data[b : b + 8] = data[b : b + 8], data[a : a + 8]
        if data == whole:
            continue
        path.unlink()
        path.write_bytes(data)
        with pytest.raises(ValueError, match=names_it):
            checkpoint.load(path, mapped=i % 3 == 0)
        refusals += 1
    assert refusals > 2900


def test_damage_names_the_tensor(path):
    state = {name: np.zeros(200_000) for name in "abc"}  # 1.6 MB each
    checkpoint.save(path, state)
    whole = path.read_bytes()
    start = len(whole) - 3 * state["a"].nbytes
    for at, where in ((0, "'a'"), (1_500_000, "'a' to 'b'"), (4_700_000, "'c'")):
        data = bytearray(whole)
        data[start + at] = 1
        path.write_bytes(data)
        refused(path, rf"do not fit their checksum \({where}\): damaged")


def test_trailing_bytes(path):
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for more in (b"\0", b"x" * 5000):
        path.write_bytes(whole + more)
        refused(path, "bytes too many")


def test_foreign_files(path):
    for data, match in [
        (b"", "got 0 bytes"),
        (b"PK\3\4" * 100, "header length .* no safetensors file"),
        (b"\x80\4\x95" + bytes(100), "no safetensors file"),
        (b"\xff" * 8, "header length of 18,446,744,073,709,551,615 bytes, wanted at most"),
        ((10**8).to_bytes(8, "little") + b"{}", "truncated, or no safetensors file"),
        ((2).to_bytes(8, "little") + b"{}", "got no checkpoint of gradstep"),
        ((2).to_bytes(8, "little") + b"[]", "got no checkpoint of gradstep"),
        ((2).to_bytes(8, "little") + b"\xff\xff", "a header that is not JSON"),
        ((10**6).to_bytes(8, "little") + b"[" * 10**6, "a header that is not JSON"),
        ((3).to_bytes(8, "little") + b"NaN", "a header that is not JSON"),
        ((16).to_bytes(8, "little") + b'{"a":0,"a":1}   ', "a header that is not JSON"),
    ]:
        path.write_bytes(data)
        refused(path, match)
    for metadata in (None, {"format": "pt"}):
        safetensors.numpy.save_file({"a": np.ones(3)}, path, metadata)
        refused(path, "got no checkpoint of gradstep, wanted a file that gradstep saved")


def test_rewritten_by_another_program(path):
    checkpoint.save(path, STATE)
    ours, metadata = path.read_bytes(), safetensors.safe_open(path, "np").metadata()
    while path.read_bytes() == ours:  # its order of the metadata is random, and one of 24 is ours
        safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata)
    refused(path, "another program rewrote it")


def test_newer_version(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    checkpoint.save(path, STATE)
    assert same(checkpoint.load(path), STATE)
    monkeypatch.undo()
    refused(path, "got version 2 of the checkpoint format, wanted at most 1: a newer gradstep")


def lie(path, entries=None, metadata=None):
    """A file whose header fits its checksum, and nothing else need be true. None: left out."""
    one = np.ones(3, np.float32)
    checkpoint.save(path, {"a": one, "b": one})
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length]) | (entries or {})
    header["__metadata__"] |= metadata or {}
    for fields in (header, header["__metadata__"]):
        for key in [key for key, value in fields.items() if value is None]:
            del fields[key]
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(checkpoint._sealed(len(text).to_bytes(8, "little") + text) + data[length:])


def test_lie_without_a_lie(path):
    lie(path)
    one = np.ones(3, np.float32)
    assert same(checkpoint.load(path), {"a": one, "b": one})


F32 = {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (F32 | {"shape": [2**62], "data_offsets": [12, 12 + 2**64]}, "wanted .*: truncated"),
        (F32 | {"shape": [3, 2**20], "data_offsets": [12, 12 + 12 * 2**20]}, ": truncated"),
        (F32 | {"shape": [2], "data_offsets": [12, 20]}, "bytes too many"),
        (F32 | {"shape": [2**70, 0], "data_offsets": [12, 12]}, "got the entry|bytes too many"),
        (F32 | {"shape": [1] * 65}, "got the entry"),
        (F32 | {"shape": [9**99] * 10**5}, "got the entry"),
        (F32 | {"shape": [-3]}, "got the entry"),
        (F32 | {"shape": [3.0]}, "got the entry"),
        (F32 | {"shape": [True] * 3}, "got the entry"),
        (F32 | {"shape": 3}, "got the entry"),
        (F32 | {"dtype": "F64"}, "got the entry"),
        (F32 | {"dtype": "F8_E4M3"}, "got the entry"),
        (F32 | {"dtype": ["F32"]}, "got the entry"),
        (F32 | {"data_offsets": [0, 12]}, "got the entry"),  # over a
        (F32 | {"data_offsets": [16, 28]}, "got the entry"),  # a hole
        (F32 | {"data_offsets": [12]}, "got the entry"),
        (F32 | {"data_offsets": ["12", "24"]}, "got the entry"),
        (F32 | {"more": 1}, "got the entry"),
        ({"dtype": "F32"}, "got the entry"),
        ([1], "got the entry"),
        (None, "bytes too many"),
    ],
    ids=itertools.count(),
)
def test_lying_entry(path, entry, match):
    """Refused before memory is taken for what it claims."""
    lie(path, {"b": entry})
    tracemalloc.start()
    try:
        refused(path, match)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


MANY = 1_100_000  # bytes: smaller headers are not looked at before they are read


@pytest.mark.parametrize(
    "hollow",
    {
        "open brackets": lambda: b"[" * MANY,
        "empty lists": lambda: b"[" + b"[]," * (MANY // 3) + b"[]]",
        "empty objects": lambda: b'{"a":[' + b"{}," * (MANY // 3) + b"{}]}",
        "an entry of lists": lambda: (
            b'{"a":{"dtype":"F32","shape":[' + b"[]," * (MANY // 3) + b'[]],"data_offsets":[0,0]}}'
        ),
        "metadata of lists": lambda: b'{"__metadata__":[' + b"[]," * (MANY // 3) + b"[]]}",
    }.items(),
    ids=lambda row: row[0],
)
def test_brackets_take_no_memory(path, hollow):
    """Memory is in proportion to the file: an empty list of 3 bytes would take 64."""
    text = hollow[1]()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    try:
        refused(path, "damaged")
        assert tracemalloc.get_traced_memory()[1] < 6 * MANY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("unit", "times"), [("[],", 32), ("{},", 32), ('"",', 100), ("0,", 32), ('{"$tensor":0},', 60)]
)
def test_a_hollow_structure_takes_little_memory(path, unit, times):
    """What a save could have written is read, in some multiple of the file's size.

    Quotes within a text take the most: json keeps a piece for each of them for a while.
    """
    lie(path, metadata={"structure": '{"a":[' + unit * (MANY // len(unit)) + "0]}"})
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            checkpoint.load(path)
        assert tracemalloc.get_traced_memory()[1] < times * size
    finally:
        tracemalloc.stop()


def test_shape_that_numpy_refuses(path):
    for shape in ([2**70, 0], [2**62, 2**62, 0]):
        lie(path, {"c": {"dtype": "F32", "shape": shape, "data_offsets": [24, 24]}})
        refused(path, "got the shape .* for tensor 'c'")


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"structure": None}, "got the metadata"),
        ({"more": "1"}, "got the metadata"),
        ({"gradstep_checkpoint": "one"}, "got 'one' for the version"),
        ({"gradstep_checkpoint": 1}, "got 1 for the version"),
        ({"gradstep_checkpoint": "9" * 5000}, "for the version"),
        ({"structure": {}}, "got no structure"),
        ({"tensors_crc32": 0}, "a checksum for each piece"),
        ({"tensors_crc32": ""}, "a checksum for each piece"),
        ({"tensors_crc32": "0" * 16}, "a checksum for each piece"),
        ({"tensors_crc32": "-0000001"}, "a checksum for each piece"),
        ({"tensors_crc32": "0" * 8}, "fit their checksum"),
    ],
    ids=itertools.count(),
)
def test_lying_metadata(path, metadata, match):
    lie(path, metadata=metadata)
    refused(path, match)


AB = {"a": {"$tensor": "a"}, "b": {"$tensor": "b"}}


@pytest.mark.parametrize(
    ("structure", "match"),
    [
        ("{", "cannot be read"),
        ('{"a":NaN}', "got NaN, wanted JSON"),
        ('{"a":1,"a":1}', "got a key twice"),
        ("[" * 10**5, "cannot be read"),
        ('{"a":{"$tuple":' * 300 + "[]" + "}}" * 300, "got a structure"),
        ([], "does not fit the tensors"),
        ({}, "does not fit the tensors"),
        ({"a": {"$tensor": "a"}}, "does not fit the tensors"),
        (AB | {"c": {"$tensor": "a"}}, "cannot be read"),
        (AB | {"c": {"$tensor": ["a"]}}, "cannot be read"),
        (AB | {"c": {"$float": "00"}}, "cannot be read"),
        (AB | {"c": {"$float": "x"}}, "cannot be read"),
        (AB | {"c": {"$float": 1}}, "cannot be read"),
        (AB | {"c": {"$tuple": 1}}, "cannot be read"),
        (AB | {"c": {"$dict": 1}}, "cannot be read"),
        (AB | {"c": {"$dict": [[[], 1]]}}, "cannot be read"),
        (AB | {"c": {"$schedule": 1}}, "cannot be read"),
        (AB | {"c": {"$schedule": {}}}, "cannot be read"),
        (AB | {"c": {"$schedule": {"schedule": "none"}}}, "got 'none', wanted one of"),
        (AB | {"c": {"$schedule": {"schedule": "cosine"}}}, "missing"),
    ],
    ids=itertools.count(),
)
def test_lying_structure(path, structure, match):
    text = structure if isinstance(structure, str) else json.dumps(structure)
    lie(path, metadata={"structure": text})
    refused(path, match)


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match="state"):
        checkpoint.load(path)
    with pytest.raises(FileNotFoundError, match="none"):
        checkpoint.save(path.parent / "none" / "a", STATE)
    with pytest.raises(IsADirectoryError):
        checkpoint.load(path.parent)


# ---- whole or not at all ----


def run_writers(code, folder):
    """Run code in a process of its own, which may fork: it has one thread."""
    prelude = """
        import os, random, signal, time
        from pathlib import Path
        import numpy as np
        from gradstep import checkpoint
        folder = Path.cwd()
        path = folder / "state.safetensors"
        def save(i):
            checkpoint.save(path, {"t": i, "state": {"w": {"s": np.full(30_000, i)}}})
        def load():
            state = checkpoint.load(path)
            assert (state["state"]["w"]["s"] == state["t"]).all()
            return state["t"]
        def fork(work):
            if pid := os.fork():
                return pid
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
    """
    return run(textwrap.dedent(prelude) + textwrap.dedent(code), options=(), cwd=folder)


def test_killed_writers(tmp_path):
    """Whenever a writer is killed, the old or the new file is whole; the next save tidies up."""
    code = """
    def work(i):
        while True:
            i += 1
            save(i)
    save(0)
    start = time.perf_counter()
    for i in range(20):
        save(0)
    took = (time.perf_counter() - start) / 20
    rng, last, left = random.Random(0), 0, 0
    for kill in range(150):
        pid = fork(lambda: work(last))
        time.sleep(rng.uniform(0, 4) * took)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert load() >= last
        last = load()
        left += len(os.listdir(folder)) > 1
        assert len(os.listdir(folder)) <= 2
    save(-1)
    assert load() == -1
    print(last, left, *os.listdir(folder))
    """
    last, left, *files = run_writers(code, tmp_path).split()
    assert int(last) > 0
    assert int(left) > 0, "no kill came in the middle of a save"
    assert files == ["state.safetensors"]


def test_two_writers_at_once(tmp_path):
    code = """
    def work(i):
        for k in range(100):
            save(i)
    save(1)
    pids = {fork(lambda: work(1)), fork(lambda: work(2))}
    seen = set()
    while pids:
        seen.add(load())
        pid, status = os.waitpid(-1, os.WNOHANG)
        assert status == 0
        pids -= {pid}
    print(*seen, *os.listdir(folder))
    """
    assert run_writers(code, tmp_path).split() == ["1", "2", "state.safetensors"]


def test_stale_temporaries_are_swept_and_live_ones_are_not(tmp_path, path):
    stale = tmp_path / ".gradstep-0123456789abcdef.tmp"
    others = [tmp_path / name for name in (".gradstep-x.tmp", "a.tmp", "gradstep-0123456789abcdef")]
    for file in [stale, *others]:
        file.write_bytes(b"x")
    with checkpoint._replacing(path) as file:
        assert not stale.exists()
        file.write(b"mine")
        live = set(tmp_path.iterdir()) - set(others)
        assert len(live) == 1
        checkpoint.save(tmp_path / "other.safetensors", STATE)
        assert live < set(tmp_path.iterdir())
        assert not path.exists()
    assert path.read_bytes() == b"mine"
    assert set(tmp_path.iterdir()) == {path, tmp_path / "other.safetensors", *others}


def test_temporary_swept_before_its_lock(tmp_path, path, monkeypatch):
    """A sweep that comes between a writer's making its temporary and locking it."""
    fcntl = pytest.importorskip("fcntl")
    flock, swept = fcntl.flock, []

    def late(fd, how):
        if not swept:
            swept.append(True)
            checkpoint._sweep(tmp_path)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    checkpoint.save(path, STATE)
    assert swept
    assert same(checkpoint.load(path), STATE)
    assert list(tmp_path.iterdir()) == [path]


def test_no_locks_on_the_file_system(tmp_path, path, monkeypatch):
    def flock(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    stale = tmp_path / ".gradstep-0123456789abcdef.tmp"
    stale.touch()
    checkpoint.save(path, STATE)
    assert same(checkpoint.load(path), STATE)
    assert stale.exists()  # nobody knows whose it is


def test_threads_save_at_once(tmp_path, path):
    def work(i):
        for _ in range(20):
            checkpoint.save(path, {"t": i, "w": np.full(1000, i)})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = checkpoint.load(path)
    assert (state["w"] == state["t"]).all()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["write", "set_mode", "sync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_failures_leave_the_old_file(tmp_path, path, monkeypatch, call, error):
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def fail(*_):
        raise error

    owner, call = (checkpoint, "_write_tensors") if call == "write" else (files, call)
    monkeypatch.setattr(owner, call, fail)
    with pytest.raises(type(error)) as info:
        checkpoint.save(path, {"t": 8})
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert str(info.value) == f"[Errno {errno.EIO}] Input/output error: {str(path)!r}"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_volume_that_cannot_empty_its_cache(path, monkeypatch):
    """As some network volumes on macOS answer; any other error is the disk's."""
    monkeypatch.setattr(files.fcntl, "F_FULLFSYNC", 51, raising=False)
    for error, is_saved in ((errno.ENOTSUP, True), (errno.ENOTTY, True), (errno.EIO, False)):
        synced: list[int] = []

        def full(*_, error=error):
            raise OSError(error, "")

        with monkeypatch.context() as patched:
            patched.setattr(files.fcntl, "fcntl", full)
            patched.setattr(os, "fsync", synced.append)
            with contextlib.nullcontext() if is_saved else pytest.raises(OSError, match="state"):
                checkpoint.save(path, STATE)
        assert bool(synced) == is_saved


def test_full_disk(tmp_path, path):
    """As the system reports it: no file may grow beyond a limit."""
    resource = pytest.importorskip("resource")
    checkpoint.save(path, STATE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="state"):
            checkpoint.save(path, {"a": np.zeros(10**6)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(checkpoint.load(path), STATE)
    assert list(tmp_path.iterdir()) == [path]


def test_permissions(tmp_path, path):
    def mode(file):
        return stat.S_IMODE(file.stat().st_mode)

    umask = os.umask(0o027)
    try:
        checkpoint.save(path, STATE)
        (tmp_path / "plain").touch()
        assert mode(path) == mode(tmp_path / "plain") == 0o640
        for kept in (0o600, 0o666):
            path.chmod(kept)
            checkpoint.save(path, STATE)
            assert mode(path) == kept
    finally:
        os.umask(umask)


def test_protected_file_and_folder(tmp_path):
    """As somebody who is not root, whom nothing would stop."""
    code = """
    import tempfile
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "state.safetensors"
        save(0)  # imports what it needs while it may read where that lies
        load()
        path.unlink()
        if os.geteuid() == 0:
            os.chown(name, 65534, 65534)
            os.setgid(65534)
            os.setuid(65534)
        save(1)
        for protected, mode in (path, 0o600), (folder, 0o700):
            protected.chmod(mode & 0o500)
            try:
                save(2)
            except PermissionError as error:
                print(type(error).__name__, error.filename == str(path), *os.listdir(folder))
            protected.chmod(mode)
        print(load())
    """
    line = "PermissionError True state.safetensors"
    assert run_writers(code, tmp_path).splitlines() == [line, line, "1"]


def test_links(tmp_path, path):
    """A link stays one, and what it points to is replaced where it lies, or made."""
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "latest"
    link.symlink_to("folder/real")
    for t in (1, 2):
        checkpoint.save(link, {"t": t})
        assert link.is_symlink()
        assert checkpoint.load(folder / "real") == checkpoint.load(link) == {"t": t}
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        checkpoint.save(loop, STATE)
    assert loop.is_symlink()


def test_only_regular_files_are_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, kind in ((tmp_path, IsADirectoryError), (fifo, OSError)):
        with pytest.raises(kind, match="wanted a regular file"):
            checkpoint.save(path, STATE)
    assert list(tmp_path.iterdir()) == [fifo]


def test_replaced_while_mapped(path):
    checkpoint.save(path, STATE)
    before = checkpoint.load(path, mapped=True)
    array = before["state"]["weight"]["exp_avg"]
    assert not array.flags.writeable
    checkpoint.save(path, {"t": 8})
    assert same(before, STATE)


def test_memory(path):
    """Nothing is copied as a whole: a piece is all that saving takes."""
    state = {"a": np.zeros(4_000_000), "b": np.zeros(1_000_000, np.float32)}
    size = sum(array.nbytes for array in state.values())

    def peak(work):
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(lambda: checkpoint.save(path, state)) < 1e6
    assert peak(lambda: checkpoint.load(path, mapped=True)) < 1e6
    assert size <= peak(lambda: checkpoint.load(path)) < size + 1e6


def test_relative_and_text_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("a.safetensors", STATE)
    assert same(checkpoint.load("a.safetensors"), STATE)


def test_docs(tmp_path, monkeypatch):
    """The code of docs/checkpoints.md runs, one block after the other."""
    monkeypatch.chdir(tmp_path)
    docs = Path(__file__).parent.parent / "docs" / "checkpoints.md"
    blocks = re.findall(r"```python\n(.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["opt"].t == 1
    assert same(names["tensors"]["weight.exp_avg"], names["opt"].state["weight"]["exp_avg"])
    assert names["structure"]["t"] == 1


def test_a_plateau_is_saved_with_what_it_has_seen(tmp_path):
    plateau = gs.schedules.Plateau(gs.schedules.linear(1.0, 0.0, 100), gamma=0.5, patience=0)
    opt = gs.SGD(np.zeros(3), lr=plateau)
    for loss in (1.0, 2.0):
        plateau.observe(loss)
    opt.step(np.ones(3))
    opt.save(tmp_path / "a.safetensors")
    saved = opt.state_dict()
    plateau.observe(3.0)
    fresh = gs.SGD(np.zeros(3), lr=0.1)
    fresh.load(tmp_path / "a.safetensors")
    loaded = fresh.groups[0]["lr"]
    assert isinstance(loaded, gs.schedules.Plateau)
    assert loaded.multiplier == saved["groups"][0]["lr"].multiplier == 0.5
    assert fresh.step(np.ones(3)).lr == 0.5 * 0.99
