"""The specification of the storages against facts that do not come from it."""

import ml_dtypes
import numpy as np
import pytest

import reference
import reference_storages as storages
from cases import assert_same_bits, special
from reference_storages import BFLOAT16, BLOCKS, bits, decode, encode, from_bits, random_bits

ROLES = ["momentum", "second_moment", "maximum"]
DRAWS = 4000


def all_of_16_bits(dtype):
    """Every number of the type."""
    return np.arange(2**16).astype(np.uint16).view(dtype)


def around(dtype):
    """float32: every number of a 16-bit type, the middle to the next, and what lies beside each."""
    with np.errstate(all="ignore"):
        x = all_of_16_bits(dtype).astype(np.float32)
        following = (np.arange(2**16) + 1).astype(np.uint16).view(dtype).astype(np.float32)
        middle = x / 2 + following / 2
        exact = np.concatenate([x, middle])
        near = [np.nextafter(exact, np.float32(to)) for to in (-np.inf, np.inf)]
    return np.concatenate([exact, *near])


def any_float32(seed, size=200_000):
    return from_bits(np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32))


def draws(x, storage, role="param", count=DRAWS):
    """Each number of x stored `count` times stochastically, float64, shape (count, n).

    Repeats are successive updates of one tensor, as in training.
    """
    return np.stack(
        [
            decode(storage, role, encode(storage, role, x, random_bits(x.size, t=t)), x.shape)
            for t in range(1, count + 1)
        ]
    ).astype(np.float64)


def assert_mean(drawn, wanted, gap, bias=0.0):
    """The mean over the draws is as wanted, within 6 standard errors of a number that is rounded
    to one of two neighbours `gap` apart, and a bias."""
    up = np.clip(np.abs(drawn.mean(axis=0) - drawn.min(axis=0)) / gap, 1 / len(drawn), 0.5)
    error = 6 * gap * np.sqrt(up / len(drawn))
    assert (np.abs(drawn.mean(axis=0) - wanted) <= error + bias).all()


# ---- random bits ----


def chi_square(counts):
    """In standard deviations above what independent uniform numbers give."""
    wanted = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom)


def joint(*bits_of):
    """How often each combination of the highest 3 bits occurs."""
    index = np.zeros(bits_of[0].shape, np.int64)
    for x in bits_of:
        index = index * 8 + (x >> 29)
    return np.bincount(index.reshape(-1), minlength=8 ** len(bits_of))


@pytest.fixture(scope="module")
def tensor():
    """The bits of 2^21 elements, by runs of 512."""
    return random_bits(2**21).reshape(-1, 512)


def test_bits_are_uniform(tensor):
    """Their highest 12 bits, over all elements and in each place of a run."""
    assert abs(chi_square(np.bincount(tensor.reshape(-1) >> 20, minlength=4096))) < 5
    for place in range(0, 512, 37):
        assert abs(chi_square(np.bincount(tensor[:, place] >> 27, minlength=32))) < 5


def test_bits_below_are_uniform(tensor):
    """Those that q8's 23 bits take, down to the 9th."""
    for shift in (9, 12, 16):
        counts = np.bincount((tensor >> shift & 255).reshape(-1), minlength=256)
        assert abs(chi_square(counts)) < 5


def test_elements_of_a_run_are_independent(tensor):
    """Near and far; a hash with one constant multiplier fails at most distances."""
    for lag in [*range(1, 33), *range(33, 512, 8), 91, 305, 324, 396]:
        count = max(64, 512 - lag)  # wraps within the run where that leaves too few
        a, b = tensor[:, :count], np.roll(tensor, -lag, axis=1)[:, :count]
        assert chi_square(joint(a, b)) < 5.5, lag


def test_three_elements_of_a_run_are_independent(tensor):
    for places in [(0, 1, 2), (0, 2, 4), (0, 16, 32), (1, 34, 305), (7, 100, 500)]:
        a, b, c = (np.roll(tensor, -place, axis=1)[:, :64] for place in places)
        assert abs(chi_square(joint(a, b, c))) < 5, places


def test_sums_of_a_run_spread_as_independent_numbers_do(tensor):
    """How many of a run lie below a threshold is binomial."""
    for part in (0.01, 0.1, 0.5):
        below = (tensor < part * 2**32).sum(axis=1)
        assert below.var() == pytest.approx(512 * part * (1 - part), rel=0.1)


NEIGHBOURS = [
    ({"t": 1}, {"t": 2}),
    ({"t": 1000}, {"t": 1001}),
    ({"buffer": 0}, {"buffer": 1}),
    ({"buffer": 1}, {"buffer": 2}),
    ({"key": 0}, {"key": 1}),
    ({"seed": 0}, {"seed": 1}),
    ({"t": 1, "key": 2}, {"t": 2, "key": 1}),
    ({"seed": 2, "t": 1}, {"seed": 1, "t": 2}),
    ({"start": 0}, {"start": 512}),
]


@pytest.mark.parametrize(("one", "other"), NEIGHBOURS)
def test_updates_buffers_keys_and_seeds_are_independent(one, other):
    n = 2**18
    a, b = random_bits(n, **one), random_bits(n, **other)
    assert abs(chi_square(joint(a, b))) < 5
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)


def test_successive_updates_of_an_element_are_independent():
    """Along t, where the stall of a slow average would show."""
    series = np.stack([random_bits(512, t=t, buffer=2) for t in range(1, 3001)])
    for lag in (1, 2, 3, 10):
        assert abs(chi_square(joint(series[:-lag], series[lag:]))) < 5
    assert abs(chi_square(joint(series[:-2], series[1:-1], series[2:]))) < 5


@pytest.mark.parametrize("start", [0, 1, 511, 512, 513, 5000])
def test_bits_of_a_shard_are_those_of_the_whole(start):
    whole = random_bits(7000, seed=3, t=5, key=9, buffer=1)
    for n in (0, 1, 511, 1024, 2000):
        part = random_bits(n, seed=3, t=5, key=9, buffer=1, start=start)
        assert (part == whole[start : start + n]).all()


def test_known_bits():
    """By hand, with Python's integers: nobody changes the hash unawares."""

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    h = 0
    for x in (7, 3, 11, 2, 4):
        h = mix((h + 0x9E3779B97F4A7C15 + x) % 2**64)
    x = ((h >> 32) + 10 * 0x9E3779B1) % 2**32
    x = (x ^ x >> 16) * (h % 2**32 | 1) % 2**32
    assert random_bits(1, seed=7, t=3, key=11, buffer=2, start=4 * 512 + 10) == [x]


# ---- bfloat16 and float16 ----


def test_load_is_exact():
    for dtype in (BFLOAT16, np.dtype(np.float16)):
        x = all_of_16_bits(dtype)
        assert_same_bits(decode(dtype.name, "param", x, x.shape), x.astype(np.float32))


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_nearest_is_what_others_do(name):
    dtype = {"bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}[name]
    x = np.concatenate([around(dtype), any_float32(0)])
    with np.errstate(all="ignore"):
        wanted = x.astype(dtype)
    got = encode(name, "param", x)
    nan = np.isnan(x)
    assert (np.isnan(got) == nan).all()
    assert_same_bits(got[~nan].view(np.uint16), wanted[~nan].view(np.uint16))


def test_float64_is_rounded_to_float32_first():
    """Twice, as the kernels do: the middle of two bfloat16 and a bit too little for float32."""
    x = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 3 * 2.0**-8 - 2.0**-40])
    assert_same_bits(encode("bfloat16", "param", x), x.astype(np.float32).astype(BFLOAT16))
    assert encode("bfloat16", "param", x)[0] == 1


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_stochastic_leaves_what_can_be_represented(name):
    dtype = {"bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}[name]
    every = all_of_16_bits(dtype)
    x = every.astype(np.float32)
    for random in (0, 2**32 - 1, *random_bits(6)):
        got = encode(name, "param", x, np.full(x.size, random, np.uint32))
        nan = np.isnan(x)
        assert (np.isnan(got) == nan).all()
        assert (got[~nan].view(np.uint16) == every[~nan].view(np.uint16)).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_stochastic_gives_a_neighbour(name):
    """The one towards 0 or the next away from it, with the sign of the number."""
    x = np.concatenate([around(np.float16), any_float32(1)])
    x = x[~np.isnan(x)]
    down = encode(name, "param", x, np.zeros(x.size, np.uint32))
    up = encode(name, "param", x, np.full(x.size, 2**32 - 1, np.uint32))
    low, high = (np.abs(decode(name, "param", y, x.shape)) for y in (down, up))
    some = encode(name, "param", x, random_bits(x.size)).view(np.uint16)
    assert ((some == down.view(np.uint16)) | (some == up.view(np.uint16))).all()
    assert (up.view(np.uint16) - down.view(np.uint16) <= 1).all()
    assert ((low <= np.abs(x)) | (np.abs(x) >= 65536)).all()
    assert (np.signbit(down.astype(np.float32)) == np.signbit(x)).all()
    # What no random bits move is hardly above its lower neighbour.
    still = (low == high) & np.isfinite(low)
    assert (np.abs(x[still]) - low[still] <= 2.0**-20 * np.maximum(low[still], 2.0**-14)).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 2.0**-16, 2.0**-24], ids=str)
def test_stochastic_is_unbiased(name, scale):
    """Over 4,000 updates; the bits that are left out cost 2^-13 of a gap at most."""
    x = (np.random.default_rng(0).uniform(-8, 8, 300) * scale).astype(np.float32)
    drawn = draws(x, name)
    gap = drawn.max(axis=0) - drawn.min(axis=0)
    gap = np.where(gap > 0, gap, np.abs(x) * 2.0**-7 + 2.0**-24)
    assert_mean(drawn, x.astype(float), gap, bias=gap * 2.0**-13)


def test_bfloat16_does_not_stall():
    """A slow average arrives where it should, where nearest sticks (β₂ = 0.999)."""
    g = np.random.default_rng(0).standard_normal((4000, 300)).astype(np.float32) * 0.3
    ends = {}
    for rounding in ("nearest", "stochastic", "float32"):
        v = np.full(300, 1.0, np.float32)
        for t, row in enumerate(g, start=1):
            v = np.float32(0.999) * v + np.float32(0.001) * row * row
            if rounding != "float32":
                random = random_bits(300, t=t) if rounding == "stochastic" else None
                v = decode("bfloat16", "second_moment", encode("bfloat16", "", v, random), v.shape)
        ends[rounding] = v.mean()
    assert ends["stochastic"] == pytest.approx(ends["float32"], rel=0.03)
    assert ends["nearest"] > 2 * ends["float32"]


# ---- split ----


def pairs():
    """Every upper half with a sample of lower halves."""
    hi = np.arange(2**16, dtype=np.uint32)
    odd = [0, 1, 2, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF]
    random = np.random.default_rng(0).integers(0, 2**16, 7)
    return [from_bits(hi << 16 | int(low)) for low in (*odd, *random)]


def test_split_and_back():
    """Exact, except for NaN's payload and the last half gap of bfloat16 before infinity."""
    for x in pairs():
        hi, low = storages.split(x)
        assert (hi.dtype, low.dtype) == (BFLOAT16, np.int16)
        back = storages.unsplit(hi, low)
        largest = from_bits(0x7F7F7FFF)
        wanted = np.where(np.isfinite(x) & (np.abs(x) > largest), np.copysign(largest, x), x)
        assert_same_bits(back, wanted)


def test_upper_half_is_the_nearest_bfloat16():
    """Ties away from zero; never infinite where the number is not."""
    for x in pairs():
        hi, _ = storages.split(x)
        assert (np.isnan(hi) == np.isnan(x)).all()
        assert (np.isinf(hi) == np.isinf(x)).all()
        with np.errstate(all="ignore"):
            nearest = x.astype(BFLOAT16).astype(np.float32)
            tie = (bits(x) & 0xFFFF) == 0x8000
        plain = np.isfinite(nearest) & ~tie & ~np.isnan(x)
        assert (hi[plain].astype(np.float32) == nearest[plain]).all()
        tied = np.isfinite(nearest) & tie
        assert (np.abs(hi[tied].astype(np.float32)) > np.abs(x[tied])).all()


def test_edits_of_the_upper_half():
    """Whatever the user writes there is read back within half a gap, and NaN only where written."""
    hi = all_of_16_bits(BFLOAT16)
    written = hi.astype(np.float32)
    for low in (0, 1, 0x7FFF, -1, -0x8000, 1234, -4321):
        master = storages.unsplit(hi, np.full(hi.shape, low, np.int16))
        assert (np.isnan(master) == np.isnan(written)).all()
        assert (np.isinf(master) == np.isinf(written)).all()
        assert (np.signbit(master) == np.signbit(written)).all()
        finite = np.isfinite(written)
        distance = np.abs(bits(master).astype(np.int64) - bits(written).astype(np.int64))
        assert (distance[finite] <= 2**15).all()


def test_split_steps_as_float32_does():
    """The same gradients, the same master to the last bit, over many steps."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 100)).astype(np.float32)
    p, low = storages.split(start)
    hyper = {"maximize": False, "lr": 0.01, "weight_decay": 0.01}
    hyper |= {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
    hyper |= {"cautious": False, "cautious_weight_decay": False}
    states = [{n: np.zeros_like(start) for n in ("exp_avg", "exp_avg_sq")} for _ in range(2)]
    for t in range(1, 50):
        g = special(rng, start.size, np.float32).reshape(start.shape)
        g[~np.isfinite(g)] = 1
        reference.step("AdamW", start, g, states[0], t, hyper)
        storages.step("AdamW", p, g, states[1], t, hyper, low=low)
    assert_same_bits(storages.unsplit(p, low), start)
    for name, state in states[0].items():
        assert_same_bits(states[1][name], state, name)


# ---- q8 and q4 ----


def values(storage, role):
    """What every code stands for, by rising magnitude, times the scale."""
    blocks = BLOCKS[storage]
    return blocks.value(np.arange(blocks.largest(role) + 1))


def sample(seed, n, role, sigma=2.0):
    """Numbers that spread over many magnitudes."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(n) * np.exp(sigma * rng.standard_normal(n))).astype(np.float32)
    return x if role == "momentum" else x * x


def scales(storage, role, x):
    """Each element's scale, from the largest of its block."""
    length = BLOCKS[storage].length
    top = [np.abs(x[at : at + length]).max() for at in range(0, x.size, length)]
    scale = np.array(top, np.float32) / values(storage, role)[-1]
    return np.repeat(scale, length)[: x.size].astype(float)


def gaps(storage, role, x):
    """The stored numbers at and above each |x|."""
    v, scale = values(storage, role).astype(float), scales(storage, role, x)
    i = np.clip(np.searchsorted(v, np.abs(x) / scale, side="right"), 1, len(v) - 1)
    return v[i - 1] * scale, v[i] * scale


def test_values_are_what_the_docs_say():
    """The ends, and how many codes a binade has."""
    m, v = values("q8", "momentum"), values("q8", "second_moment")
    assert (m[0], m[1], m[-1], v[-1]) == (0, 2.0**-28, 0.96875, 15.75)
    for top, per_binade, codes in [(1, 16, m), (1 / 16, 8, m), (16, 32, v), (1, 16, v)]:
        for binade in range(4):
            high = top / 2**binade
            assert ((codes >= high / 2) & (codes < high)).sum() == per_binade
    assert list(values("q4", "momentum")) == [0, 0.5, 1, 2, 3, 5, 7, 11]
    assert list(values("q4", "maximum")[8:]) == [15, 23, 31, 47, 63, 95, 127, 191]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("storage", BLOCKS)
class TestBlocks:
    def test_size(self, storage, role):
        """A scale a block and one code an element, in whole bytes."""
        length, width = BLOCKS[storage].length, BLOCKS[storage].width
        for n in [0, 1, 2, 3, length - 1, length, length + 1, 5 * length, 5 * length + 3]:
            whole, rest = divmod(n, length)
            wanted = whole * (4 + length * width // 8)
            wanted += 4 + (rest * width + 7) // 8 if rest else 0
            data = encode(storage, role, np.ones(n, np.float32))
            assert data.dtype == np.uint8
            assert data.shape == (wanted,) == (storages.nbytes(storage, n),)
            assert (decode(storage, role, data, (n,)) == 1).all()
        per_parameter = 2 * storages.nbytes(storage, 2**20) / 2**20
        assert per_parameter <= {"q8": 2.1, "q4": 1.2}[storage]

    def test_codes_are_monotone(self, storage, role):
        """A larger number never has a smaller code, up to the largest code, which all reach."""
        blocks = BLOCKS[storage]
        v = values(storage, role)
        assert (np.diff(v) > 0).all()
        y = np.sort(np.concatenate([v, np.random.default_rng(0).uniform(0, v[-1], 5000) ** 4]))
        y = y[y <= v[-1]].astype(np.float32)
        codes = blocks.code(y, None)
        assert (np.diff(codes) >= 0).all()
        assert set(codes) == set(range(blocks.largest(role) + 1))
        assert (blocks.code(v, None) == np.arange(v.size)).all()

    def test_error_of_nearest(self, storage, role):
        """Half the distance of neighbouring codes; where the two lie wide apart, all of it."""
        x = sample(1, 50_000, role)
        got = decode(storage, role, encode(storage, role, x), x.shape)
        low, high = gaps(storage, role, x)
        straight = high < 1.9 * low if storage == "q8" else low > 0
        error = np.abs(np.abs(got) - np.abs(x))
        slack = 1e-5 * high
        assert (error <= np.where(straight, 0.5, 1) * (high - low) + slack).all()
        if role == "momentum":
            assert (np.signbit(got) == np.signbit(x)).all()
        else:
            assert (got > 0).all()

    @pytest.mark.parametrize("stochastic", [False, True])
    def test_the_largest_of_a_block_stays(self, storage, role, stochastic):
        x = sample(2, 20_000, role)
        random = random_bits(x.size) if stochastic else None
        got = decode(storage, role, encode(storage, role, x, random), x.shape)
        largest = np.abs(x) >= (1 - 1e-6) * scales(storage, role, x) * values(storage, role)[-1]
        assert largest.sum() >= x.size // BLOCKS[storage].length
        close = np.abs(got[largest] - x[largest]) <= 1e-6 * np.abs(x[largest])
        assert close.mean() > 0.98  # one in 2^16 may be a code below where it is stochastic

    def test_nearest_again_changes_nothing(self, storage, role):
        x = sample(3, 50_000, role)
        once = decode(storage, role, encode(storage, role, x), x.shape)
        twice = decode(storage, role, encode(storage, role, once), x.shape)
        np.testing.assert_allclose(twice, once, rtol=1e-6)

    def test_stochastic_gives_a_neighbour(self, storage, role):
        x = sample(4, 50_000, role)
        got = decode(storage, role, encode(storage, role, x, random_bits(x.size)), x.shape)
        low, high = gaps(storage, role, x)
        least = 0 if role == "momentum" else values(storage, role)[1] * scales(storage, role, x)
        near = [np.abs(np.abs(got) - np.maximum(y, least)) <= 1e-6 * y for y in (low, high)]
        assert (near[0] | near[1]).mean() > 0.999  # except for numbers beside a code

    def test_stochastic_is_unbiased(self, storage, role):
        """In value, between codes of one binade, which q4's all are and q8's but the lowest 4."""
        v = values(storage, role).astype(float)
        lowest = 4 if storage == "q8" else 0 if role == "momentum" else 1
        rng = np.random.default_rng(5)
        length = BLOCKS[storage].length
        i = rng.integers(lowest, v.size - 1, length)
        x = v[i] + rng.random(length) * (v[i + 1] - v[i])
        x[0] = v[-1]  # so that the scale is 1
        gap = v[i + 1] - v[i]
        x = x.astype(np.float32)
        drawn = draws(x, storage, role)
        assert_mean(drawn, x.astype(float), gap, bias=gap * 2.0**-14)

    def test_zero(self, storage, role):
        """Momentum keeps it, with its sign; what is divided by does not become it."""
        x = sample(6, 3000, role)
        zero = np.arange(x.size) % 3 == 0
        x[zero] = 0
        x[::6] = -0.0
        for random in (None, random_bits(x.size), np.full(x.size, 2**32 - 1, np.uint32)):
            got = decode(storage, role, encode(storage, role, x, random), x.shape)
            if role == "momentum":
                assert_same_bits(got[zero], x[zero])
            else:
                least = values(storage, role)[1] * scales(storage, role, x)
                np.testing.assert_allclose(got[zero], least[zero], rtol=1e-6)

    def test_nothing_but_zeros(self, storage, role):
        """A block of them is 0 again; so is a fresh state, whose bytes all are."""
        n = 3 * BLOCKS[storage].length + 5
        data = encode(storage, role, np.zeros(n, np.float32))
        assert (decode(storage, role, data, (n,)) < 2.0**-110).all()
        fresh = storages.fresh(storage, role, (n,))
        assert not fresh.any()
        assert not decode(storage, role, fresh, (n,)).any()

    @pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
    def test_one_that_is_not_finite_makes_its_block_nan(self, storage, role, odd):
        """And no other block; the codes are 0."""
        length = BLOCKS[storage].length
        x = sample(7, 4 * length, role)
        x[length + 3] = odd
        data = encode(storage, role, x)
        got = decode(storage, role, data, x.shape)
        block = np.arange(x.size) // length
        assert (np.isnan(got) == (block == 1)).all()
        rows = data.reshape(4, -1)
        assert not rows[1, 4:].any()
        assert list(rows[1, :4]) == [0, 0, 0xC0, 0x7F]

    def test_extremes(self, storage, role):
        """From the smallest to the largest numbers; q8's momentum ends a 32nd before float32."""
        top = 0.96 if (storage, role) == ("q8", "momentum") else 1
        for largest in (top * np.finfo(np.float32).max, 1e30, 1e-30, 2.0**-126, 2.0**-140):
            x = np.linspace(0, 1, 600, dtype=np.float32) * np.float32(largest)
            with np.errstate(under="ignore"):
                got = decode(storage, role, encode(storage, role, x), x.shape)
            assert np.isfinite(got).all()
            assert (got / 1.01 <= max(x.max(), 2.0**-110)).all()
        beyond = np.full(600, np.finfo(np.float32).max)
        got = decode(storage, role, encode(storage, role, beyond), beyond.shape)
        assert not np.isfinite(got).any() if top < 1 else (got > 3.4e38).all()

    def test_no_code_overflows(self, storage, role):
        """Whatever the largest of a block is, it gets the largest code or the one below."""
        length = BLOCKS[storage].length
        top = any_float32(9, 4000) if role == "momentum" else np.abs(any_float32(9, 4000))
        top = top[(np.abs(top) > 1e-30) & (np.abs(top) < 3.2e38)]
        x = np.repeat(top, length)
        for random in (None, np.zeros(x.size, np.uint32), np.full(x.size, 2**32 - 1, np.uint32)):
            got = decode(storage, role, encode(storage, role, x, random), x.shape)
            down = {"q8": 0.07, "q4": 0.4}[storage]  # one code, where rounding brings it below
            np.testing.assert_allclose(got, x, rtol=1e-6 if random is None else down)

    def test_blocks_are_independent(self, storage, role):
        """Encoded one by one they are what they are together."""
        length = BLOCKS[storage].length
        x = sample(8, 3 * length + 7, role)
        random = random_bits(x.size)
        parts = [
            encode(storage, role, x[at : at + length], random[at : at + length])
            for at in range(0, x.size, length)
        ]
        assert (np.concatenate(parts) == encode(storage, role, x, random)).all()


def test_q4_packs_two():
    """The first of a pair in the lower half; the sign is the highest bit; the rest is 0."""
    data = encode("q4", "momentum", np.array([11, -1, 0.5, -0.0, 3], np.float32))
    assert data[:4].view("<f4") == 1
    assert list(data[4:]) == [7 | (8 | 2) << 4, 1 | 8 << 4, 4]
    data = encode("q4", "second_moment", np.array([191, 0, 1], np.float32))
    assert list(data[4:]) == [15 | 1 << 4, 2]


# ---- the whole step ----


def test_step_without_storages_is_the_rule():
    """In float32 and float64 there is nothing to round."""
    rng = np.random.default_rng(0)
    hyper = {"lr": 0.1, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": True}
    hyper |= {"maximize": True}
    for T in (np.float32, np.float64):
        p = special(rng, 600, T).reshape(20, 30)
        state = {n: np.abs(special(rng, 600, T)).reshape(p.shape) for n in storages.STATES["Adam"]}
        p2, state2 = p.copy(), {name: array.copy() for name, array in state.items()}
        for t in range(1, 5):
            g = special(rng, 600, T).reshape(p.shape)
            reference.step("Adam", p, g, state, t, hyper)
            storages.step("Adam", p2, g, state2, t, hyper)
        assert_same_bits(p2, p)
        for name, array in state.items():
            assert_same_bits(state2[name], array, name)


def test_step_stages():
    """Factor, then clip, then the rule, then the average and the copy of what is stored."""
    hyper = {"lr": 1.0, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0}
    hyper |= {"nesterov": False, "maximize": True}
    p = np.array([1.0, 1.0, 1.0, np.nan], ml_dtypes.bfloat16)
    g = np.array([1, -8, 2.0**-12, 0], np.float16)
    average, copy = np.zeros(4, np.float32), np.zeros(4, np.float64)
    storages.step(
        "SGD", p, g, {}, 1, hyper, factor=0.5, clip_value=2, average=average, decay=0.75, copy=copy
    )
    assert list(p[:3].astype(float)) == [1.5, -1, 1]
    assert list(copy[:3]) == [1.5, -1, 1]
    assert list(average[:3]) == [0.375, -0.25, 0.25]
    assert np.isnan(copy[3])
