"""Small trainings that every rule must do well in, and at which rates.

A rule joins by its row in `DIGITS` and, if it is element-wise, in `VALLEYS`; what one lacks,
`tests/test_structure.py` says.
"""

import contextlib
import functools
import importlib

import numpy as np

import gradstep as gs
import reference
from gradstep import demo

# ---- digits ----

# So small that a library's matrix products stay on one thread.
INPUTS, HIDDEN, CLASSES, BATCH, EPOCHS = 64, 24, 10, 96, 4
SEEDS = range(5)

LEARNED = 0.5  # of the first loss: how far it must fall

# As the rule's docstring says where to begin, and its defaults else. The run is short: where the
# docstring has a range, its upper end.
DIGITS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adagrad": {"lr": 0.05},
    "RMSprop": {"lr": 3e-3},
    "Adam": {"lr": 1e-2},
    "AdamW": {"lr": 1e-2},
    "LARS": {"lr": 10.0},
    "LAMB": {"lr": 0.05},
    "ScheduleFreeAdamW": {"lr": 2e-2},
    "Lion": {"lr": 5e-3},
    "Adadelta": {"lr": 3.0},
    "Adamax": {"lr": 0.05},
    "NAdam": {"lr": 1e-2},
    "RAdam": {"lr": 5e-2},
    "Rprop": {"lr": 1e-3},
    "ASGD": {"lr": 0.5},
    "Adafactor": {"lr": 0.03},
    "Muon": {"lr": 0.02},
    "Adan": {"lr": 1e-2},
    "AdEMAMix": {"lr": 1e-2},
    "ADOPT": {"lr": 1e-2},
    "SignSGD": {"lr": 5e-3},
    "StableAdamW": {"lr": 1e-2},
    "ScheduleFreeSGD": {"lr": 1.0},
    "Prodigy": {},
    "DAdaptAdamW": {},
    "DoG": {"reps_rel": 1e-2},
    "DoWG": {"lr": 0.3, "init_estim_sq_dist": 1.0},
    "PolyakSGD": {},
}

# Rates of their own magnify roundings from step to step: their reference computes in float32, too.
IN_SINGLE = {"Prodigy", "DoG", "DoWG"}


@functools.cache
def images(dtype):
    """The digits to train on, each image with a 1 behind it, by which a bias is a weight."""
    digits = demo.load()
    ones = np.ones((len(digits.train_x), 1))
    return np.hstack([digits.train_x, ones]).astype(dtype), digits.train_y


def is_whole(rule):
    """Whether a rule gets the network as one vector: what it sums is then a sum over all of it."""
    value = gs.rule.RULES[rule]
    return not (value.has_direction or value.factors)


def weights(dtype, whole):
    """A network's two layers, drawn in float32, as one array or two, with a row for each seed."""
    shapes = [(INPUTS + 1, HIDDEN), (HIDDEN + 1, CLASSES)]
    rngs = [np.random.default_rng(seed) for seed in SEEDS]
    drawn = [
        np.stack([rng.standard_normal(shape) / shape[0] ** 0.5 for rng in rngs]) for shape in shapes
    ]
    arrays = [np.hstack([w.reshape(len(w), -1) for w in drawn])] if whole else drawn
    return [array.astype(np.float32).astype(dtype) for array in arrays]


def layers(arrays):
    """Views of the two layers."""
    if len(arrays) == 2:
        return arrays
    first, second = np.split(arrays[0], [(INPUTS + 1) * HIDDEN], axis=1)
    return first.reshape(-1, INPUTS + 1, HIDDEN), second.reshape(-1, HIDDEN + 1, CLASSES)


def loss_and_gradients(arrays, x, y):
    """Each network's mean cross-entropy in nats, and its gradients as arrays of the same form.

    Args:
        arrays: the networks'.
        x: a batch for each, shape (networks, images, INPUTS + 1).
        y: what they show, shape (networks, images).
    """
    first, second = layers(arrays)
    hidden = np.maximum(x @ first, 0)
    hidden = np.concatenate([hidden, np.ones((*x.shape[:2], 1), x.dtype)], axis=2)
    scores = hidden @ second
    logs = scores - scores.max(axis=2, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=2, keepdims=True))
    wanted = np.eye(CLASSES, dtype=x.dtype)[y]
    errors = (np.exp(logs) - wanted) / x.dtype.type(x.shape[1])
    back = (errors @ second.swapaxes(1, 2) * (hidden > 0))[:, :, :-1]
    grads = [x.swapaxes(1, 2) @ back, hidden.swapaxes(1, 2) @ errors]
    if len(arrays) == 1:
        grads = [np.hstack([g.reshape(len(g), -1) for g in grads])]
    return -(logs * wanted).sum(axis=2).mean(axis=1), grads


def train(arrays, steps, shown):
    """The losses over all images before and after some epochs, shape (networks, 2).

    Args:
        arrays: the networks'.
        steps: for each network what makes an update, of its gradients and its batch's loss.
        shown: gives the arrays to evaluate.
    """
    x, y = images(arrays[0].dtype.type)
    count = len(steps)
    everything = np.broadcast_to(x, (count, *x.shape)), np.broadcast_to(y, (count, *y.shape))
    before, _ = loss_and_gradients(arrays, *everything)
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permuted(np.tile(np.arange(len(y)), (count, 1)), axis=1)
        for at in range(0, len(y) - BATCH + 1, BATCH):
            batch = order[:, at : at + BATCH]
            losses, grads = loss_and_gradients(arrays, x[batch], y[batch])
            for i, step in enumerate(steps):
                step([g[i] for g in grads], float(losses[i]))
    return np.stack([before, loss_and_gradients(shown(), *everything)[0]], axis=1)


def extra(rule, loss):
    """What a step of the rule takes besides the gradients."""
    return {"loss": loss} if gs.rule.RULES[rule].takes_loss else {}


def ours(rule, options):
    """The losses of networks in float32 that gradstep trains."""
    arrays = weights(np.float32, is_whole(rule))
    optimizers = [getattr(gs, rule)([a[i] for a in arrays], **options) for i in range(len(SEEDS))]

    def step(opt):
        return lambda grads, loss: opt.step(grads, **extra(rule, loss))

    def shown():
        with contextlib.ExitStack() as stack:
            for opt in optimizers:
                stack.enter_context(opt.averaged())
            return [array.copy() for array in arrays]

    steps = [step(opt) for opt in optimizers]
    return train(arrays, steps, shown if gs.rule.RULES[rule].shows else lambda: arrays)


class Twin:
    """A network that the reference trains."""

    def __init__(self, rule, options, arrays):
        opt = getattr(gs, rule)([array.copy() for array in arrays], **options)
        self.rule, self.arrays, self.group, self.count = rule, arrays, dict(opt.groups[0]), 0
        self.states = [
            {name: kept.copy() for name, kept in own.items() if name != "step"}
            for own in opt.state.values()
        ]

    def step(self, grads, loss):
        self.count += 1
        known = self.group | extra(self.rule, loss)
        for p, g, state in zip(self.arrays, grads, self.states, strict=True):
            passes = reference.passes(self.rule, p, g, state, self.count, known)
            found = next(passes)
            if gs.rule.RULES[self.rule].has_direction:
                found = reference.expected_direction(found, known)
            with contextlib.suppress(StopIteration):
                passes.send(found)

    def shown(self):
        show = reference.SHOWN[self.rule]
        pairs = zip(self.arrays, self.states, strict=True)
        return [show(p, state, **self.group) for p, state in pairs]


def reference_losses(rule, options):
    """Those of networks that the reference trains, in float64 if not `IN_SINGLE`."""
    arrays = weights(np.float32 if rule in IN_SINGLE else np.float64, is_whole(rule))
    twins = [Twin(rule, options, [a[i] for a in arrays]) for i in range(len(SEEDS))]

    def shown():
        return [np.stack(rows) for rows in zip(*(twin.shown() for twin in twins), strict=True)]

    steps = [twin.step for twin in twins]
    return train(arrays, steps, shown if gs.rule.RULES[rule].shows else lambda: arrays)


def torch_losses(rule, options):
    """Those of networks in float32 that torch's class of the rule's name trains."""
    torch = importlib.import_module("torch")
    arrays = weights(np.float32, is_whole(rule))
    known = {"lr": gs.rule.RULES[rule].defaults["lr"], **options}

    def made(i):
        tensors = [torch.from_numpy(array[i]).requires_grad_() for array in arrays]
        opt = getattr(torch.optim, rule)(tensors, **known)

        def step(grads, loss):
            del loss
            for tensor, g in zip(tensors, grads, strict=True):
                tensor.grad = torch.from_numpy(g)
            opt.step()

        return step

    return train(arrays, [made(i) for i in range(len(SEEDS))], lambda: arrays)


# ---- valleys ----

STEPS = 1000
STARTS = {
    "Rosenbrock": [[-1.2, 1.0], [-1.0, -1.0], [1.5, -0.5], [-0.5, 1.5], [2.0, 1.0]],
    "Beale": [[1.0, 1.0], [0.0, 0.0], [1.5, -0.5], [2.0, 1.0], [4.0, 0.5]],
}

# For each element-wise rule its arguments, and below what Rosenbrock's and Beale's functions fall
# from each of their STARTS in STEPS updates.
VALLEYS = {
    "SGD": ({"lr": 5e-4, "momentum": 0.9}, 0.5, 0.1),
    "Adagrad": ({"lr": 0.5}, 0.5, 1e-3),
    "RMSprop": ({"lr": 0.01}, 0.2, 0.01),
    "Adam": ({"lr": 0.1}, 0.2, 1e-3),
    "AdamW": ({"lr": 0.1}, 0.3, 0.01),
    "ScheduleFreeAdamW": ({"lr": 0.2}, 0.2, 1e-3),
    "Lion": ({"lr": 3e-3, "weight_decay": 0}, 0.2, 0.02),
    "Adadelta": ({"lr": 1.0}, 1.0, 0.6),
    "Adamax": ({"lr": 0.3}, 0.5, 1e-3),
    "NAdam": ({"lr": 0.05}, 0.4, 0.02),
    # Its first updates are as long as the gradients, which are large here.
    "RAdam": ({"lr": lambda k: 1e-5 if k < 6 else 0.1}, 2.0, 0.01),
    "Rprop": ({"lr": 0.01}, 0.02, 1e-3),
    "ASGD": ({"lr": 1e-3}, 1.0, 0.3),
    "ScheduleFreeSGD": ({"lr": 1e-3}, 5.0, 0.5),
    "Adan": ({"lr": 0.1}, 0.1, 0.02),
    "AdEMAMix": ({"lr": 0.2}, 1.5, 0.01),
    "ADOPT": ({"lr": 0.2}, 0.8, 1e-3),
    "SignSGD": ({"lr": 3e-3}, 0.8, 0.02),
}


def is_elementwise(rule):
    """Whether each element's update depends on its own gradients alone."""
    value = gs.rule.RULES[rule]
    return not (value.gathers or extra(rule, 0.0) or not is_whole(rule))


def rosenbrock(points):
    """Its values at points, shape (n, 2), and the gradients. Lowest, 0, at (1, 1)."""
    x, y = points.T
    slope = y - x * x
    gradients = np.stack([-2 * (1 - x) - 400 * x * slope, 200 * slope], axis=1)
    return (1 - x) ** 2 + 100 * slope**2, gradients


def beale(points):
    """The same of Beale's function. Lowest, 0, at (3, 1/2)."""
    x, y = points.T
    terms = [(a - x + x * y**n, y**n - 1, n * x * y ** (n - 1))
             for n, a in ((1, 1.5), (2, 2.25), (3, 2.625))]  # fmt: skip
    gradients = [2 * sum(t[0] * t[i] for t in terms) for i in (1, 2)]
    return sum(t[0] ** 2 for t in terms), np.stack(gradients, axis=1)


FUNCTIONS = {"Rosenbrock": rosenbrock, "Beale": beale}


def values_and_gradients(points):
    """Each function's values at its part of the points, and all gradients."""
    parts = np.split(points, len(FUNCTIONS))
    results = [f(part) for f, part in zip(FUNCTIONS.values(), parts, strict=True)]
    values = dict(zip(FUNCTIONS, (values for values, _ in results), strict=True))
    return values, np.concatenate([gradients for _, gradients in results])


def descend(rule, options):
    """The values of each function at the starts, and after STEPS updates of all points in one."""
    points = np.concatenate([np.array(STARTS[name]) for name in FUNCTIONS])
    opt = getattr(gs, rule)(points, **options)
    before, _ = values_and_gradients(points)
    for _ in range(STEPS):
        opt.step(values_and_gradients(points)[1])
    if not gs.rule.RULES[rule].shows:
        return before, values_and_gradients(points)[0]
    with opt.averaged():
        return before, values_and_gradients(points)[0]
