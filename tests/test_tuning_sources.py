"""Trainings that people have: what a range test finds in them, that they are to the bit what they
were afterwards, what their monitors write down, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import random
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradstep as gs
from gradstep.tuning import Monitor, loop, range_test
from gradstep.tuning.callbacks import monitor_for
from judged import BATCH, SWEEP, Told, digits, imported, says
from processes import finished

datasets = pytest.importorskip("sklearn.datasets")

PAGE = Path(__file__).parent.parent / "docs" / "tuning-sources.md"
pytestmark = [
    pytest.mark.usefixtures("told"),
    # Others': of what they themselves import and call.
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.* argument is set as true:UserWarning"),
]


# ---- PyTorch's loops ----


def torch_parts(seed: int = 0, generator: bool = False, **options: Any) -> Any:
    """Model, loss, loader and optimizer, with all that a step may change besides."""
    torch = imported("torch")
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, digits())
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 32),
        torch.nn.BatchNorm1d(32),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(32, 10),
    )
    own = torch.Generator().manual_seed(3) if generator else None
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True, generator=own
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **options)
    return model, torch.nn.functional.cross_entropy, loader, optimizer


def torch_bits(value: Any) -> Any:
    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {str(key): torch_bits(one) for key, one in value.items()}
    return [torch_bits(one) for one in value] if isinstance(value, list | tuple) else repr(value)


def torch_everything(model: Any, loader: Any, optimizer: Any) -> Any:
    torch = sys.modules["torch"]
    numpys = np.random.get_state()  # noqa: NPY002
    return (
        torch_bits(model.state_dict()),
        torch_bits([p.grad for p in model.parameters()]),
        torch_bits(optimizer.state_dict()),
        [module.training for module in model.modules()],
        torch_bits(torch.get_rng_state()),
        torch_bits(loader.generator.get_state()) if loader.generator is not None else None,
        (random.getstate(), numpys[1].tobytes(), numpys[2]),
    )


@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("error", [False, True])
def test_a_loop_is_as_it_was(generator: bool, evaluating: bool, error: bool) -> None:
    """With its buffers, modes and random generators; all sweeps see the same batches."""
    model, loss_fn, loader, optimizer = torch_parts(generator=generator)
    model[1].eval()  # kept so within a training
    if evaluating:
        model.eval()
    step = loop(model, loss_fn, loader, optimizer)
    if not evaluating:
        step()
    outside = model[4].bias  # which the optimizer has not
    optimizer.param_groups[0]["params"] = [
        p for p in optimizer.param_groups[0]["params"] if p is not outside
    ]
    optimizer.state.pop(outside, None)
    before = torch_everything(model, loader, optimizer)

    def draws(output: Any, y: Any) -> Any:
        random.random()
        np.random.rand()  # noqa: NPY002
        if error and optimizer.param_groups[0]["lr"] > 1e-3:
            raise OSError("disk")
        return loss_fn(output, y)

    test = loop(model, draws, loader, optimizer)
    if error:
        with pytest.raises(OSError, match="disk"):
            range_test(test, optimizer, **SWEEP)
    else:
        found = range_test(test, optimizer, sweeps=2, **SWEEP)
        assert found.interval is not None
        np.testing.assert_array_equal(*found.losses)
        assert np.isfinite(found.losses[0]).sum() > len(loader)  # it began again
    assert torch_everything(model, loader, optimizer) == before


def test_a_loop_makes_the_steps_of_the_training() -> None:
    """To the bit, with batches that are dicts, and clipped."""
    torch = imported("torch")
    model, loss_fn, loader, optimizer = torch_parts()
    pairs = list(loader)
    dicts = [{"x": x, "nested": [y]} for x, y in pairs]
    seen: list[float] = []
    mine, theirs = loop(model, loss_fn, pairs, optimizer, clip_norm=0.1), torch_parts()
    torch.manual_seed(5)
    mine_losses = [mine() for _ in range(3)]
    state = torch_bits(model.state_dict())
    model, _, _, optimizer = theirs
    torch.manual_seed(5)
    for x, y in pairs[:3]:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        seen.append(loss.item())
    assert (mine_losses, state) == (seen, torch_bits(model.state_dict()))
    model, _, _, optimizer = torch_parts()
    torch.manual_seed(5)

    def of_dict(model: Any, batch: Any) -> Any:
        return loss_fn(model(batch["x"]), batch["nested"][0])

    step = loop(model, of_dict, dicts, optimizer, clip_norm=0.1)
    assert [step() for _ in range(3)] == seen


def test_batches_follow_the_model() -> None:
    torch = imported("torch")
    model = torch.nn.Linear(2, 1, device="meta")
    seen: list[Any] = []

    def loss_fn(model: Any, batch: Any) -> Any:
        seen.append([batch["x"].device.type, batch["y"][0].device.type, batch["text"]])
        raise KeyError

    batch = {"x": torch.ones(1, 2), "y": (torch.ones(1),), "text": "a"}
    with pytest.raises(KeyError):
        loop(model, loss_fn, [batch], torch.optim.SGD(model.parameters(), 0.1))()
    assert seen == [["meta", "meta", "a"]]


def test_loaders_of_unknown_length() -> None:
    torch = imported("torch")
    model, loss_fn, loader, optimizer = torch_parts()

    class Stream(torch.utils.data.IterableDataset):
        def __init__(self, count: int) -> None:
            self.count = count

        def __iter__(self) -> Any:
            return iter(loader.dataset[i] for i in range(self.count))

    endless = torch.utils.data.DataLoader(Stream(200), batch_size=BATCH)
    found = range_test(loop(model, loss_fn, endless, optimizer), optimizer, **SWEEP)
    assert found.interval is not None
    nothing = torch.utils.data.DataLoader(Stream(0), batch_size=BATCH)
    with pytest.raises(ValueError, match=r"^loader: got no batch from it, wanted at least one"):
        range_test(loop(model, loss_fn, nothing, optimizer), optimizer)


BAD_LOOPS = [
    ("model", 3, TypeError, "model: got int, wanted a torch.nn.Module"),
    ("loss_fn", None, TypeError, "loss_fn: got NoneType, wanted a function"),
    ("optimizer", object(), TypeError, "optimizer: got object, wanted one of PyTorch's"),
    ("loader", 3, TypeError, "loader: got int, wanted one that gives batches each time"),
    ("loader", iter([1]), TypeError, "loader: got list_iterator, wanted one that gives batches"),
    ("loader", [], ValueError, "loader: got one without batches, wanted at least one"),
    ("loader", [(1, 2, 3)], TypeError, "loader: got a batch that is a tuple of 3, wanted a tuple"),
    ("loader", ["xy"], TypeError, "loader: got a batch that is a str, wanted a tuple or list"),
    ("loss_fn", lambda _, y: y, TypeError, "loss_fn: got Tensor of shape (64,) from it, wanted a"),
    ("loss_fn", lambda *_: 1.0, TypeError, "loss_fn: got float from it, wanted a tensor of one"),
    ("clip_norm", 0, ValueError, "clip_norm: got 0, wanted a number > 0 or None"),
    ("clip_norm", "1", TypeError, "clip_norm: got '1', wanted a number > 0 or None"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_LOOPS)
def test_bad_loops(name: str, value: Any, error: type[Exception], message: str) -> None:
    names = "model", "loss_fn", "loader", "optimizer"
    given = {**dict(zip(names, torch_parts(), strict=True)), name: value}
    with pytest.raises(error) as raised:
        range_test(loop(**given), given["optimizer"])
    assert str(raised.value).startswith(message)


def test_hooks_of_the_step_itself() -> None:
    """They are used where none are given, and only both together."""
    w = np.full(3, 5.0)
    optimizer = gs.SGD(w, lr=0.1)
    calls: list[str] = []

    def train_step() -> float:
        loss = float(w @ w)
        optimizer.step(2 * w)
        return loss

    train_step.save = lambda: calls.append("save")  # type: ignore[attr-defined]
    range_test(train_step, optimizer)
    assert calls == []  # a method save may be for something else
    train_step.restore = lambda _: calls.append("restore")  # type: ignore[attr-defined]
    range_test(train_step, optimizer)
    assert calls == ["save", "restore"]
    given: list[str] = []
    range_test(train_step, optimizer, save=lambda: given.append("s"), restore=given.append)
    assert (calls, given) == (["save", "restore"], ["s", None])


# ---- which judge ----


def test_monitor_for() -> None:
    imported("torch")
    import gradstep.torch as gt  # noqa: PLC0415

    model, loss_fn, loader, plain = torch_parts()
    ours = gt.AdamW(model.parameters(), lr=1e-3, stats="sample")
    judge, monitor = monitor_for(ours), Monitor()
    step = loop(model, loss_fn, loader, ours)
    assert judge(0, 1.0).kind == "inconclusive"
    for i in range(120):
        loss = step()
        assert judge(i, loss, 1e-3).to_dict() == monitor(ours.report, loss).to_dict()
    assert monitor.verdict.kind != "inconclusive"
    for other in (plain, gt.AdamW(model.parameters(), lr=1e-3), gs.SGD(np.ones(3), 0.1), None):
        assert isinstance(monitor_for(other), Told)


# ---- Lightning ----


def lightning_parts(name: str, folder: Path, callbacks: list[Any], **options: Any) -> Any:
    """A trainer, and a module that logs, counts with a metric, and has a schedule if told so."""
    lightning = imported(name)
    torch, torchmetrics = imported("torch"), imported("torchmetrics")
    model, loss_fn, loader, _ = torch_parts()
    schedule = options.pop("schedule", None)
    made = options.pop("optimizer", torch.optim.Adam)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.seen = model, []
            self.right = torchmetrics.Accuracy("multiclass", num_classes=10)

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            scores = self.model(x)
            loss = loss_fn(scores, y)
            self.right(scores, y)
            self.log("loss", loss)
            self.log_dict({"right": self.right})
            self.seen.append((loss.item(), self.optimizers().param_groups[0]["lr"]))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = made(self.parameters(), lr=1e-3)
            if schedule is None:
                return optimizer
            return [optimizer], [{"scheduler": schedule(optimizer), "interval": "step"}]

    logger = lightning.loggers.CSVLogger(folder)
    trainer = lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": 40,
            "logger": logger,
            "log_every_n_steps": 10,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
            "default_root_dir": folder,
            **options,
        }
    )
    module = Module()
    trainer.fit(module, loader)
    return trainer, module


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(name: str, tmp_path: Path, written: Any) -> None:
    """The training after a range test is to the bit that without one."""
    imported(name)
    ours = imported("gradstep.tuning.lightning")
    lines = written(name)
    find, watch = ours.RangeTestCallback(sweeps=2, **SWEEP), ours.MonitorCallback()
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    trainer, module = lightning_parts(name, tmp_path, [find, watch], **options)
    assert find.found.interval is not None
    np.testing.assert_array_equal(*find.found.losses)
    other, plain = lightning_parts(name, tmp_path, [], **options)
    assert torch_bits(module.state_dict()) == torch_bits(plain.state_dict())
    assert torch_bits(trainer.optimizers[0].state_dict()) == torch_bits(
        other.optimizers[0].state_dict()
    )
    steps = module.seen[-len(plain.seen) :]
    assert steps == plain.seen
    assert [step for step, *_ in Told.seen] == list(range(1, 41))
    pairs = [(steps[2 * i][0] + steps[2 * i + 1][0]) / 2 for i in range(14)]  # of the first epoch
    assert [loss for _, loss, _ in Told.seen[:14]] == pytest.approx(pairs)
    assert {rate for *_, rate in Told.seen} == {1e-3}
    says(lines, "INFO range test: try")
    says(lines, "WARNING rate at step 10: too low, try the rate × 3 (told so)")
    assert (watch.verdict.kind, len(watch.told)) == ("too low", 1)
    text = (Path(trainer.logger.log_dir) / "metrics.csv").read_text(encoding="utf-8")
    assert {"rate_suggestion", "rate_factor", "rate_loss"} <= set(text.splitlines()[0].split(","))
    theirs = (Path(other.logger.log_dir) / "metrics.csv").read_text(encoding="utf-8")
    rights = [[row["right"] for row in table(each) if row.get("right")] for each in (text, theirs)]
    assert rights[0] == rights[1] != []


def table(text: str) -> list[dict[str, str]]:
    head, *rows = (line.split(",") for line in text.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_lightning_uses_the_rate(tmp_path: Path) -> None:
    torch = imported("torch")
    ours = imported("gradstep.tuning.lightning")

    def warm(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10)

    for schedule, part in ((None, 1), (warm, 0.1)):
        find = ours.RangeTestCallback(use=True, **SWEEP)
        trainer, module = lightning_parts(
            ours.lightning.__name__, tmp_path, [find], schedule=schedule
        )
        rate = find.found.suggestion
        rates = [lr for _, lr in module.seen[-40:]]
        assert rates[0] == pytest.approx(part * rate)
        assert rates[-1] == pytest.approx(rate)
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


def test_lightning_with_reports(tmp_path: Path) -> None:
    """An optimizer of ours judges by what it measures."""
    ours = imported("gradstep.tuning.lightning")
    import gradstep.torch as gt  # noqa: PLC0415

    watch = ours.MonitorCallback()

    def adam(params: Any, lr: float) -> Any:
        return gt.Adam(params, lr=lr, stats="sample")

    name = ours.lightning.__name__
    lightning_parts(name, tmp_path, [watch], optimizer=adam, max_steps=100)
    assert watch.verdict.numbers["alignment"] == pytest.approx(0, abs=1)


def test_lightning_refuses(tmp_path: Path) -> None:
    torch = imported("torch")
    ours = imported("gradstep.tuning.lightning")
    name = ours.lightning.__name__

    def cycle(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)

    with pytest.raises(ValueError, match=r"^use: got True with the schedule OneCycleLR"):
        lightning_parts(name, tmp_path, [ours.RangeTestCallback(use=True)], schedule=cycle)
    model = torch_parts()[0]
    module = types.SimpleNamespace(automatic_optimization=True, training_step=lambda batch: batch)
    good = {"train_dataloader": [1], "world_size": 1, "optimizers": [model], "precision": "32-true"}
    good["train_dataloader"] = object()
    for change, got in (
        ({"world_size": 2}, "2 processes"),
        ({"optimizers": [1, 2]}, "2 optimizers"),
        ({"train_dataloader": [1, 2]}, "several training loaders"),
        ({"precision": "16-mixed"}, "precision 16-mixed"),
    ):
        trainer = types.SimpleNamespace(**{**good, **change})
        with pytest.raises(ValueError, match=f"^trainer: got {got}, wanted"):
            ours.RangeTestCallback().on_train_start(trainer, module)
    module.automatic_optimization = False
    with pytest.raises(
        ValueError, match=r"^trainer: got manual optimization, wanted the automatic"
    ):
        ours.RangeTestCallback().on_train_start(types.SimpleNamespace(**good), module)


# ---- transformers ----


def trainer_parts(folder: Path, callbacks: list[Any], **options: Any) -> Any:
    transformers = imported("transformers")
    imported("accelerate")
    torch = imported("torch")
    transformers.set_seed(0)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch_parts()[0]

        def forward(self, pixels: Any, labels: Any = None) -> Any:
            scores = self.layers(pixels)
            loss = torch.nn.functional.cross_entropy(scores, labels)
            return transformers.utils.ModelOutput(loss=loss, logits=scores)

    x, y = digits()
    data = [{"pixels": a, "labels": int(b)} for a, b in zip(x, y, strict=True)]
    rates: list[float] = []

    class Rates(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, _a: Any, _s: Any, _c: Any, **kwargs: Any) -> None:
            rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    trainer = transformers.Trainer(
        options.pop("model", None) or Network(),
        transformers.TrainingArguments(
            str(folder),
            **{
                "per_device_train_batch_size": BATCH,
                "max_steps": 40,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_strategy": "no",
                "use_cpu": True,
                "report_to": [],
                "disable_tqdm": True,
                "dataloader_pin_memory": False,
                "gradient_accumulation_steps": 2,
                **options,
            },
        ),
        train_dataset=data,
        callbacks=[*callbacks, Rates()],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer, losses, rates


def test_transformers(tmp_path: Path, written: Any) -> None:
    """The training after a range test is to the bit that without one."""
    ours = imported("gradstep.tuning.transformers")
    lines = written("transformers.gradstep")
    find, watch = ours.RangeTestCallback(sweeps=2, **SWEEP), ours.MonitorCallback()
    trainer, losses, rates = trainer_parts(tmp_path, [find, watch])
    assert find.found.interval is not None
    np.testing.assert_array_equal(*find.found.losses)
    other, wanted, others = trainer_parts(tmp_path, [])
    assert losses == wanted
    assert rates == others
    assert torch_bits(trainer.model.state_dict()) == torch_bits(other.model.state_dict())
    assert torch_bits(trainer.optimizer.state_dict()) == torch_bits(other.optimizer.state_dict())
    assert [step for step, *_ in Told.seen] == list(range(1, 41))
    assert [loss for _, loss, _ in Told.seen] == pytest.approx(losses, rel=1e-3)
    assert [rate for *_, rate in Told.seen] == rates
    says(lines, "INFO range test: try")
    says(lines, "WARNING rate at step 10: too low, try the rate × 3 (told so)")
    history = trainer.state.log_history
    assert history[0]["rate_suggestion"] == find.found.suggestion
    assert [entry.get("rate_verdict") for entry in history[1:12]] == [
        *["inconclusive"] * 9,
        *["too low"] * 2,
    ]
    assert history[11]["rate_factor"] == 3.0
    assert not trainer.model._forward_hooks


def test_transformers_uses_the_rate(tmp_path: Path) -> None:
    ours = imported("gradstep.tuning.transformers")
    find = ours.RangeTestCallback(use=True, **SWEEP)
    _, _, rates = trainer_parts(tmp_path, [find], warmup_steps=10)
    _, _, plain = trainer_parts(tmp_path, [], warmup_steps=10)
    assert rates == pytest.approx([rate / 1e-3 * find.found.suggestion for rate in plain])


def test_transformers_refuses(tmp_path: Path) -> None:
    torch = imported("torch")
    ours = imported("gradstep.tuning.transformers")
    with pytest.raises(TypeError, match=r"^loss_fn: got int, wanted a function or None"):
        ours.RangeTestCallback(3)
    for options, got in (
        ({"world_size": 2, "fp16": False}, "2 processes"),
        ({"world_size": 1, "fp16": True}, "float16"),
    ):
        with pytest.raises(ValueError, match=f"^args: got {got}, wanted one process"):
            ours.RangeTestCallback().on_train_begin(
                types.SimpleNamespace(**options), None, None, model=None, train_dataloader=None
            )

    class Silent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch_parts()[0]

        def forward(self, pixels: Any, labels: Any = None) -> Any:
            return (torch.nn.functional.cross_entropy(self.layers(pixels), labels),)

    with pytest.raises(TypeError, match=r"^loss_fn: got none, and a tuple without a loss"):
        trainer_parts(tmp_path, [ours.RangeTestCallback()], model=Silent())
    with pytest.raises(TypeError, match=r"^model: got outputs without a loss, wanted one"):
        trainer_parts(tmp_path, [ours.MonitorCallback()], model=Silent())
    find = ours.RangeTestCallback(lambda model, batch: model(**batch)[0], **SWEEP)
    trainer_parts(tmp_path, [find], model=Silent(), max_steps=1)
    assert find.found.interval is not None


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_bad_options_of_callbacks(name: str) -> None:
    """Refused when the callback is made."""
    ours = imported(f"gradstep.tuning.{name}")
    for options, error, message in (
        ({"use": 1}, TypeError, "use: got 1, wanted True or False"),
        ({"low": 0}, ValueError, "low: got 0, wanted a finite number > 0"),
        ({"points": 9}, ValueError, "points: got 9, wanted at least 10"),
        ({"sweeps": 1.5}, TypeError, "sweeps: got float, wanted an integer"),
        ({"rate": 1}, TypeError, None),
    ):
        with pytest.raises(error) as raised:
            ours.RangeTestCallback(**options)
        assert message is None or str(raised.value).startswith(message)


# ---- scikit-learn ----


def estimators() -> dict[str, tuple[Any, bool]]:
    """What is to be tried, and whether it tells classes."""
    linear, network = imported("sklearn.linear_model"), imported("sklearn.neural_network")
    small = {"hidden_layer_sizes": (32,)}
    fixed = {"learning_rate": "constant", "eta0": 0.01}
    return {
        "adam": (network.MLPClassifier(**small), True),
        "sgd": (network.MLPClassifier(**small, solver="sgd", early_stopping=True), True),
        "invscaling": (
            network.MLPClassifier(**small, solver="sgd", learning_rate="invscaling", batch_size=50),
            True,
        ),
        "numbers": (network.MLPRegressor(**small, random_state=np.random.RandomState(3)), False),
        **{
            loss: (linear.SGDClassifier(loss=loss, **fixed), True)
            for loss in ("hinge", "log_loss", "modified_huber", "squared_error")
        },
        "linear": (linear.SGDRegressor(**{**fixed, "learning_rate": "adaptive"}), False),
        "huber": (linear.SGDRegressor(loss="huber", epsilon=0.5, **fixed), False),
    }


@pytest.mark.parametrize("name", estimators())
@pytest.mark.parametrize("fitted", [False, True])
def test_scikit_learn(name: str, fitted: bool) -> None:
    from gradstep.tuning.sklearn import source  # noqa: PLC0415

    estimator, tells_classes = estimators()[name]
    x, y = datasets.load_digits(return_X_y=True)
    x, y = x / 16, y if tells_classes else y / 10.0
    if fitted:
        estimator.set_params(early_stopping=False)
        classes = {"classes": np.unique(y)} if tells_classes else {}
        estimator.partial_fit(x[:300], y[:300], **classes)
    before, numpys = dump(estimator), np.random.get_state()  # noqa: NPY002
    found = range_test(*source(estimator, x, y, 200), low=1e-6, high=100, points=50, sweeps=2)
    assert found.interval is not None, found
    np.testing.assert_array_equal(*found.losses)
    assert dump(estimator) == before
    assert all(map(np.array_equal, np.random.get_state(), numpys))  # noqa: NPY002


def dump(estimator: Any) -> Any:
    """All that it holds, in bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tobytes()
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        if isinstance(value, np.random.RandomState):
            return plain(value.get_state())
        if hasattr(value, "__dict__"):
            return {key: plain(one) for key, one in vars(value).items()}
        return repr(value)

    return plain(estimator)


@pytest.mark.parametrize("name", estimators())
def test_a_loss_of_scikit_learn_is_from_before_the_step(name: str) -> None:
    from gradstep.tuning.sklearn import source  # noqa: PLC0415

    metrics = imported("sklearn.metrics")
    estimator, tells_classes = estimators()[name]
    x, y = datasets.load_digits(return_X_y=True)
    x, y = x / 16, y if tells_classes else y / 10.0
    training = source(estimator, x, y, batch_size=len(x))
    model = training.optimizer.estimator
    training.optimizer.set_lr(1e-3)
    training.train_step()
    told = copy.deepcopy(model)
    loss = training.train_step()
    assert dump(told) != dump(model)
    if name in ("adam", "sgd", "invscaling"):
        wanted = metrics.log_loss(y, told.predict_proba(x))
        wanted += 0.5 * told.alpha * sum((w**2).sum() for w in told.coefs_) / len(x)
    elif name in ("numbers", "linear"):
        wanted = metrics.mean_squared_error(y, told.predict(x)) / 2
        if name == "numbers":
            wanted += 0.5 * told.alpha * sum((w**2).sum() for w in told.coefs_) / len(x)
    elif name == "huber":
        wanted = metrics_huber(y - told.predict(x), 0.5)
    else:
        z = np.where(y[:, None] == told.classes_, 1, -1) * told.decision_function(x)
        formulas = {
            "hinge": np.maximum(1 - z, 0),
            "log_loss": np.log1p(np.exp(-z)),
            "modified_huber": np.where(z < -1, -4 * z, np.maximum(0, 1 - z) ** 2),
            "squared_error": (1 - z) ** 2 / 2,
        }
        wanted = formulas[name].sum() / len(x)
    assert loss == pytest.approx(wanted, rel=1e-9)


def metrics_huber(residuals: Any, epsilon: float) -> float:
    far = np.abs(residuals) > epsilon
    near = residuals[~far]
    linear = epsilon * (np.abs(residuals[far]) - epsilon / 2)
    return float((near @ near / 2 + linear.sum()) / len(residuals))


def test_scikit_learn_moves_at_the_rate_it_is_given() -> None:
    from gradstep.tuning.sklearn import source  # noqa: PLC0415

    x, y = digits()
    for name in ("adam", "sgd", "invscaling", "log_loss"):
        training = source(estimators()[name][0], x, y)
        moved = []
        for rate in (1e-6, 1e-4):
            training.optimizer.set_lr(rate)
            kept = training.optimizer.snapshot()
            if name == "log_loss":
                training.train_step()
                moved.append(np.abs(training.optimizer.estimator.coef_).max())
            else:
                training.train_step()
                before = [w.copy() for w in training.optimizer.estimator.coefs_]
                training.optimizer.set_lr(rate)
                training.train_step()
                after = training.optimizer.estimator.coefs_
                moved.append(max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)))
            training.optimizer.restore(kept)
        assert 30 < moved[1] / moved[0] < 300


def bad_scikit_learn() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    linear, network = imported("sklearn.linear_model"), imported("sklearn.neural_network")
    made = {
        "other": (linear.LogisticRegression(), TypeError, "LogisticRegression, wanted an MLPClass"),
        "solver": (
            network.MLPRegressor(solver="lbfgs"),
            ValueError,
            "MLPRegressor with solver='lbfgs', wanted 'adam' or 'sgd'",
        ),
        "schedule": (
            linear.SGDClassifier(),
            ValueError,
            "SGDClassifier with learning_rate='optimal', whose rates are not eta0",
        ),
        "average": (
            linear.SGDRegressor(learning_rate="constant", average=True),
            ValueError,
            "SGDRegressor with average=True, whose losses hide",
        ),
        "loss": (
            linear.SGDRegressor(learning_rate="constant", loss="other"),
            ValueError,
            "SGDRegressor with loss='other', which is not known",
        ),
    }
    x, y = digits()
    return {
        **{
            name: ({"estimator": one}, error, f"estimator: got {message}")
            for name, (one, error, message) in made.items()
        },
        "rows": ({"y": y[:3]}, ValueError, "y: got 3 rows, wanted 1797, as X has"),
        "empty": ({"X": x[:0], "y": y[:0]}, ValueError, "X: got no rows, wanted some"),
        "many": ({"batch_size": 2000}, ValueError, "batch_size: got 2000, wanted at most 1797"),
        "few": ({"batch_size": 0}, ValueError, "batch_size: got 0, wanted at least 1"),
        "not a number": ({"X": np.full_like(x, np.nan)}, ValueError, "Input X contains NaN"),
    }


@pytest.mark.parametrize("case", bad_scikit_learn())
def test_bad_scikit_learn(case: str) -> None:
    from gradstep.tuning.sklearn import source  # noqa: PLC0415

    change, error, message = bad_scikit_learn()[case]
    x, y = digits()
    with pytest.raises(error) as raised:
        range_test(*source(**{"estimator": estimators()["adam"][0], "X": x, "y": y, **change}))
    assert str(raised.value).startswith(message)


@pytest.mark.filterwarnings("error")
def test_ctrl_c_reaches_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks make a warning of it."""
    from gradstep.tuning.sklearn import source  # noqa: PLC0415

    x, y = digits()
    training = source(estimators()["adam"][0], x, y)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(training.optimizer.estimator), "_backprop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        range_test(*training)


# ---- Keras ----


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras(backend: str) -> None:
    """Each backend in a process of its own: Keras has one for the whole of its life."""
    for name in (backend, "keras"):  # importing Keras here would choose for the other tests
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name}")
    root = PAGE.parent.parent
    script = f"""
import sys, pytest
sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", {str(root)!r},
    "-c", {str(root / "pyproject.toml")!r}, {str(root / "tests" / "keras_trainings.py")!r}]))
"""
    result = finished(script, options=(), timeout=300, KERAS_BACKEND=backend, GRADSTEP_SKIPPED=None)
    assert result.returncode == 0, result.stdout + result.stderr


# ---- the page ----


def test_page(tmp_path: Path) -> None:
    """Its code runs, each block after those before it."""
    for name in ("lightning.pytorch", "transformers", "accelerate", "torch"):
        imported(name)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 5
    if importlib.util.find_spec("keras") is None:
        pytest.skip("no keras")
    script = "".join(blocks)
    script += """
for one in (found, in_lightning, in_trainer, in_keras, of_network, of_linear):
    assert one.interval is not None, one
print("as told")
"""
    result = finished(script, options=(), timeout=300, cwd=tmp_path, KERAS_BACKEND="torch")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("as told\n")
