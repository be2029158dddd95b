"""The specification: every rule again in plain NumPy.

Each function makes one update in place, in the arrays' own dtype, in exactly the order of
operations that the kernels promise. Scalars are resolved in double and rounded once to that dtype.
The schedules' twin is reference_schedules.py.
"""

import contextlib
import math

import numpy as np

import gradstep as gs
import reference_schedules as schedules


def power(x, n):
    """x to the power n by squaring: the kernels' own sequence of roundings."""
    result = 1.0
    while n > 0:
        if n & 1:
            result *= x
        x *= x
        n >>= 1
    return result


def power_of_any(base, exponent):
    """base to any power: the twin of pow in cpp/math.hpp."""
    return float(schedules.power(schedules.log2(base), np.float64(exponent), 1.0))


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


def moments(g, state, betas, amsgrad):
    """Adam's two, moved."""
    T = g.dtype.type
    beta1, beta2 = betas
    m, v = state["exp_avg"], state["exp_avg_sq"]
    m += T(1 - beta1) * (g - m)
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    if amsgrad:
        largest = state["max_exp_avg_sq"]
        largest[...] = maximum(largest, v)
        v = largest
    return m, v


def adam_update(m, v, t, lr, betas, eps):
    T = m.dtype.type
    beta1, beta2 = betas
    denom = np.sqrt(v) / T(math.sqrt(1 - power(beta2, t))) + T(eps)
    return T(lr / (1 - power(beta1, t))) * m / denom


def adam(p, g, state, t, *, lr, betas, eps, weight_decay, amsgrad):
    g = l2(g, p, weight_decay, p.dtype.type)
    m, v = moments(g, state, betas, amsgrad)
    p -= adam_update(m, v, t, lr, betas, eps)


def adamw(
    p, g, state, t, *, lr, betas, eps, weight_decay, amsgrad, cautious, cautious_weight_decay
):
    T = p.dtype.type
    m, v = moments(g, state, betas, amsgrad)
    if cautious:
        share = lane_total(m * g > 0) / g.size if g.size else math.nan
        scale = T(1 / (share if share > 1e-3 else 1e-3))
        yield  # the second pass reads the states as they were stored
    u = adam_update(m, v, t, lr, betas, eps)
    if cautious:
        u = u * np.where(m * g > 0, scale, T(0))
    p[...] = decayed(p, u, T(1 - lr * weight_decay), cautious_weight_decay) - u


def decayed(p, u, decay, cautious):
    """The parameter, which goes down by u, without its share of decay."""
    return np.where(u * p >= 0, p * decay, p) if cautious else p * decay


def lion(p, g, state, t, *, lr, betas, weight_decay, cautious, cautious_weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    m = state["exp_avg"]
    if cautious:
        sign = np.sign(m + T(1 - beta1) * (g - m))
        step = T(lr * (g.size / (lane_total(sign * g > 0) + 1)))
        yield
    u = np.sign(m + T(1 - beta1) * (g - m))
    u = u * np.where(u * g > 0, step, T(0)) if cautious else T(lr) * u
    p[...] = decayed(p, u, T(1 - lr * weight_decay), cautious_weight_decay) - u
    m += T(1 - beta2) * (g - m)


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


def trust_ratio(param, update, coefficient=1.0, eps=0.0):
    if param > 0 and update > 0:
        return coefficient * math.sqrt(param) / (math.sqrt(update) + eps)
    return 1.0


def half_power(x, exponent):
    whole = int(exponent)
    return power(x, whole) * (math.sqrt(x) if exponent > whole else 1.0)


def schedule_free_step(y, state, u, t, *, lr, beta, warmup_steps, r, weight_lr_power):
    T = y.dtype.type
    z = state["z"]
    lr_max, weight_sum = state["lr_max"], state["weight_sum"]
    rate = lr * (t / warmup_steps if t < warmup_steps else 1.0)
    lr_max[0] = max(lr_max[0], rate)
    weight = half_power(float(t), r) * half_power(float(lr_max[0]), weight_lr_power)
    weight_sum[0] += weight
    c = weight / float(weight_sum[0]) if weight_sum[0] > 0 else 0.0
    y[...] = T(1 - c) * y + T(c) * z + T(rate * (beta * (1 - c) - 1)) * u
    z -= T(rate) * u


def schedule_free_adamw(p, g, state, t, *, betas, eps, weight_decay, **schedule):
    T = p.dtype.type
    beta1, beta2 = betas
    v = state["exp_avg_sq"]
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    u = g / (np.sqrt(v / T(1 - power(beta2, t))) + T(eps)) + T(weight_decay) * p
    schedule_free_step(p, state, u, t, beta=beta1, **schedule)


def schedule_free_sgd(p, g, state, t, *, momentum, weight_decay, **schedule):
    u = g + p.dtype.type(weight_decay) * p
    schedule_free_step(p, state, u, t, beta=momentum, **schedule)


def schedule_free_shown(p, state, *, betas=None, momentum=None, **_):
    """The point to evaluate."""
    beta = momentum if betas is None else betas[0]
    return p + p.dtype.type(1 - 1 / beta) * (state["z"] - p)


# Rules that settle together: they give up their own sums and are sent those over all tensors.


def numbers(state, *names):
    """The memory of a rule, one for all of its tensors."""
    return [float(state[name][0]) for name in names]


def remember(state, **now):
    for name, value in now.items():
        state[name][0] = value


def larger(a, b):
    """The larger of two numbers, where a second that is NaN is passed over."""
    return b if b > a else a


def smaller(a, b):
    return b if b < a else a


def divided(a, b):
    return float(np.float64(a) / np.float64(b))  # by 0, too


def root(x):
    return float(np.sqrt(np.float64(x)))


def prodigy(
    p, g, state, t, *, lr, betas, beta3, eps, weight_decay, decouple, use_bias_correction,
    safeguard_warmup, d0, d_coef, growth_rate,
):  # fmt: skip
    T = p.dtype.type
    beta1, beta2 = betas
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    m, v, s, p0 = (state[name] for name in ("exp_avg", "exp_avg_sq", "s", "p0"))
    d, d_max, numerator, k = numbers(state, "d", "d_max", "d_numerator", "k")
    d, d_max = (d, d_max) if k else (d0, d0)
    correction = 1.0
    if use_bias_correction:
        correction = math.sqrt(1 - power(beta2, int(k) + 1)) / (1 - power(beta1, int(k) + 1))
    dlr = d * lr * correction
    weight = d / d0 * dlr
    own = (0.0, 0.0)
    if lr > 0:
        g = g if decouple else g + T(weight_decay) * p
        m[...] = T(beta1) * m + T(d * (1 - beta1)) * g
        v[...] = T(beta2) * v + T(d * d * (1 - beta2)) * g * g
        s[...] = T(beta3) * s + T(d / d0 * d if safeguard_warmup else weight) * g
        way = weight * (g.astype(float) * (p0 - p).astype(float))
        own = lane_total(way), lane_total(np.abs(s))
    way, length = yield own
    if length == 0:
        return
    numerator = beta3 * numerator + way
    d_hat = divided(d_coef * numerator, length)
    d = larger(d, d_hat) if d == d0 else d
    d_max = larger(d_max, d_hat)
    d = smaller(d_max, d * growth_rate)
    remember(state, d=d, d_max=d_max, d_numerator=numerator, k=k + 1)
    if not lr > 0:
        return
    if decouple:
        p -= T(weight_decay * dlr) * p
    p -= T(dlr) * m / (np.sqrt(v) + T(d * eps))


def polyak_sgd(p, g, state, t, *, lr, max_learning_rate, f_min, eps, positive, loss=0.0):
    (squares,) = yield (lane_sum(g),)
    gap = loss - f_min
    gap = 0.0 if positive and gap < 0 else gap
    length = squares + eps
    step = 0.0 if length <= 2.0**-52 else lr * smaller(divided(gap, length), max_learning_rate)
    p -= p.dtype.type(step) * g


def dog(p, g, state, t, *, lr, reps_rel, eps, weight_decay):
    T = p.dtype.type
    u = g + T(weight_decay) * p
    way, param, gradient = yield lane_sum(state["init_params"] - p), lane_sum(p), lane_sum(u)
    distance, squares = numbers(state, "max_dist", "sum_sq_norm_grads")
    if distance == 0:
        distance = reps_rel * (1 + root(param))
    distance, squares = float(maximum(distance, root(way))), squares + gradient
    remember(state, max_dist=distance, sum_sq_norm_grads=squares)
    norm = root(squares + eps)
    p -= T(lr * divided(distance, norm) if norm else 0) * u


def dowg(p, g, state, t, *, lr, init_estim_sq_dist, eps, weight_decay):
    T = p.dtype.type
    u = g + T(weight_decay) * p
    way, gradient = yield lane_sum(state["init_params"] - p), lane_sum(u)
    distance, squares = numbers(state, "estim_sq_dist", "weighted_sq_norm_grads")
    if not distance > 0:
        distance = eps if init_estim_sq_dist is None else init_estim_sq_dist
    distance = float(maximum(distance, way))
    squares += distance * gradient
    remember(state, estim_sq_dist=distance, weighted_sq_norm_grads=squares)
    norm = root(squares) + eps
    p -= T(lr * divided(distance, norm) if norm else 0) * u


def dadapt_adamw(p, g, state, t, *, lr, betas, eps, estim_lr0, weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    kept = math.sqrt(beta2)
    m, v, s = (state[name] for name in ("exp_avg", "exp_avg_sq", "grad_sum"))
    d, numerator, k = numbers(state, "estim_lr", "numerator_weighted", "k")
    d = d if k else estim_lr0
    correction = math.sqrt(1 - power(beta2, int(k) + 1)) / (1 - power(beta1, int(k) + 1))
    dlr = d * lr * correction
    weight = (1 - kept) * dlr
    own = (0.0, 0.0)
    if lr > 0:
        product = g.astype(float) * (s / (np.sqrt(v) + T(eps))).astype(float)
        m[...] = T(beta1) * m + T((1 - beta1) * dlr) * g
        v[...] = T(beta2) * v + T(1 - beta2) * g * g
        s[...] = T(kept) * s + T(weight) * g
        own = lane_total(weight * product), lane_total(np.abs(s))
    product, length = yield own
    if length == 0:
        return
    numerator = kept * numerator + product
    d = larger(d, divided(numerator, (1 - kept) * length))
    remember(state, estim_lr=d, numerator_weighted=numerator, k=k + 1)
    if lr > 0:
        p[...] = p - T(weight_decay * dlr) * p - m / (np.sqrt(v) + T(eps))


def adan(p, g, state, t, *, lr, betas, eps, weight_decay):
    T = p.dtype.type
    beta1, beta2, beta3 = betas
    m, v, m_diff = state["exp_avg"], state["exp_avg_sq"], state["exp_avg_diff"]
    diff = g + state["neg_pre_grad"] if t > 1 else np.zeros_like(g)
    ahead = g + T(beta2) * diff
    m[...] = T(beta1) * m + T(1 - beta1) * g
    m_diff[...] = T(beta2) * m_diff + T(1 - beta2) * diff
    v[...] = T(beta3) * v + T(1 - beta3) * ahead * ahead
    u = T(lr / (1 - power(beta1, t))) * m + T(lr * beta2 / (1 - power(beta2, t))) * m_diff
    denom = np.sqrt(v) / T(math.sqrt(1 - power(beta3, t))) + T(eps)
    p[...] = (p - u / denom) * T(1 / (1 + lr * weight_decay))
    state["neg_pre_grad"][...] = -g


def slow_beta(t, beta1, beta3, warmup):
    """From beta1 to beta3 so that the half-life, -1 / log2(beta), grows in a straight line."""
    if not t < warmup:
        return beta3
    x = t / warmup
    minus_half_life = (1 - x) / schedules.log2(beta1)[0] + x / schedules.log2(beta3)[0]
    return float(schedules.exp2_times(*schedules.exp2((1 / minus_half_life, 0.0)), 1.0))


def ademamix(p, g, state, t, *, lr, betas, alpha, eps, weight_decay, alpha_warmup, beta3_warmup):
    T = p.dtype.type
    beta1, beta2, beta3 = betas
    fast, slow, v = state["exp_avg_fast"], state["exp_avg_slow"], state["exp_avg_sq"]
    beta3 = slow_beta(t, beta1, beta3, beta3_warmup)
    fast[...] = T(beta1) * fast + T(1 - beta1) * g
    slow[...] = T(beta3) * slow + T(1 - beta3) * g
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    alpha = t / alpha_warmup * alpha if t < alpha_warmup else alpha
    u = T(lr / (1 - power(beta1, t))) * fast + T(lr * alpha) * slow
    denom = np.sqrt(v) / T(math.sqrt(1 - power(beta2, t))) + T(eps)
    p[...] = p * T(1 - lr * weight_decay) - u / denom


def adopt(p, g, state, t, *, lr, betas, eps, weight_decay, nesterov, use_clipping):
    T = p.dtype.type
    beta1, beta2 = betas
    m, v = state["exp_avg"], state["exp_avg_sq"]
    if t == 1:  # the first gradient makes the second moment, and nothing moves
        v[...] = T(0) * v + g * g
        m[...] = m + T(0)
        p[...] = p - T(0) * m
        return
    limit = T(math.sqrt(math.sqrt(t - 1)) if use_clipping else math.inf)
    u = g / maximum(np.sqrt(v), T(eps))
    u = np.where(u > limit, limit, np.where(u < -limit, -limit, u))
    m[...] = T(beta1) * m + T(1 - beta1) * u
    d = T(beta1) * m + T(1 - beta1) * u if nesterov else m
    p[...] = p * T(1 - lr * weight_decay) - T(lr) * d
    v[...] = T(beta2) * v + T(1 - beta2) * g * g


def sign_sgd(p, g, state, t, *, lr, momentum, weight_decay):
    T = p.dtype.type
    if "momentum_buffer" in state:
        m = state["momentum_buffer"]
        m[...] = T(momentum) * m + T(1 - momentum) * g
        g = m
    p[...] = p * T(1 - lr * weight_decay) - T(lr) * np.sign(g)


def stable_adamw(p, g, state, t, *, lr, betas, weight_decay, eps):
    T = p.dtype.type
    shares = [(1 - beta) / (1 - power(beta, t)) for beta in betas]
    m, v = state["exp_avg"], state["exp_avg_sq"]
    m += T(shares[0]) * (g - m)
    v[...] = T(1 - shares[1]) * v + T(shares[1]) * g * g
    ratio = g * g / maximum(v, T(eps * eps))
    rms = math.sqrt(lane_total(ratio) / g.size) if g.size else 0.0
    rate = lr / (rms if rms > 1 else 1.0)
    yield  # the second pass reads the states as they were stored
    p[...] = p * T(1 - rate * weight_decay) - T(rate) * m / (np.sqrt(v) + T(eps))


def adafactor(p, g, state, t, *, lr, beta2_decay, eps, d, weight_decay):
    T = p.dtype.type
    if p.size == 0:  # no means to take
        yield
        return
    share = T(power_of_any(float(t), beta2_decay))

    def average(variance, mean):
        variance += share * (mean - variance)

    def update():
        if "variance" in state:
            v = state["variance"]
        else:
            means = mean_in_lanes(state["row_var"])
            v = (state["row_var"] / maximum(means, eps[0])).astype(T) * state["col_var"]
        return g / maximum(np.sqrt(v), T(eps[0]))

    if "variance" in state:
        average(state["variance"], g * g)
    else:
        rows, columns = row_sums(g), column_sums(g)
        average(state["row_var"], (rows / g.shape[-1]).astype(T))
        average(state["col_var"], (columns / g.shape[-2]).astype(T))
    sums = lane_sum(p), lane_sum(update())
    yield
    size, norm = (np.sqrt(np.float64(s) / p.size) for s in sums)
    # Python's max takes the first beside a NaN
    step = max(eps[1], size) * min(lr, 1 / math.sqrt(t)) / max(1.0, norm / d)
    p[...] = p * T(1 - lr * weight_decay) - T(step) * update()


def row_sums(g):
    """Of squares in double, in the kernels' order: 16 lanes that fold."""
    rows = np.square(g.reshape(-1, g.shape[-1]).astype(np.float64))
    return np.array([sum_in_lanes(row) for row in rows]).reshape(*g.shape[:-1], 1)


def column_sums(g, segment=128 * 512):
    """Of squares in double: within bands of rows from above, and then the bands'."""
    rows, columns = g.shape[-2:]
    bands = max(1, min(64, rows // 32, -(-rows * columns // segment)))
    height = -(-rows // bands)
    squares = np.square(g.reshape(-1, rows, columns).astype(np.float64))
    parts = [
        np.add.accumulate(squares[:, at : at + height], axis=1)[:, -1]
        for at in range(0, rows, height)
    ]
    return np.add.accumulate(parts, axis=0)[-1].reshape(*g.shape[:-2], 1, columns)


def mean_in_lanes(rows):
    """The mean of all rows of each matrix, in double, beside each of them."""
    flat = rows.reshape(-1, rows.shape[-2]).astype(np.float64)
    sums = [sum_in_lanes(one) for one in flat]
    return np.array(sums).reshape(*rows.shape[:-2], 1, 1) / rows.shape[-2]


def adadelta(p, g, state, t, *, lr, rho, eps, weight_decay):
    T = p.dtype.type
    g = l2(g, p, weight_decay, T)
    v, a = state["square_avg"], state["acc_delta"]
    v[...] = T(rho) * v + T(1 - rho) * g * g
    delta = np.sqrt(a + T(eps)) / np.sqrt(v + T(eps)) * g
    a[...] = T(rho) * a + T(1 - rho) * delta * delta
    p -= T(lr) * delta


def adamax(p, g, state, t, *, lr, betas, eps, weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    g = l2(g, p, weight_decay, T)
    m, u = state["exp_avg"], state["exp_inf"]
    m += T(1 - beta1) * (g - m)
    u[...] = maximum(T(beta2) * u, np.abs(g) + T(eps))
    p -= T(lr / (1 - power(beta1, t))) * m / u


def decayed_gradient(p, g, lr, weight_decay, decoupled):
    """The gradient, after decay of the parameter itself or with decay in it."""
    if decoupled:
        p *= p.dtype.type(1 - lr * weight_decay)
        return g
    return l2(g, p, weight_decay, p.dtype.type)


def nadam(p, g, state, t, *, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    m, v, product = state["exp_avg"], state["exp_avg_sq"], state["mu_product"]
    mu, following = (
        beta1 * (1 - 0.5 * power_of_any(0.96, float(n) * momentum_decay)) for n in (t, t + 1)
    )
    product[0] = (1.0 if t == 1 else float(product[0])) * mu
    of_gradient = T(lr * (1 - mu) / (1 - float(product[0])))
    of_momentum = T(lr * following / (1 - float(product[0]) * following))
    g = decayed_gradient(p, g, lr, weight_decay, decoupled_weight_decay)
    m += T(1 - beta1) * (g - m)
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    denom = np.sqrt(v / T(1 - power(beta2, t))) + T(eps)
    p -= (of_gradient * g + of_momentum * m) / denom


def radam(p, g, state, t, *, lr, betas, eps, weight_decay, decoupled_weight_decay):
    T = p.dtype.type
    beta1, beta2 = betas
    m, v = state["exp_avg"], state["exp_avg_sq"]
    left = power(beta2, t)
    most = 2 / (1 - beta2) - 1
    now = most - 2 * t * left / (1 - left)
    rate = lr / (1 - power(beta1, t))
    g = decayed_gradient(p, g, lr, weight_decay, decoupled_weight_decay)
    m += T(1 - beta1) * (g - m)
    v[...] = T(beta2) * v + T(1 - beta2) * g * g
    if now > 5:
        rectified = math.sqrt((now - 4) * (now - 2) * most / ((most - 4) * (most - 2) * now))
        p -= T(rate * rectified * math.sqrt(1 - left)) * m / (np.sqrt(v) + T(eps))
    else:
        p -= T(rate) * m


def rprop(p, g, state, t, *, lr, etas, step_sizes):
    T = p.dtype.type
    before, step = state["prev"], state["step_size"]
    same = g * before
    size = step * np.where(same > 0, T(etas[1]), np.where(same < 0, T(etas[0]), T(1)))
    size = np.where(size < T(step_sizes[0]), T(step_sizes[0]), size)
    step[...] = np.where(size > T(step_sizes[1]), T(step_sizes[1]), size)
    before[...] = np.where(same < 0, T(0), g)
    p -= np.sign(before) * step


def asgd(p, g, state, t, *, lr, lambd, alpha, t0, weight_decay):
    T = p.dtype.type
    ax, eta, mu = state["ax"], state["eta"], state["mu"]
    rate, weight = (lr, 1.0) if t == 1 else (float(eta[0]), float(mu[0]))
    g = l2(g, p, weight_decay, T)
    p[...] = p * T(1 - lambd * rate) - T(rate) * g
    ax[...] = p if weight == 1 else ax + T(weight) * (p - ax)
    eta[0] = lr / power_of_any(1 + lambd * lr * t, alpha)
    mu[0] = 1 / max(1.0, t - t0)


def asgd_shown(p, state, **_):
    """The point to evaluate."""
    del p
    return state["ax"]


def muon(p, g, state, t, *, lr, weight_decay, momentum, nesterov, **of_the_product):
    T = p.dtype.type
    b = state["momentum_buffer"]
    new = b + T(1 - momentum) * (g - b)
    # What comes back is orthogonal, with what the rate is multiplied by for the matrix's shape.
    direction, factor = yield g + T(momentum) * (new - g) if nesterov else new
    b[...] = new
    p *= T(1 - lr * weight_decay)
    p -= T(lr * factor) * direction


def newton_schulz(u, group):
    """The formula in float64."""
    x = u.astype(float)
    if x.shape[0] > x.shape[1]:
        x = x.T
    x = x / max(np.linalg.norm(x), group["eps"])
    given = group["ns_coefficients"]
    for k in range(group["ns_steps"]):
        a, b, c = gs.orthogonal.POLYNOMIALS[min(k, 7)] if isinstance(given, str) else given
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def expected_direction(u, group):
    """What Muon's products are to give, and the factor of the rate."""
    axis = int(group["transposed"])
    splits = group["splits"]
    if splits is None:
        parts = [u]
    elif isinstance(splits, int):
        parts = np.split(u, splits, axis)
    else:
        parts = np.split(u, np.cumsum(splits)[:-1], axis)
    out, inner = parts[0].shape[::-1] if axis else parts[0].shape
    factor = math.sqrt(max(1.0, out / inner))
    if group["adjust_lr_fn"] == "match_rms_adamw":
        factor = 0.2 * math.sqrt(max(out, inner))
    return np.concatenate([newton_schulz(part, group) for part in parts], axis), factor


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
    "Adan": adan,
    "AdEMAMix": ademamix,
    "ADOPT": adopt,
    "SignSGD": sign_sgd,
    "StableAdamW": stable_adamw,
    "Adafactor": adafactor,
    "Adadelta": adadelta,
    "Adamax": adamax,
    "NAdam": nadam,
    "RAdam": radam,
    "Rprop": rprop,
    "ASGD": asgd,
    "ScheduleFreeSGD": schedule_free_sgd,
    "Prodigy": prodigy,
    "PolyakSGD": polyak_sgd,
    "DoG": dog,
    "DoWG": dowg,
    "DAdaptAdamW": dadapt_adamw,
    "Muon": muon,
}
SHOWN = {
    "ScheduleFreeAdamW": schedule_free_shown,
    "ScheduleFreeSGD": schedule_free_shown,
    "ASGD": asgd_shown,
}  # of each rule that has another point to evaluate


def passes(rule, p, g, state, t, hyper, epsilon=None):
    """Update t of parameter p, one pass at each ``next``, quietly: a NaN is a legal number here.

    Between the passes it gives up the tensor's sums, and takes those over all tensors where the
    rule settles them together; sent none, it takes its own. Where a rule has a direction that comes
    out, and what replaces it is to be sent. A rule that looks at its own tensor alone gives up
    nothing: its ``yield`` is where states are stored. ``epsilon``: what None is in ``eps``, of the
    parameter's dtype.
    """
    hyper = {key: value for key, value in hyper.items() if key != "frozen"}
    if isinstance(hyper.get("eps"), tuple):
        known = np.finfo(p.dtype).eps if epsilon is None else epsilon
        hyper["eps"] = tuple(float(known) if e is None else e for e in hyper["eps"])
    # An optional state whose hyperparameter is 0 in this step is left alone, as by PyTorch.
    idle = {s.name for s in gs.rule.Rule(rule).states if s.option and not hyper[s.option]}
    used = {name: array for name, array in state.items() if name not in idle}
    with np.errstate(all="ignore"):
        sign = -1 if hyper.pop("maximize") else 1
        if "loss" in hyper:
            hyper["loss"] *= sign
        run = RULES[rule](p, g * p.dtype.type(sign), used, t, **hyper)
        sums = None if run is None else next(run, None)
    totals = yield sums
    with np.errstate(all="ignore"), contextlib.suppress(StopIteration):
        if run is not None:
            run.send(sums if totals is None else totals)


def step(rule, p, g, state, t, hyper):
    """Update t of parameter p."""
    for _ in passes(rule, p, g, state, t, hyper):
        pass


def step_together(rule, tensors, hyper, times=1):
    """One update of several tensors, (parameter, gradient, state, t) each, whose sums add up.

    times: how often each of them is there.
    """
    runs = [passes(rule, *tensor, hyper) for tensor in tensors]
    sums = [next(run) for run in runs]
    totals = add_up(rule, [own for own in sums for _ in range(times)])
    for run in runs:
        with contextlib.suppress(StopIteration):
            run.send(totals)


def add_up(rule, sums):
    """The sums over all tensors, in their order; None for rules that do not settle together."""
    if not gs.rule.Rule(rule).common:
        return None
    totals = [0.0] * len(sums[0])
    for own in sums:
        totals = [total + one for total, one in zip(totals, own, strict=True)]
    return totals


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


def sum_in_lanes(x):
    """The sum of a run of numbers, one at least."""
    return fold(np.add.accumulate(in_lanes(x), axis=0)[-1])


def lane_sum(array, start=0):
    """The sum of squares over a tensor, in double, as the first of two passes adds them up."""
    return lane_total(np.square(np.asarray(array).astype(np.float64)), start)


def lane_total(x, start=0, block=512, segment=128 * 512):
    """The sum of what a tensor's elements add, in double, as the first of two passes adds it up.

    Lanes go on through the blocks of a segment, whose sums then fold and add up. ``start``: where
    the array begins in its tensor.
    """
    x = np.asarray(x).reshape(-1).astype(np.float64)
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
                part += sum_in_lanes(flat[at : min(at + block, begin + segment)])
            total += part
    return total
