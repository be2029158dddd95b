"""Logs as tools write them: read with the right columns, or refused in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradstep import cli
from gradstep.tuning import columns, read_logs
from gradstep.tuning.finding import Refused

K = 200
LOSSES = [round(3 * math.exp(-k / 30) + 0.5 + (k * 7919 % 97) / 1000, 4) for k in range(K)]
STEPS = list(range(K))
Line = Callable[[int, float], str]


def lines(line: Line, begin: str = "", end: str = "\n") -> str:
    return begin + "".join(line(k, loss) + end for k, loss in enumerate(LOSSES))


def bar(k: int, loss: float) -> str:
    return (
        f"Epoch {k // 100}:  {k % 100}%|███   | {k % 100}/100 [00:01<00:30,  3.1it/s, loss={loss}]"
    )


def keras_bar(k: int, loss: float) -> str:
    begin = f"\nEpoch {k // 100 + 1}/2\n" if k % 100 == 0 else ""
    return (
        f"{begin}\r\x1b[1m{k % 100 + 1}/100\x1b[0m \x1b[32m━━━\x1b[0m\x1b[37m━━\x1b[0m "
        f"\x1b[1m1s\x1b[0m 3ms/step - accuracy: 0.5 - loss: {loss}"
    )


def nanogpt(k: int, loss: float) -> str:
    every = f"step {k}: train loss {loss + 1:.4f}, val loss {loss + 2:.4f}\n" if k % 50 == 0 else ""
    return f"{every}iter {k}: loss {loss:.4f}, time 12.3ms, mfu 3.2%"


# What a tool writes; which columns are to be taken; the rate and the norm that it wrote.
WRITTEN: dict[str, tuple[str, dict[str, str], float | None, float | None]] = {
    "nanoGPT": (
        lines(nanogpt),
        {"loss": "loss", "step": "iter", "evaluation": "val loss"},
        None,
        None,
    ),
    "llm.c, terminal": (
        lines(
            lambda k, x: (
                f"step {k:4d}/18865 | loss {x:.6f} (+nanz)| norm 15.3000 (+nanz)| lr 8.57e-07 | "
                "3057.87 ms | 43.0% bf16 MFU | 171546 tok/s"
            )
        ),
        {"loss": "loss", "step": "step", "lr": "lr", "grad_norm": "norm"},
        8.57e-7,
        15.3,
    ),
    "llm.c, main.log": (
        lines(lambda k, x: f"s:{k} trl:{x:.4f} lr:0.000100 norm:1.50", "s:0 tel:11.02\n"),
        {"loss": "trl", "step": "s", "lr": "lr", "grad_norm": "norm"},
        1e-4,
        1.5,
    ),
    "logging": (
        lines(
            lambda k, x: f"2024-01-01 12:00:{k % 60:02},123 INFO train: step={k} loss={x} lr=1e-3"
        ),
        {"loss": "loss", "step": "step", "lr": "lr"},
        1e-3,
        None,
    ),
    "Megatron": (
        lines(
            lambda k, x: (
                f" [2024-01-01] iteration {k:8d}/  500000 | consumed samples: {k * 512:12d} | "
                f"elapsed time per iteration (ms): 6666.1 | learning rate: 1.000000E-04 | global "
                f"batch size:   512 | lm loss: {x:.6E} | loss scale: 4096.0 | grad norm: 1.234 |"
            )
        ),
        {"loss": "lm loss", "step": "iteration", "lr": "learning rate", "grad_norm": "grad norm"},
        1e-4,
        1.234,
    ),
    "Detectron": (
        lines(
            lambda k, x: (
                f"[01/01 00:00:00 d2]: eta: 0:00:01  iter: {k}  total_loss: {x}  loss_cls: 0.1  "
                "loss_box_reg: 0.2  time: 0.5  lr: 0.00025  max_mem: 100M"
            )
        ),
        {"loss": "total_loss", "step": "iter", "lr": "lr"},
        2.5e-4,
        None,
    ),
    "Trainer, printed": (
        lines(lambda k, x: str({"loss": x, "grad_norm": 1.2, "learning_rate": 5e-5, "epoch": k})),
        {"loss": "loss", "lr": "learning_rate", "grad_norm": "grad_norm", "epoch": "epoch"},
        5e-5,
        1.2,
    ),
    "tqdm": (
        lines(bar, end="\r") + "\n",
        {"loss": "loss", "step": "progress", "epoch": "Epoch"},
        None,
        None,
    ),
    "Keras, terminal": (
        lines(keras_bar, end="") + "\n",
        {"loss": "loss", "step": "progress", "epoch": "Epoch"},
        None,
        None,
    ),
    "bars": (
        lines(lambda k, x: f"| step {k} | loss {x} | lr 0.1 |"),
        {"loss": "loss", "step": "step", "lr": "lr"},
        0.1,
        None,
    ),
    "epochs and steps": (
        lines(lambda k, x: f"epoch {k // 50} step {k % 50} loss {x}"),
        {"loss": "loss", "step": "step", "epoch": "epoch"},
        None,
        None,
    ),
    "decimal commas": (
        lines(lambda k, x: f"step {k}: loss={x}; lr=0.001".replace(".", ",")),
        {"loss": "loss", "step": "step", "lr": "lr"},
        1e-3,
        None,
    ),
    "Keras, CSVLogger": (
        lines(lambda k, x: f"{k},0.5,{x},{x + 1}", "epoch,acc,loss,val_loss\n"),
        {"loss": "loss", "epoch": "epoch", "evaluation": "val_loss"},
        None,
        None,
    ),
    "semicolons": (
        lines(lambda k, x: f"{k};{x};0,001".replace(".", ","), "step;loss;lr\n"),
        {"loss": "loss", "step": "step", "lr": "lr"},
        1e-3,
        None,
    ),
    "W&B, history": (
        lines(
            lambda k, x: f"{k},{k // 2},1.2,1e9,{x},0.001,1.5,{k},",
            ",_step,_runtime,_timestamp,train/loss,train/learning_rate,train/grad_norm,"
            "train/global_step,eval/loss\n",
        ),
        {
            "loss": "train/loss",
            "step": "train/global_step",
            "lr": "train/learning_rate",
            "grad_norm": "train/grad_norm",
            "evaluation": "eval/loss",
        },
        1e-3,
        1.5,
    ),
    "MLflow, long": (
        lines(
            lambda k, x: f"abc,r,train_loss,{x},{k},1\nabc,r,lr,0.01,{k},1",
            "run_id,name_of_run,metric,value,step,timestamp\n",
        ),
        {"loss": "train_loss", "lr": "lr"},
        0.01,
        None,
    ),
    "TensorBoard, download": (
        lines(lambda k, x: f"1.6e9,{k},{x}", "Wall time,Step,Value\n"),
        {"loss": "Value", "step": "Step"},
        None,
        None,
    ),
    "JSON lines": (
        lines(lambda k, x: json.dumps({"step": k, "loss": x, "lr": [0.1, 0.2]})),
        {"loss": "loss", "step": "step", "lr": "lr"},
        0.1,
        None,
    ),
    "JSON lines, nested": (
        lines(lambda k, x: json.dumps({"step": k, "train": {"loss": x}})),
        {"loss": "train/loss", "step": "step"},
        None,
        None,
    ),
    "a list of objects": (
        json.dumps([{"step": k, "loss": x} for k, x in enumerate(LOSSES)]),
        {"loss": "loss", "step": "step"},
        None,
        None,
    ),
    "Keras' history": (
        json.dumps({"loss": LOSSES, "val_loss": LOSSES}),
        {"loss": "loss", "evaluation": "val_loss"},
        None,
        None,
    ),
    "Trainer's state": (
        json.dumps(
            {
                "epoch": 1.0,
                "log_history": [
                    entry
                    for k, x in enumerate(LOSSES)
                    for entry in (
                        {"loss": x, "learning_rate": 0.1, "step": k, "epoch": k / 100},
                        *(
                            [{"eval_loss": x + 1, "step": k, "epoch": k / 100}]
                            if k % 50 == 0
                            else []
                        ),
                    )
                ],
                "max_steps": 5000,
            },
            indent=2,
        ),
        {
            "loss": "loss",
            "lr": "learning_rate",
            "step": "step",
            "epoch": "epoch",
            "evaluation": "eval_loss",
        },
        0.1,
        None,
    ),
}


@pytest.mark.parametrize("tool", WRITTEN)
def test_each_tool(tool: str, tmp_path: Path) -> None:
    text, taken, rate, norm = WRITTEN[tool]
    path = tmp_path / "run"
    path.write_text(text, encoding="utf-8", newline="")
    [log] = read_logs(path)
    assert dict(log.columns) == taken
    np.testing.assert_allclose(log.losses, LOSSES, rtol=1e-6, atol=1e-4)
    assert (np.diff(log.steps) == 1).all()
    assert log.rates[-1] == (pytest.approx(rate) if rate else pytest.approx(math.nan, nan_ok=True))
    assert log.grad_norms[-1] == (
        pytest.approx(norm) if norm else pytest.approx(math.nan, nan_ok=True)
    )


def test_totals_and_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(WRITTEN["Trainer's state"][0])
    [log] = read_logs(path)
    assert log.total == 5000
    assert log.evaluations.tolist() == [LOSSES[k] + 1 for k in (0, 50, 100, 150)]
    assert log.evaluation_steps.tolist() == pytest.approx([0, 50, 100, 150], abs=1)
    path.write_text(WRITTEN["llm.c, terminal"][0])
    assert read_logs(path)[0].total == 18865


def test_several_runs(tmp_path: Path) -> None:
    header = "Step," + ",".join(f"{r} - loss,{r} - loss__MIN,{r} - loss__MAX" for r in "ab")
    (tmp_path / "wandb.csv").write_text(
        lines(lambda k, x: f"{k},{x},{x},{x},{x + 1},{x},{x}", header + "\n")
    )
    a, b = read_logs(tmp_path / "wandb.csv")
    assert (a.name, b.name) == ("a", "b")
    np.testing.assert_allclose(b.losses - a.losses, 1)


def test_folders(tmp_path: Path) -> None:
    metrics = tmp_path / "mlruns" / "0" / "abc" / "metrics"
    metrics.mkdir(parents=True)
    (metrics / "train_loss").write_text(lines(lambda k, x: f"1700000000 {x} {k}"))
    (metrics / "lr").write_text(lines(lambda k, _: f"1700000000 0.1 {k}"))
    for k in (50, 100):
        folder = tmp_path / "out" / f"checkpoint-{k}"
        folder.mkdir(parents=True)
        history = [{"loss": x, "step": i} for i, x in enumerate(LOSSES[:k])]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}, indent=1))
    (tmp_path / "notes.md").write_text("# no log\n")
    (tmp_path / "model.bin").write_bytes(bytes(range(256)))
    found = {log.name: log for log in read_logs(tmp_path)}
    assert set(found) == {"mlruns/0/abc", str(Path("out/checkpoint-100/trainer_state.json"))}
    assert found["mlruns/0/abc"].rates[-1] == 0.1


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(tmp_path / "run")) as writer:
        for k, loss in enumerate(LOSSES):
            writer.add_scalar("train/loss", loss, k)
            writer.add_scalar("lr", 0.1, k)
    [log] = read_logs(tmp_path)
    assert (log.name, log.columns["loss"]) == ("run", "train/loss")
    np.testing.assert_allclose(log.losses, LOSSES, rtol=1e-6)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"step": STEPS, "train_loss": LOSSES, "lr": [0.1] * K})
    [log] = read_logs(frame)
    assert log.columns["loss"] == "train_loss"
    assert log.losses.tolist() == LOSSES


# ---- bad input ----

CSV = "step,loss\n"


def rows(steps: list[int]) -> str:
    return CSV + "".join(f"{k},{LOSSES[k % K]}\n" for k in steps)


REFUSED = {
    "empty": (b"", "got an empty file"),
    "blank": (b" \n\n", "got an empty file"),
    "binary": (bytes(range(256)), "got a binary file"),
    "no loss": (b"hello\nworld\n", "got text without a loss .* found the lines 'hello'"),
    "no loss in CSV": (b"step,accuracy\n1,0.5\n2,0.6\n", "got CSV without a loss .*step, accuracy"),
    "no loss in JSON": (b'{"step": 1}\n{"step": 2}\n', "JSON lines without a loss"),
    "several losses": (
        b"step,d_loss,g_loss\n1,2,3\n",
        "several losses, 'd_loss', 'g_loss', wanted --l",
    ),
    "two runs": (
        rows([j for i in range(90) for j in (i, i + 100)]).encode(),
        "got steps that go back 89",
    ),
    "half an object": (b'{"loss": [1, 2', "got no complete JSON|got text without a loss"),
    "losses are texts": (b"step,loss\n1,a\n2,b\n", "got no loss in any line|without a loss"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    data, words = REFUSED[case]
    path = tmp_path / "run"
    path.write_bytes(data)
    with pytest.raises(Refused, match=words):
        read_logs(path)


# What is there, what comes of it: steps, losses, and what the notes say.
MENDED = {
    "half a line": (
        '{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "lo',
        [1, 2],
        [3, 2],
        "has no end yet",
    ),
    "resumed": (
        rows([0, 1, 2, 3, 2, 3, 4]),
        [0, 1, 2, 3, 4],
        [LOSSES[k] for k in range(5)],
        "went back to an earlier step once",
    ),
    "repeated": (CSV + "1,5\n2,4\n2,3\n3,2\n", [1, 2, 3], [5, 3, 2], "1 lines repeat a step"),
    "not finite": (
        CSV + "1,5\n2,nan\n3,inf\n4,-inf\n",
        [1, 2, 3, 4],
        [5, math.inf, math.inf, math.inf],
        "",
    ),
    "missing": (CSV + "1,5\n2,\n3,None\n4,2\n", [1, 4], [5, 2], ""),
    "thousands": (
        CSV + '"1,000","2,345.5"\n"1,001","2,344.5"\n',
        [1000, 1001],
        [2345.5, 2344.5],
        "",
    ),
    "null": (
        '{"step": 1, "loss": 3}\n{"step": 2, "loss": null}\n{"step": 3, "loss": NaN}\n',
        [1, 3],
        [3, math.inf],
        "",
    ),
    "no steps": ("loss 3\nloss 2\nloss 1\n", [1, 2, 3], [3, 2, 1], "its lines are counted"),
    "a text among numbers": (CSV + "1,5\n2,error\n3,4\n", [1, 3], [5, 4], "1 cells are no numbers"),
    "short rows": ("step,loss,acc\n1,5,0.5\n2,4\n3,3,0.6\n", [1, 2, 3], [5, 4, 3], ""),
    "no JSON between": (
        '{"step": 1, "loss": 3}\nWarning!\n{"step": 2, "loss": 2}\n',
        [1, 2],
        [3, 2],
        "1 lines are no JSON objects",
    ),
}


@pytest.mark.parametrize("case", MENDED)
def test_mended(case: str, tmp_path: Path) -> None:
    text, steps, losses, note = MENDED[case]
    path = tmp_path / "run"
    path.write_text(text)
    [log] = read_logs(path)
    assert log.steps.tolist() == steps
    assert log.losses.tolist() == losses
    assert note in "; ".join(log.notes)
    assert note or not log.notes


# A text, and what it has: what a second reader was told wrongly.
READ: dict[str, tuple[str, dict[str, list[float]]]] = {
    "Trainer's terminal": (
        (
            "{'loss': '2.5', 'grad_norm': '0.5', 'learning_rate': '0.01', 'epoch': '0.5'}\n"
            "{'loss': '2.25', 'grad_norm': '0.4', 'learning_rate': '0.02', 'epoch': '1'}\n"
        ),
        {"losses": [2.5, 2.25], "rates": [0.01, 0.02], "grad_norms": [0.5, 0.4]},
    ),
    "a row that is being written": (
        "loss,step\n3,1\n2,2\n1,1",
        {"losses": [3, 2], "steps": [1, 2]},
    ),
    "a name with one number": (
        "step,loss,train_loss\n0,2.5,\n" + "".join(f"{k},,{9 - k}\n" for k in range(1, 21)),
        {"losses": [9 - k for k in range(1, 21)]},
    ),
    "the best loss beside": (
        "step 1 best loss: 0.5 loss: 3\nstep 2 best loss: 0.5 loss: 2\n",
        {"losses": [3, 2], "steps": [1, 2]},
    ),
    "norms of parameters beside": (
        "step 1 loss 3 param norm 9.0 grad norm 1.5\nstep 2 loss 2 param norm 9.0 grad norm 1.25\n",
        {"grad_norms": [1.5, 1.25]},
    ),
    "the norm of all": (
        "step,loss,grad_2.0_norm/a,grad_2.0_norm_total\n1,3,9,1\n2,2,9,2\n",
        {"grad_norms": [1, 2]},
    ),
    "a quote that is not closed": (
        'step,loss,text\n1,3,"abc\n2,2,b\n3,1,c\n',
        {"losses": [3, 2, 1]},
    ),
    "commas between semicolons": ("step;loss\n1;2,000\n2;1,500\n", {"losses": [2, 1.5]}),
    "three decimals": ("step 1 loss 2,000\nstep 2 loss 1,500\n", {"losses": [2, 1.5]}),
    "words in one": (
        "trainLoss,valLoss,learningRate\n3,4,0.5\n2,3,0.25\n",
        {"losses": [3, 2], "evaluations": [4, 3], "rates": [0.5, 0.25]},
    ),
    "joined words": ("valloss,trainloss\n4,3\n3,2\n", {"losses": [3, 2], "evaluations": [4, 3]}),
    "evaluations' own steps": (
        (
            '{"step": 5, "loss": 3}\n{"step": 10, "loss": 2}\n{"step": 10, "eval_loss": 4}\n'
            '{"step": 15, "loss": 1}\n'
        ),
        {"evaluation_steps": [10], "evaluations": [4]},
    ),
    "a blob in a line": (
        "x" * 100_000 + "\nstep 1 loss 3\nstep 2 loss 2\n",
        {"losses": [3, 2]},
    ),
    "nothing but blank lines later": ("loss 3\nloss 2\n" + "\n" * 3_000_000, {"losses": [3, 2]}),
}


@pytest.mark.parametrize("case", READ)
def test_read(case: str, tmp_path: Path) -> None:
    text, wanted = READ[case]
    path = tmp_path / "run"
    path.write_text(text)
    [log] = read_logs(path)
    for field, values in wanted.items():
        assert getattr(log, field).tolist() == values


def test_totals_have_thousands(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("step 8/10,000 loss 3\nstep 9/10,000 loss 2\n")
    assert read_logs(path)[0].total == 10_000


def test_a_line_alone_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("step 1 loss 2.0")
    with pytest.raises(Refused, match="got no line that has its end"):
        read_logs(path)


def test_a_cell_beyond_all_bounds(tmp_path: Path) -> None:
    path = tmp_path / "run"
    cell = "y" * 200_000
    path.write_text("step,loss,text\n" + "".join(f"{k},{9 - k},{cell}\n" for k in range(3)))
    with pytest.raises(Refused, match="run: got"):
        read_logs(path)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_of_a_run_that_was_lost(library: str) -> None:
    frames = pytest.importorskip(library)
    losses = [2.5 - k / 100 for k in range(60)] + [math.nan] * 40
    [log] = read_logs(frames.DataFrame({"step": list(range(100)), "loss": losses}))
    assert np.isinf(log.losses).sum() == 40


def test_what_is_no_log() -> None:
    with pytest.raises(TypeError, match="source: got dict, wanted a path, or a frame"):
        read_logs({"loss": [1, 2]})


def test_utf16(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_bytes(lines(lambda k, x: f"step {k} loss {x}", end="\r\n").encode("utf-16"))
    assert read_logs(path)[0].losses.tolist() == LOSSES


def test_names_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "gan.csv"
    path.write_text(lines(lambda k, x: f"{k},{x},{x + 1}", "n,d_loss,g_loss\n"))
    [log] = read_logs(path, loss="g_loss", step="n")
    assert log.losses[0] == pytest.approx(LOSSES[0] + 1)
    with pytest.raises(Refused, match=r"--loss: got 'none', wanted 'n', 'd_loss', 'g_loss'"):
        read_logs(path, loss="none")


@pytest.mark.parametrize(
    ("text", "comma", "value"),
    [
        ("1,234.5", False, 1234.5),
        ("1.234,5", True, 1234.5),
        ("3,2", True, 3.2),
        ("1e-3", False, 1e-3),
        ("nan", False, math.inf),
        ("Infinity", False, math.inf),
        (True, False, 1.0),
        (2, False, 2.0),
    ],
)
def test_numbers(text: object, comma: bool, value: float) -> None:
    assert columns.number(text, comma) == value


@pytest.mark.parametrize(
    "name", ["loss_scale", "time", "best_loss", "accuracy", "lr_scale_factor_x"]
)
def test_names_that_mean_nothing(name: str) -> None:
    found = columns.meaning(name)
    assert found is None or found.role != "loss"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--momentum"], "--momentum: got it for a log without the reports"),
        (["--follow", "--momentum"], "--momentum: got it for a log without the reports"),
        (["{log}", "--out", "{folder}/a.png"], "--out: got 2 runs, wanted one, or --html"),
        (["{log}", "--follow"], "--follow: got 2 logs, wanted one"),
    ],
)
def test_watch_refuses_what_it_would_not_use(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    path.write_text(WRITTEN["logging"][0])
    told = [option.format(log=path, folder=tmp_path) for option in options]
    assert cli.main(["watch", str(path), *told]) == 1
    shown = capsys.readouterr()
    assert words in shown.err
    assert not shown.out
    assert [file.name for file in tmp_path.iterdir()] == ["run.log"]


def test_watch_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.log"
    path.write_text(WRITTEN["logging"][0])
    assert cli.main(["watch", str(path)]) == 0
    out = capsys.readouterr().out
    assert "verdict" in out
    assert "loss = loss" in out
    assert cli.main(["watch", str(path), str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split("  ")[0] == "run"
    path.write_text("nothing here\n")
    assert cli.main(["watch", str(path)]) == 1
    assert "wanted --loss NAME" in capsys.readouterr().err
