"""The tables that tests run over: a new rule joins them by adding its options."""

import numpy as np

import gradstep as gs
import reference

# For each rule the hyperparameters to test besides its defaults.
OPTIONS = {
    "SGD": [
        {},
        {"weight_decay": 0.1, "lr": 0.05},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
    ],
    "Adagrad": [
        {},
        {"lr_decay": 0.1, "weight_decay": 0.1, "lr": 0.05},
        {"initial_accumulator_value": 0.5, "eps": 1e-3},
    ],
    "RMSprop": [
        {},
        {"weight_decay": 0.1, "alpha": 0.9},
        {"centered": True, "lr": 0.05, "eps": 1e-3},
        {"momentum": 0.9},
        {"centered": True, "momentum": 0.9, "weight_decay": 0.1},
    ],
    "Adam": [
        {},
        {"weight_decay": 0.1, "betas": (0.8, 0.95)},
        {"amsgrad": True},
        {"amsgrad": True, "weight_decay": 0.1, "eps": 1e-3, "lr": 0.05},
    ],
    "AdamW": [
        {},
        {"weight_decay": 0.0},
        {"weight_decay": 0.1, "eps": 1e-3},
        {"amsgrad": True, "betas": (0.0, 0.5), "lr": 0.1},
    ],
    "LARS": [
        {},
        {"momentum": 0, "lr": 2.0, "eps": 0.1},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "trust_coefficient": 0.1},
    ],
    "LAMB": [{}, {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1, "eps": 1e-3}],
    "ScheduleFreeAdamW": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"warmup_steps": 3, "r": 0.5, "weight_lr_power": 1.0},
    ],
    "Lion": [{}, {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1}],
    "ScheduleFreeSGD": [
        {},
        {
            "lr": 0.1,
            "momentum": 0.5,
            "weight_decay": 0.1,
            "warmup_steps": 3,
            "r": 0.5,
            "weight_lr_power": 1.0,
        },
    ],
    "Prodigy": [
        {},
        {
            "lr": 0.5,
            "betas": (0.5, 0.9),
            "eps": 1e-3,
            "weight_decay": 0.1,
            "decouple": False,
            "use_bias_correction": True,
            "d0": 1e-3,
            "growth_rate": 1.5,
        },
        {"beta3": 0.5, "weight_decay": 0.1, "safeguard_warmup": True, "d_coef": 2.0, "d0": 0.1},
    ],
    "PolyakSGD": [
        {},
        {"lr": 0.5, "max_learning_rate": 1e-4, "f_min": 0.25, "eps": 1e-3, "positive": True},
    ],
    "DoG": [{}, {"lr": 0.5, "reps_rel": 1e-2, "eps": 1e-3, "weight_decay": 0.1}],
    "DoWG": [
        {},
        {"lr": 0.5, "init_estim_sq_dist": 1e-2, "eps": 1e-3, "weight_decay": 0.1},
    ],
    "DAdaptAdamW": [
        {},
        {"lr": 0.5, "betas": (0.5, 0.9), "eps": 1e-3, "estim_lr0": 1e-2, "weight_decay": 0.1},
    ],
}
# First steps that bfloat16 can see, of rules whose rate has to grow.
BEGINS = {
    "Prodigy": {"d0": 1.0},
    "DAdaptAdamW": {"estim_lr0": 1.0},
    "DoG": {"reps_rel": 0.1},
    "DoWG": {"init_estim_sq_dist": 1.0},
}
LOSS = 0.75  # what a step of a rule that takes the loss is given


def given(rule):
    """What a step of a rule wants besides gradients."""
    return {"loss": LOSS} if gs.rule.Rule(rule).takes_loss else {}


# The rules that have all their parts: what one lacks, tests/test_structure.py says, once.
EVERY = [rule for rule in OPTIONS if rule in gs.rule.RULES and rule in reference.RULES]
# Those whose step takes gradients alone; tests/test_ratefree.py has the life of the others.
RULES = [rule for rule in EVERY if not given(rule)]
CASES = [(rule, options) for rule in EVERY for options in OPTIONS[rule]]
CASES += [(rule, {**OPTIONS[rule][-1], "maximize": True}) for rule in EVERY]

DTYPES = [np.float32, np.float64]

# What every rule has a loop of its own for; docs/storages.md says the same.
SHORT = {
    ("float32", "float32", "float32", False),
    ("float64", "float64", "float64", False),
    ("bfloat16", "bfloat16", "float32", True),
    ("float32", "float32", "q8", False),
}

BLOCK = gs._core.block_elements
# Nothing, one, around a vector of every target (2 to 16 lanes), around a block, several blocks.
SIZES = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    32,
    33,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK + 5,
    20 * BLOCK + 17,
]


def case_id(case):
    """A readable id for a row of CASES."""
    rule, options = case
    return f"{rule}({', '.join(f'{k}={v}' for k, v in options.items())})"


def special(rng, size, dtype):
    """Random numbers of many magnitudes with zeros, denormals, infinities and NaN among them."""
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-12, 4, size)
    odd = np.array(
        [
            0.0,
            -0.0,
            1e-310,
            np.finfo(dtype).tiny / 8,
            np.finfo(dtype).max / 2,
            np.inf,
            -np.inf,
            np.nan,
            1.0,
            -1.0,
        ]
    )
    where = rng.random(size) < 0.05
    with np.errstate(over="ignore", under="ignore"):
        return np.where(where, rng.choice(odd, size), x).astype(dtype)


def normal(rng, size, dtype):
    """Ordinary numbers."""
    return rng.standard_normal(size).astype(dtype)


def at_offset(x, offset):
    """A copy of x that starts `offset` elements behind a 64-byte boundary."""
    buffer = np.empty(x.size * x.itemsize + 64 + offset * x.itemsize, dtype=np.uint8)
    start = -buffer.ctypes.data % 64 + offset * x.itemsize
    view = buffer[start : start + x.nbytes].view(x.dtype)
    view[...] = x
    return view


def assert_same_bits(got, wanted, what=""):
    """Equal to the last bit, the sign of zero included; any NaN equals any NaN."""
    assert got.dtype == wanted.dtype, what
    assert got.shape == wanted.shape, what
    as_int = f"i{got.itemsize}"
    differ = (got.view(as_int) != wanted.view(as_int)) & ~(np.isnan(got) & np.isnan(wanted))
    if differ.any():
        i = int(np.argmax(differ.reshape(-1)))
        raise AssertionError(
            f"{what}: {differ.sum()} of {got.size} differ, first at {i}: "
            f"got {got.reshape(-1)[i]!r}, wanted {wanted.reshape(-1)[i]!r}"
        )
