"""The specification of the storages, to the bit: how numbers lie in memory and how they round.

Plain NumPy beside reference.py. `encode` and `decode` turn numbers into what is stored and back;
`step` is a whole update of one parameter: decode, the rule of reference.py, encode, then the stages
that follow. A buffer's role says what it holds: "param", "gradient", "momentum", "second_moment" or
"maximum"; only blocks mind it.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

import gradstep as gs
import reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MASK = 2**64 - 1

# The states of each rule in the catalogue's order, absent ones counted, and their roles.
STATES = {
    name: {state.name: state.role for state in gs.rule.Rule(name).states}
    for name in gs._core.rules()
}

# Those that no step changes.
FIXED = {"p0", "init_params"}
# The states that the first of two passes changes, where there are two.
GATHERED = {
    "AdamW": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "LAMB": ("exp_avg", "exp_avg_sq"),
    "StableAdamW": ("exp_avg", "exp_avg_sq"),
    "Adafactor": ("variance",),
    "Prodigy": ("exp_avg", "exp_avg_sq", "s"),
    "DAdaptAdamW": ("exp_avg", "exp_avg_sq", "grad_sum"),
}


def bits(x):
    """The bits of float32 numbers, as uint32."""
    return np.asarray(x, np.float32).view(np.uint32)


def from_bits(x):
    return np.asarray(x).astype(np.uint32).view(np.float32)


# ---- random bits: a hash of where and when, no state ----

RUN = 512  # consecutive elements that share a hash


def mix(z):
    """64-bit integers, scrambled (the finaliser of splitmix64)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_bits(n, *, seed=0, t=1, key=0, buffer=0, start=0):
    """uint32, shape (n,), whose high bits are random: for elements start to start + n of a tensor.

    t counts the parameter's own updates from 1; buffer 0 is the parameter, 1 + s its s-th state.
    """
    h = 0
    runs = np.arange(start // RUN, (start + n - 1) // RUN + 1, dtype=np.uint64)
    for x in (seed, t, key, buffer, runs):
        h = mix(((h + 0x9E3779B97F4A7C15) & MASK) + x & MASK)
    j = np.arange(RUN, dtype=np.uint32)
    x = (h >> 32).astype(np.uint32)[:, None] + j * np.uint32(0x9E3779B1)
    x = (x ^ x >> 16) * (h.astype(np.uint32) | 1)[:, None]
    return x.reshape(-1)[start % RUN :][:n]


# ---- elements: one number each ----
# Rounding is to nearest, ties to even, where no random bits are given.


def to_bfloat16(x, random=None):
    b = bits(x)
    half = 0x7FFF + (b >> 16 & 1) if random is None else random >> 16
    nan = (b & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, b >> 16 | 0x40, b + half >> 16).astype(np.uint16).view(BFLOAT16)


def from_bfloat16(x):
    return from_bits(x.view(np.uint16).astype(np.uint32) << 16)


def to_float16(x, random=None):
    x = np.asarray(x, np.float32)
    if random is None:
        return x.astype(np.float16)
    sign, a = bits(x) >> 16 & 0x8000, bits(x) & 0x7FFFFFFF
    normal = a - 0x38000000 + (random >> 19) >> 13  # wraps where small
    u = (random >> 19).astype(np.float32) * np.float32(2.0**-13)
    small = a < 0x38800000  # below 2^-14: multiples of 2^-24
    steps = np.where(small, from_bits(a), 0) * np.float32(2.0**24) + u
    result = np.where(small, steps.astype(np.uint32), normal)
    result = np.where(a >= 0x47800000, 0x7C00, result)  # from 65536 on
    result = np.where(a > 0x7F800000, 0x7E00, result)
    return (result | sign).astype(np.uint16).view(np.float16)


# ---- split: a bfloat16 and the low 16 bits of its float32 master ----


def split(x):
    """The bfloat16 that the user sees and the int16 that completes it."""
    b = bits(x)
    e = b & 0x7FFFFFFF
    hi = b + 0x8000 >> 16
    low = (b - (hi << 16)).astype(np.uint16).view(np.int16)
    beyond = e >= 0x7F7F8000  # what would round to infinity keeps its upper half
    finite = e < 0x7F800000
    hi = np.where(beyond, b >> 16, hi)
    hi = np.where(e > 0x7F800000, hi | 0x40, hi)
    low = np.where(beyond, np.where(finite, 0x7FFF, 0), low)
    return hi.astype(np.uint16).view(BFLOAT16), low.astype(np.int16)


def unsplit(hi, low):
    """The master. Where the user wrote infinity, NaN or 0 over the bfloat16, that holds."""
    hi = hi.view(np.uint16).astype(np.uint32)
    h = hi & 0x7FFF
    written = (h >= 0x7F80) | ((h == 0) & (low < 0))
    return from_bits((hi << 16) + np.where(written, 0, low).astype(np.uint32))


# ---- blocks: a float32 scale, then codes ----


def q8_value(c):
    """What magnitude c stands for: its float's bits shifted, a fourth power in straight pieces."""
    return from_bits(np.maximum(bits(c), ROOT) - ROOT << 2)


def q8_code(y, random):
    """The integer beside the shifted bits of y >= 0."""
    f = from_bits((bits(y) >> 2) + ROOT)
    if random is not None:  # between 0 and 1, by so much that no sum below reaches either end
        f = f + from_bits(0x3F800001 | random >> 9 & 0x7FFF00) - np.float32(1.5)
    return np.rint(f).astype(np.int32)


ROOT = np.uint32(0x33200000)  # 128 stands for 1


def q4_value(c):
    """A small float, one bit of mantissa, without its hidden 1: 0, 1/2, 1, 2, 3, 5, 7, 11, 15 …"""
    return from_bits(ONE + (np.asarray(c).astype(np.uint32) << 22)) - np.float32(1)


def q4_code(y, random):
    b = bits(y + np.float32(1)) - ONE
    return (b + (0x200000 if random is None else random >> 10 & 0x3FFFFC) >> 22).astype(np.int32)


ONE = np.uint32(0x3F800000)


@dataclass(frozen=True)
class Blocks:
    """Blocks of `length` elements in codes of `width` bits; the last block may be shorter.

    Momentum has the sign in the highest bit of a code. What cannot be negative uses that bit for
    the magnitude, too, and is at least 1, so that it never becomes 0.

    A block lies as its scale, 4 bytes, little endian, then one code a byte, or two, the first in
    the lower half; an unused half is 0. All bytes 0 stand for 0.
    """

    length: int
    width: int
    value: Callable
    code: Callable

    def largest(self, role):
        return 2 ** (self.width - (role == "momentum")) - 1

    def nbytes(self, n):
        """Bytes of n elements."""
        rows, rest = divmod(n, self.length)
        whole = rows * (4 + self.length * self.width // 8)
        return whole + (4 + -(-rest * self.width // 8) if rest else 0)

    def encode(self, x, role, random):
        shape = (-(-x.size // self.length), self.length)

        def padded(values):
            whole = np.zeros(shape, values.dtype)
            whole.reshape(-1)[: x.size] = values.reshape(-1)
            return whole

        b = padded(bits(x))
        magnitude = b & 0x7FFFFFFF
        absmax = magnitude.max(axis=1, keepdims=True)
        bad = absmax >= 0x7F800000  # one infinity or NaN makes the whole block NaN
        last = self.value(np.uint32(self.largest(role)))
        absmax = np.maximum(from_bits(absmax), np.float32(2.0**-110))
        scale = absmax * (np.float32(1) / last)
        y = np.where(bad, np.float32(0), from_bits(magnitude) * (last / absmax))
        c = self.code(y, None if random is None else padded(random))
        c = c | (b >> 31 << self.width - 1) if role == "momentum" else np.maximum(c, 1)
        c = np.where(bad, 0, c).astype(np.uint8)
        c.reshape(-1)[x.size :] = 0
        if self.width == 4:
            c = c[:, ::2] | c[:, 1::2] << 4
        scale = np.where(bad, np.float32(np.nan), scale).astype("<f4")
        return np.hstack([scale.view(np.uint8), c]).reshape(-1)[: self.nbytes(x.size)]

    def decode(self, data, role, n):
        rows, row = -(-n // self.length), 4 + self.length * self.width // 8
        data = np.pad(data, (0, rows * row - data.size)).reshape(rows, row)
        scale = np.ascontiguousarray(data[:, :4]).view("<f4")
        c = data[:, 4:]
        if self.width == 4:
            c = np.stack([c & 15, c >> 4], axis=2).reshape(rows, self.length)
        x = self.value(c & self.largest(role)) * scale
        if role == "momentum":
            x = from_bits(bits(x) | c.astype(np.uint32) >> self.width - 1 << 31)
        return x.reshape(-1)[:n]


BLOCKS = {"q8": Blocks(256, 8, q8_value, q8_code), "q4": Blocks(64, 4, q4_value, q4_code)}


# ---- every storage ----

STORAGES = ("float32", "float64", "bfloat16", "float16", *BLOCKS)
ROUNDED = ("bfloat16", "float16", *BLOCKS)  # those that may round stochastically


def nbytes(storage, n):
    """Bytes of n elements."""
    if storage in BLOCKS:
        return BLOCKS[storage].nbytes(n)
    return n * (BFLOAT16 if storage == "bfloat16" else np.dtype(storage)).itemsize


@np.errstate(all="ignore")
def encode(storage, role, x, random=None):
    """What is stored for the numbers x, of any shape: float32, or float64 and rounded to it first.

    `random` is what `random_bits` gives, or None to round to nearest. Blocks give 1-D bytes.
    """
    if random is not None:
        random = random.reshape(x.shape)
    if storage in BLOCKS:
        return BLOCKS[storage].encode(x, role, random)
    if storage == "bfloat16":
        return to_bfloat16(x, random)
    if storage == "float16":
        return to_float16(x, random)
    return x.astype(storage)


@np.errstate(all="ignore")
def decode(storage, role, data, shape, dtype=np.float32):
    """The numbers of that shape that `data` stores."""
    if storage in BLOCKS:
        data = BLOCKS[storage].decode(data, role, math.prod(shape))
    elif storage == "bfloat16":
        data = from_bfloat16(data)
    return data.astype(dtype).reshape(shape)


def fresh(storage, role, shape, initial=0.0):
    """A state before the first update: nothing but bytes 0 where it starts at 0."""
    x = np.full(shape, initial, np.float64)
    data = encode(storage, role, x)
    return data if initial else np.zeros_like(data)


def default_stochastic(storage, role):
    """Whether a buffer rounds stochastically where nobody says how."""
    return storage in ROUNDED and (
        role in ("second_moment", "magnitude") or (role == "momentum" and storage == "q4")
    )


# ---- a whole update ----


@np.errstate(all="ignore")
def passes(
    rule,
    param,
    gradient,
    states,
    t,
    hyper,
    *,
    storages=None,
    stochastic=(),
    low=None,
    seed=0,
    key=0,
    start=0,
    factor=1.0,
    clip_value=math.inf,
    average=None,
    decay=0.0,
    copy=None,
):
    """Update t of one parameter, in place: decode, the rule, encode, then the stages.

    As reference.passes, it gives up sums and takes totals on its way.

    Args:
        states: what is stored of each state, by name; those that the options call for.
        hyper: the rule's hyperparameters, with `maximize`.
        storages: the storage of each state by name, where its dtype does not say it: "q8", "q4".
        stochastic: the names of the states, and "param", that round stochastically.
        low: the low halves, int16, where the parameter is split.
        factor: k, what the gradient is multiplied with.
        average: the running average of the parameter, in the dtype of the computation.
        copy: gets the parameter, rounded to nearest.
    """
    shape, T = param.shape, np.float64 if param.dtype == np.float64 else np.float32
    roles = {"param": "param", **STATES[rule]}
    kept = {"param": param.dtype.name}
    memory = {name: data for name, data in states.items() if name not in roles}
    states = {name: data for name, data in states.items() if name in roles}
    kept |= {name: (storages or {}).get(name, data.dtype.name) for name, data in states.items()}

    def write(buffer, name, x):
        random = None
        if name in stochastic:
            number = list(roles).index(name)
            random = random_bits(x.size, seed=seed, t=t, key=key, buffer=number, start=start)
        buffer[...] = encode(kept[name], roles[name], x, random)

    g = decode(gradient.dtype.name, "gradient", gradient, shape, T) * T(factor)
    limit = T(clip_value)
    g = np.where(g > limit, limit, np.where(g < -limit, -limit, g))
    p = decode(kept["param"], "param", param, shape, T).copy()
    if low is not None:
        p = unsplit(param, low)
    shapes = {n: shape if kept[n] in BLOCKS else data.shape for n, data in states.items()}
    x = {
        name: decode(kept[name], roles[name], data, shapes[name], T)
        for name, data in states.items()
    }

    # What a pass changes is stored after it; a second pass reads it as it was stored.
    gathered = GATHERED.get(rule, ()) if gs.rule.RULES[rule].gathers_for(hyper) else ()
    idle = {s.name for s in gs.rule.Rule(rule).states if s.option and not hyper[s.option]}
    epsilon = None if low is not None else float(ml_dtypes.finfo(param.dtype).eps)
    runs = reference.passes(rule, p, g, x | memory, t, hyper, epsilon)
    for changed in (gathered, set(states) - set(gathered) - FIXED):
        if changed is gathered:
            totals = yield next(runs)
        else:
            with contextlib.suppress(StopIteration):
                runs.send(totals)
        for name, data in states.items():
            if name in changed and name not in idle:
                write(data, name, x[name])
                x[name][...] = decode(kept[name], roles[name], data, shapes[name], T)
    if low is not None:
        param[...], low[...] = split(p)
        p = unsplit(param, low)
    else:
        write(param, "param", p)
        p = decode(kept["param"], "param", param, shape, T)
    if average is not None:
        with np.errstate(all="ignore"):
            average += T(1 - decay) * (p - average)
    if copy is not None:
        copy[...] = encode(copy.dtype.name, "param", p)


def step(*args, **options):
    """Update t of one parameter."""
    for _ in passes(*args, **options):
        pass
