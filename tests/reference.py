"""The specification: every rule again in plain NumPy.

Each function makes one update in place, in the arrays' own dtype, in exactly the order of
operations that the kernels promise. Scalars are resolved in double and rounded once to that dtype.
The schedules' twin is reference_schedules.py.
"""

import math

import numpy as np


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


RULES = {
    "SGD": sgd,
    "Adagrad": adagrad,
    "RMSprop": rmsprop,
    "Adam": adam,
    "AdamW": adamw,
}


def step(rule, p, g, state, t, hyper):
    """Update t of parameter p, quietly: infinities and NaN are legal numbers here."""
    hyper = {key: value for key, value in hyper.items() if key != "frozen"}
    with np.errstate(all="ignore"):
        g = g * p.dtype.type(-1 if hyper.pop("maximize") else 1)
        RULES[rule](p, g, state, t, **hyper)


def sum_squares(arrays, block=512, segment=128 * 512, lanes=16):
    """The sum of squares in double, in the kernels' order of additions."""
    total = 0.0
    for array in arrays:
        flat = np.asarray(array).reshape(-1).astype(np.float64)
        for begin in range(0, flat.size, segment):
            part = 0.0
            for at in range(begin, min(begin + segment, flat.size), block):
                x = flat[at : min(at + block, begin + segment)]
                rows = np.zeros((-(-x.size // lanes), lanes))
                rows.reshape(-1)[: x.size] = x * x
                sums = np.zeros(lanes)
                for row in rows:
                    sums = sums + row
                half = lanes // 2
                while half:
                    sums[:half] = sums[:half] + sums[half : 2 * half]
                    half //= 2
                part += float(sums[0])
            total += part
    return total
