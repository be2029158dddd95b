"""The specification: every rule again in plain NumPy.

Each function makes one update in place, in the arrays' own dtype, in exactly the order of
operations that the kernels promise. Scalars are resolved in double and rounded once to that dtype.
The schedules' twin is reference_schedules.py.
"""

import math

import numpy as np

import gradstep as gs


def power(x, n):
    """x to the power n by squaring: the kernels' own sequence of roundings."""
    result = 1.0
    while n > 0:
        if n & 1:
            result *= x
        x *= x
        n >>= 1
    return result


def maximum(a, b):
    """The larger, where a NaN on either side is kept."""
    return np.where((a > b) | np.isnan(a), a, b)


def l2(g, p, weight_decay, dtype):
    weight_decay = dtype(weight_decay)
    return g + weight_decay * p if weight_decay != 0 else g


def sgd(p, g, state, t, *, lr, momentum, dampening, weight_decay, nesterov):
    T = p.dtype.type
    d = l2(g, p, weight_decay, T)
    if "momentum_buffer" in state:
        b = state["momentum_buffer"]
        b[...] = d if t == 1 else T(momentum) * b + T(1 - dampening) * d
        d = d + T(momentum) * b if nesterov else b
    p -= T(lr) * d


def adagrad(p, g, state, t, *, lr, lr_decay, weight_decay, initial_accumulator_value, eps):
    T = p.dtype.type
    g = l2(g, p, weight_decay, T)
    s = state["sum"]
    s += g * g
    p -= T(lr / (1 + (t - 1) * lr_decay)) * g / (np.sqrt(s) + T(eps))


def rmsprop(p, g, state, t, *, lr, alpha, eps, weight_decay, momentum, centered):
    T = p.dtype.type
    g = l2(g, p, weight_decay, T)
    v = state["square_avg"]
    v[...] = T(alpha) * v + T(1 - alpha) * g * g
    variance = v
    if centered:
        g_avg = state["grad_avg"]
        g_avg += T(1 - alpha) * (g - g_avg)
        variance = maximum(v - g_avg * g_avg, T(0))
    denom = np.sqrt(variance) + T(eps)
    if "momentum_buffer" in state:
        b = state["momentum_buffer"]
        b[...] = T(momentum) * b + g / denom
        p -= T(lr) * b
    else:
        p -= T(lr) * g / denom


def adam(p, g, state, t, *, lr, betas, eps, weight_decay, amsgrad):
    T = p.dtype.type
    beta1, beta2 = betas
    g = l2(g, p, weight_decay, T)
    m, v = state["exp_avg"], state["exp_avg_sq"]
    m += T(1 - beta1) * (g - m)
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    if amsgrad:
        largest = state["max_exp_avg_sq"]
        largest[...] = maximum(largest, v)
        v = largest
    denom = np.sqrt(v) / T(math.sqrt(1 - power(beta2, t))) + T(eps)
    p -= T(lr / (1 - power(beta1, t))) * m / denom


def adamw(p, g, state, t, *, lr, weight_decay, **adam_only):
    p *= p.dtype.type(1 - lr * weight_decay)
    adam(p, g, state, t, lr=lr, weight_decay=0, **adam_only)


def lamb(p, g, state, t, *, lr, betas, eps, weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    m, v = state["exp_avg"], state["exp_avg_sq"]

    def update():
        denom = np.sqrt(v) / T(math.sqrt(1 - power(beta2, t))) + T(eps)
        return T(1 / (1 - power(beta1, t))) * m / denom + T(weight_decay) * p

    m += T(1 - beta1) * (g - m)
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    sums = lane_sum(p), lane_sum(update())
    yield  # the second pass reads the states as they were stored
    p -= T(lr * trust_ratio(*sums)) * update()


def lars(p, g, state, t, *, lr, momentum, weight_decay, trust_coefficient, eps, nesterov):
    T = p.dtype.type
    u = g + T(weight_decay) * p
    scale = T(lr * trust_ratio(lane_sum(p), lane_sum(u), trust_coefficient, eps))
    yield
    d = scale * u
    if "momentum_buffer" in state:
        b = state["momentum_buffer"]
        b[...] = T(momentum) * b + d
        d = T(momentum) * b + d if nesterov else b
    p -= d


def lion(p, g, state, t, *, lr, betas, weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    m = state["exp_avg"]
    p[...] = p * T(1 - lr * weight_decay) - T(lr) * np.sign(m + T(1 - beta1) * (g - m))
    m += T(1 - beta2) * (g - m)


def trust_ratio(param, update, coefficient=1.0, eps=0.0):
    if param > 0 and update > 0:
        return coefficient * math.sqrt(param) / (math.sqrt(update) + eps)
    return 1.0


def half_power(x, exponent):
    whole = int(exponent)
    return power(x, whole) * (math.sqrt(x) if exponent > whole else 1.0)


def schedule_free_adamw(
    p, g, state, t, *, lr, betas, eps, weight_decay, warmup_steps, r, weight_lr_power
):
    T = p.dtype.type
    beta1, beta2 = betas
    z, v = state["z"], state["exp_avg_sq"]
    lr_max, weight_sum = state["lr_max"], state["weight_sum"]
    rate = lr * (t / warmup_steps if t < warmup_steps else 1.0)
    lr_max[0] = max(lr_max[0], rate)
    weight = half_power(float(t), r) * half_power(float(lr_max[0]), weight_lr_power)
    weight_sum[0] += weight
    c = weight / float(weight_sum[0]) if weight_sum[0] > 0 else 0.0
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    u = g / (np.sqrt(v / T(1 - power(beta2, t))) + T(eps)) + T(weight_decay) * p
    p[...] = T(1 - c) * p + T(c) * z + T(rate * (beta1 * (1 - c) - 1)) * u
    z -= T(rate) * u


def schedule_free_shown(p, state, *, betas, **_):
    """The point to evaluate."""
    return p + p.dtype.type(1 - 1 / betas[0]) * (state["z"] - p)


RULES = {
    "SGD": sgd,
    "Adagrad": adagrad,
    "RMSprop": rmsprop,
    "Adam": adam,
    "AdamW": adamw,
    "LARS": lars,
    "LAMB": lamb,
    "ScheduleFreeAdamW": schedule_free_adamw,
    "Lion": lion,
}
SHOWN = {
    "ScheduleFreeAdamW": schedule_free_shown
}  # of each rule that has another point to evaluate


def passes(rule, p, g, state, t, hyper):
    """Update t of parameter p, one pass at each ``next``, quietly: a NaN is a legal number here."""
    hyper = {key: value for key, value in hyper.items() if key != "frozen"}
    # An optional state whose hyperparameter is 0 in this step is left alone, as by PyTorch.
    idle = {s.name for s in gs.rule.Rule(rule).states if s.option and not hyper[s.option]}
    used = {name: array for name, array in state.items() if name not in idle}
    with np.errstate(all="ignore"):
        g = g * p.dtype.type(-1 if hyper.pop("maximize") else 1)
        run = RULES[rule](p, g, used, t, **hyper)
        if run is not None:
            next(run)
    yield
    with np.errstate(all="ignore"):
        for _ in run or ():
            pass


def step(rule, p, g, state, t, hyper):
    """Update t of parameter p."""
    for _ in passes(rule, p, g, state, t, hyper):
        pass


def fold(sums):
    """The sums of each sixteenth element as one, in the kernels' tree."""
    half = sums.size // 2
    sums = sums.copy()
    while half:
        sums[:half] = sums[:half] + sums[half : 2 * half]
        half //= 2
    return float(sums[0])


def in_lanes(x, lanes=16):
    """Numbers in double, a row for every sixteen, filled up with zeros."""
    rows = np.zeros((-(-x.size // lanes), lanes))
    rows.reshape(-1)[: x.size] = x
    return rows


def lane_sum(array, start=0, block=512, segment=128 * 512):
    """The sum of squares over a tensor, in double, as the first of two passes adds them up.

    Lanes go on through the blocks of a segment, whose sums then fold and add up. ``start``: where
    the array begins in its tensor.
    """
    x = np.square(np.asarray(array).reshape(-1).astype(np.float64))
    total, at = 0.0, 0
    while at < x.size:
        end = min(x.size, at + segment - (start + at) % segment)
        sums = np.zeros(16)
        while at < end:
            stop = min(end, at + block - (start + at) % block)
            rows = np.vstack([sums, in_lanes(x[at:stop])])
            sums = np.add.accumulate(rows, axis=0)[-1]
            at = stop
        total += fold(sums)
    return total


def sum_squares(arrays, block=512, segment=128 * 512):
    """The sum of squares in double, in the kernels' order of additions."""
    total = 0.0
    for array in arrays:
        flat = np.square(np.asarray(array).reshape(-1).astype(np.float64))
        for begin in range(0, flat.size, segment):
            part = 0.0
            for at in range(begin, min(begin + segment, flat.size), block):
                rows = in_lanes(flat[at : min(at + block, begin + segment)])
                part += fold(np.add.accumulate(np.vstack([np.zeros(16), rows]), axis=0)[-1])
            total += part
    return total
