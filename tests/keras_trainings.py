"""Keras, on the backend that this process has: `test_tuning_sources.py` runs it on each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradstep.tuning import range_test
from judged import BATCH, SWEEP, Told, digits, imported, says

keras = imported("keras")
from gradstep.tuning.keras import MonitorCallback, RangeTestCallback, source  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("told"),
    # Of Keras itself, which asks tensors of PyTorch for arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def keras_model(optimizer: Any = None, seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def keras_bits(model: Any) -> list[bytes]:
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return [np.asarray(keras.ops.convert_to_numpy(v.value)).tobytes() for v in variables]


@pytest.mark.parametrize("kind", ["arrays", "batches"])
@pytest.mark.parametrize("started", [False, True])
def test_keras_is_as_it_was(kind: str, started: bool) -> None:
    (x, y), model = digits(), keras_model()
    if started:
        model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
    else:
        model.optimizer.build(model.trainable_variables)
    before = keras_bits(model)
    data = (x, y, BATCH) if kind == "arrays" else (Batches(x, y),)
    training = source(model, *data)
    found = range_test(*training, sweeps=2, **SWEEP)
    assert found.interval is not None
    np.testing.assert_array_equal(*found.losses)
    after = keras_bits(model)
    assert [bits for bits in after if bits.strip(b"\0")] == [
        bits for bits in before if bits.strip(b"\0")
    ]
    assert started == (len(after) == len(before))  # metrics that the first step makes, at 0


class Batches:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __getitem__(self, i: int) -> Any:
        rows = slice(i * BATCH, (i + 1) * BATCH)
        return self.x[rows], self.y[rows], np.ones(BATCH, np.float32)


def test_keras_callbacks(written: Any) -> None:
    """The training after a range test is to the bit that without one."""
    lines, (x, y) = written("keras"), digits()

    class Losses(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def on_train_batch_end(self, _batch: int, logs: Any = None) -> None:
            self.seen.append(float(logs["loss"]))

    def fit(callbacks: list[Any], **options: Any) -> Any:
        model, losses = keras_model(**options), Losses()
        history = model.fit(
            x, y, batch_size=BATCH, epochs=2, verbose=1, callbacks=[*callbacks, losses]
        )
        return model, losses.seen, history.history

    find = RangeTestCallback(x, y, BATCH, **SWEEP)
    watch = MonitorCallback()
    model, means, history = fit([find, watch])
    other, plain, _ = fit([])
    assert find.found.interval is not None
    assert means == plain
    assert keras_bits(model) == keras_bits(other)
    epoch = -(-len(x) // BATCH)
    assert [step for step, *_ in Told.seen] == list(range(1, 2 * epoch + 1))
    mine = np.array([loss for _, loss, _ in Told.seen]).reshape(2, epoch)
    running = np.cumsum(mine, axis=1) / np.arange(1, epoch + 1)
    np.testing.assert_allclose(running, np.reshape(means, (2, epoch)), rtol=1e-5)
    assert [rate for *_, rate in Told.seen] == pytest.approx([1e-3] * 2 * epoch)
    says(lines, "INFO range test: try")
    says(lines, "WARNING rate at step 10: too low, try the rate × 3 (told so)")
    assert history["rate_factor"] == [3.0, 3.0]

    using = RangeTestCallback(x, y, BATCH, use=True, **SWEEP)
    model, *_ = fit([using])
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert rate == pytest.approx(using.found.suggestion)
    # A schedule is watched without its rate.
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    fit([MonitorCallback()], optimizer=keras.optimizers.Adam(schedule))
    assert Told.seen[-1][2] is None


def test_keras_kinds() -> None:
    x, y = digits()
    make = keras.optimizers
    kinds = {
        "adaptive": [make.Adam(), make.RMSprop(), make.LossScaleOptimizer(make.AdamW())],
        "momentum": [make.SGD(0.1, momentum=0.9)],
        "plain": [make.SGD(0.1)],
        "sign": [make.Lion()],
    }
    for kind, optimizers in kinds.items():
        for optimizer in optimizers:
            assert source(keras_model(optimizer), x, y).optimizer.kind == kind


def bad_keras() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    return {
        "model": ({"model": 3}, TypeError, "model: got int, wanted a keras.Model"),
        "batch_size": ({"batch_size": 0}, ValueError, "batch_size: got 0, wanted at least 1"),
        "rows": ({"y": np.ones(3)}, ValueError, "y: got 3 rows, wanted 1797, as x has"),
        "array": ({"y": None}, TypeError, "x: got ndarray without y, wanted batches (x, y)"),
        "iterator": ({"x": iter([]), "y": None}, TypeError, "x: got list_iterator without y"),
        "number": ({"x": 3, "y": None}, TypeError, "x: got int without y, wanted batches"),
        "none": ({"x": [], "y": None}, ValueError, "x: got no batches, wanted some"),
        "empty": ({"x": np.ones((0, 64)), "y": np.ones(0)}, ValueError, "x: got no rows"),
        "batch": ({"x": [3], "y": None}, TypeError, "x: got a batch that is a int, wanted (x, y)"),
    }


@pytest.mark.parametrize("case", bad_keras())
def test_bad_keras(case: str) -> None:
    change, error, message = bad_keras()[case]
    x, y = digits()
    with pytest.raises(error) as raised:
        range_test(*source(**{"model": keras_model(), "x": x, "y": y, **change}))
    assert str(raised.value).startswith(message)


def test_keras_models_that_cannot_be_tried() -> None:
    x, y = digits()
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    with pytest.raises(ValueError, match=r"^model: got an optimizer whose learning_rate is a Expo"):
        source(keras_model(keras.optimizers.Adam(schedule)), x, y)
    model = keras.Sequential([keras.layers.Dense(10)])
    with pytest.raises(ValueError, match=r"^model: got one that is not compiled, wanted"):
        source(model, x, y)
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"^model: got one that is not built, wanted"):
        source(model, x, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use": 1}, TypeError, "use: got 1, wanted True or False"),
        ({"points": 9}, ValueError, "points: got 9, wanted at least 10"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0, wanted at least 1"),
    ],
)
def test_bad_callbacks(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        RangeTestCallback(*digits(), **options)
    assert str(raised.value).startswith(message)
