"""The tables that tests run over: a new rule joins them by adding its options."""

import numpy as np
import pytest

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
        {"cautious": True, "lr": 0.05},
        {"cautious_weight_decay": True, "weight_decay": 0.1},
        {"cautious": True, "cautious_weight_decay": True, "weight_decay": 0.1, "amsgrad": True},
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
    "Lion": [
        {},
        {"cautious": True},
        {"cautious_weight_decay": True, "weight_decay": 0.1},
        {"cautious": True, "cautious_weight_decay": True, "weight_decay": 0.1},
        {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1},
    ],
    "Adan": [{}, {"lr": 0.1, "betas": (0.5, 0.6, 0.9), "eps": 1e-3, "weight_decay": 0.1}],
    "AdEMAMix": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9, 0.99), "alpha": 2.0, "eps": 1e-3, "weight_decay": 0.1},
        {"alpha_warmup": 3, "beta3_warmup": 3},
    ],
    "ADOPT": [
        {},
        {"nesterov": True, "weight_decay": 0.1, "lr": 0.1, "betas": (0.5, 0.9)},
        {"use_clipping": False, "eps": 1e-3},
    ],
    "SignSGD": [{}, {"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.1, "lr": 0.1}],
    "StableAdamW": [{}, {"lr": 0.1, "betas": (0.5, 0.6), "weight_decay": 0.1, "eps": 0.5}],
    "Adafactor": [
        {},
        {"lr": 0.5, "beta2_decay": -0.3, "eps": (1e-5, 0.1), "d": 1.5, "weight_decay": 0.1},
    ],
    "Adadelta": [{}, {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}],
    "Adamax": [{}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}],
    "NAdam": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"momentum_decay": 0.3, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "RAdam": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1},
        {"betas": (0.8, 0.95), "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "Rprop": [{}, {"lr": 0.1, "etas": (0.3, 2.0), "step_sizes": (0.02, 0.3)}],
    "ASGD": [{}, {"lr": 0.1, "lambd": 0.3, "alpha": 0.5, "t0": 1.0, "weight_decay": 0.1}],
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
    "Muon": [
        {},
        {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.5, "nesterov": False, "ns_steps": 3},
        {"adjust_lr_fn": "match_rms_adamw", "ns_coefficients": "polar_express", "eps": 1e-3},
        {"splits": 2, "transposed": True, "dtype": "float64"},
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
# Those that step arrays of any shape; tests/test_muon.py has what wants matrices.
ANY_SHAPE = [rule for rule in EVERY if not gs.rule.RULES[rule].has_direction]
# Those whose step takes gradients alone; tests/test_ratefree.py has the life of the others.
RULES = [rule for rule in ANY_SHAPE if not given(rule)]
CASES = [(rule, options) for rule in ANY_SHAPE for options in OPTIONS[rule]]
CASES += [(rule, {**OPTIONS[rule][-1], "maximize": True}) for rule in ANY_SHAPE]
# Those whose rate may change from step to step: Rprop's is only what its steps start from.
DRIVEN = [rule for rule in RULES if "lr" not in gs.rule.RULES[rule].constant]
# Those that keep nothing but what is as exact as the parameter, and so refuse q8 and q4.
EXACT = [
    rule
    for rule in RULES
    if {state.role for state in gs.rule.RULES[rule].states} <= {"parameter", "rate"}
]

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

# Shapes, for rules that look at rows and columns: one element, around vectors and blocks, one row,
# one column, several bands of rows, many matrices, many within a block, nothing, and no rows.
MATRICES = [
    (1, 1),
    (3, 5),
    (16, 17),
    (1, 700),
    (700, 1),
    (512, 513),
    (130, 1025),
    (4, 3, 5),
    (2, 3, 40, 33),
    (50, 30, 3, 3),
    (0, 5),
    (5, 0),
    (0, 3, 2),
    (7,),
    (),
]


def gathers(rule, options):
    """Whether a rule looks at whole tensors, with these options."""
    return gs.rule.RULES[rule].gathers_for(options)


def table_row(*values, every_day, **named):
    """A row of a table; what every day's rows show in a sample, the slow ones show in full."""
    return pytest.param(*values, marks=() if every_day else pytest.mark.slow, **named)


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
