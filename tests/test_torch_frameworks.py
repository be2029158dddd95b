"""A short real training within each framework that drives PyTorch's optimizers for its users."""

from __future__ import annotations

import copy
import warnings
from pydoc_data import topics

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

pytestmark = [
    # Others': of what they themselves import and call.
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.* argument is set as true:UserWarning"),
]
LENGTH, STEPS = 32, 12


def imported(name):
    """A framework, whatever it warns of when it is imported; or skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def texts(count=8 * STEPS):
    """Pieces of real text, as bytes."""
    text = "".join(topics.topics.values()).encode()[: count * (LENGTH + 1)]
    pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return pieces.view(count, LENGTH + 1)


def new_model():
    """Of each byte, what the next will be, from it and the one before."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(256, 16),
        torch.nn.Conv1d(LENGTH, LENGTH, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 256),
    )


def loss_of(model, pieces):
    return torch.nn.functional.cross_entropy(
        model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten()
    )


def test_accelerate(tmp_path):
    accelerate = imported("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, plain = new_model(), new_model()
    ours = gt.AdamW(model.parameters(), lr=0.03, clip_norm=0.5)
    theirs = torch.optim.AdamW(plain.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(ours, 1.0, 0.1, total_iters=STEPS)
    loader = torch.utils.data.DataLoader(texts(), batch_size=4)
    model, optimizer, loader, schedule = accelerator.prepare(model, ours, loader, schedule)
    losses = []
    for i, pieces in enumerate(loader):
        with accelerator.accumulate(model):
            loss = loss_of(model, pieces)
            accelerator.backward(loss)
            losses.append(loss.item())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        # The same by hand.
        (loss_of(plain, pieces) / 2).backward()
        if i % 2:
            norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5).item()
            theirs.step()
            theirs.zero_grad()
            theirs.param_groups[0]["lr"] = ours.param_groups[0]["lr"]
            assert ours.report.grad_norm == pytest.approx(norm, rel=1e-3)
    assert ours.report.t == STEPS
    assert ours.param_groups[0]["lr"] == pytest.approx(0.003)
    assert losses[-1] < losses[0] - 0.5
    for param, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(param, wanted, rtol=1e-3, atol=1e-4)

    # To its own files and back.
    accelerator.save_state(str(tmp_path), safe_serialization=False)
    kept = copy.deepcopy(ours.state_dict())
    (loss_of(model, texts()[:4])).backward()
    optimizer.step()
    accelerator.load_state(str(tmp_path))
    torch.testing.assert_close(ours.state_dict(), kept, rtol=0, atol=0)


def test_transformers_trainer(tmp_path):
    transformers = imported("transformers")
    imported("accelerate")
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": LENGTH, "vocab_size": 256}
    config = transformers.GPT2Config(
        **shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0
    )
    data = [{"input_ids": ids, "labels": ids} for ids in texts()[:, :LENGTH]]

    def train(name, optimizer, until, resume=False, **options):
        transformers.set_seed(0)
        trainer = transformers.Trainer(
            transformers.GPT2LMHeadModel(config),
            transformers.TrainingArguments(
                str(tmp_path / name),
                per_device_train_batch_size=4,
                max_steps=until,
                learning_rate=0.01,  # which the keywords of the optimizer replace
                lr_scheduler_type="constant",
                save_steps=STEPS // 2,
                logging_steps=1,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                **options,
            ),
            train_dataset=data,
            optimizer_cls_and_kwargs=optimizer,
        )
        trainer.train(resume_from_checkpoint=resume)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return trainer, losses

    ours = (gt.AdamW, {"lr": 0.005, "clip_norm": 1.0})
    # It clips, too, if it is not told otherwise.
    trainer, losses = train("ours", ours, STEPS, max_grad_norm=0)
    _, wanted = train("theirs", (torch.optim.AdamW, {"lr": 0.005}), STEPS, max_grad_norm=1.0)
    assert losses == pytest.approx(wanted, rel=1e-3)
    assert losses[-1] < losses[0] - 0.5
    optimizer = trainer.optimizer.optimizer
    assert isinstance(optimizer, gt.AdamW)
    assert optimizer.report.t == STEPS
    assert optimizer.report.grad_norm > 0
    # Weight decay where it says so, and not on biases and norms.
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]

    middle = str(tmp_path / "ours" / f"checkpoint-{STEPS // 2}")
    again, _ = train("ours again", ours, STEPS, resume=middle, max_grad_norm=0)
    for param, same in zip(again.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(param, same)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_lightning(tmp_path):
    lightning = imported("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self, rule, **options):
            super().__init__()
            self.model = new_model()
            self.rule, self.options = rule, options
            self.losses = []

        def on_train_start(self):
            self.begun = copy.deepcopy(self.optimizers().optimizer.state_dict())

        def training_step(self, pieces):
            loss = loss_of(self.model, pieces)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            optimizer = self.rule(self.parameters(), lr=0.03, **self.options)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=STEPS)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def train(module, until, resume=None, clip=None):
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=until,
            gradient_clip_val=clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        loader = torch.utils.data.DataLoader(texts(4 * STEPS), batch_size=8)  # half a training
        trainer.fit(module, loader, ckpt_path=resume)
        return trainer

    module, theirs = Module(gt.AdamW, clip_norm=0.5), Module(torch.optim.AdamW)
    optimizer = train(module, STEPS).optimizers[0]
    train(theirs, STEPS, clip=0.5)
    assert module.losses == pytest.approx(theirs.losses, rel=1e-3)
    assert module.losses[-1] < module.losses[0] - 0.5
    assert isinstance(optimizer, gt.AdamW)
    assert (optimizer.report.t, optimizer.param_groups[0]["lr"]) == (STEPS, pytest.approx(0.003))

    half = Module(gt.AdamW, clip_norm=0.5)
    train(half, STEPS // 2).save_checkpoint(tmp_path / "half.ckpt")
    again = Module(gt.AdamW, clip_norm=0.5)
    train(again, STEPS, resume=tmp_path / "half.ckpt")
    assert len(again.losses) == STEPS // 2
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["optimizer_states"]
    torch.testing.assert_close(again.begun, saved[0], rtol=0, atol=0)
    assert {state["step"].item() for state in saved[0]["state"].values()} == {STEPS // 2}
