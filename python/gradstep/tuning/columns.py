"""What a column or key of a log means, by the names that tools give them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

ROLES = ("step", "loss", "lr", "grad_norm", "evaluation", "epoch", "total")

EVALUATION = {
    "val", "valid", "validation", "eval", "evaluation", "test", "dev", "tel", "holdout", "heldout",
}  # fmt: skip
TRAINING = {"train", "training", "trainer", "tr"}
SUMMARIES = {"best", "min", "max", "std", "scale", "scaler", "var", "delta", "weight", "coef"}
SMOOTHED = {"running", "avg", "average", "mean", "smooth", "smoothed", "ema", "epoch"}
# Terms of one loss, as detectors log them: the sum is what is minimised.
TERMS = {"box", "cls", "dfl", "obj", "seg", "mask", "pose", "kobj", "rfl", "sem", "giou", "l1"}
LOSSES = {"loss", "nll", "trl", "perplexity_loss"}
RATES = {"lr", "lr0", "learningrate"}
NORMS = {"grad_norm", "gradient_norm", "gnorm", "gradnorm", "total_norm", "norm", "grads_norm"}
STEPS = (
    ("global_step", "trainer_global_step", "train_global_step"),
    ("step", "steps", "train_step", "iteration", "iter", "update", "num_updates", "t"),
    ("iterations", "it", "batch", "batch_idx", "s", "k", "minibatch"),
    ("_step",),
)
TOTALS = ("max_steps", "total_steps", "num_training_steps", "t_total")


class Meaning(NamedTuple):
    """A role, and a rank among the names for it: the lowest is taken."""

    role: str
    rank: int


def plain(name: str) -> str:
    """A name in lower case, with underscores between its words, also of trainLoss and valloss."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^0-9a-z]+", "_", re.sub(r"(?<=[a-z]{2})(?=loss$)", "_", apart.lower()))


def meaning(name: str) -> Meaning | None:
    """What a name stands for; None: nothing that is looked for."""
    simple = plain(name)
    for rank, names in enumerate(STEPS):
        if simple in names:
            return Meaning("step", rank)
    if simple in TOTALS:
        return Meaning("total", TOTALS.index(simple))
    words = simple.strip("_").split("_")
    has = set(words)
    if simple in ("epoch", "epochs", "current_epoch", "train_epoch"):
        return Meaning("epoch", 0)
    if has & SUMMARIES:
        return None
    if has & LOSSES or simple.endswith("loss"):
        return _loss(words, has)
    if "decay" not in has and (has & RATES or {"learning", "rate"} <= has):
        known = simple in ("lr", "learning_rate")
        return Meaning("lr", 0 if known else 1)
    if simple in NORMS or ("norm" in has and has & {"grad", "grads", "gradient", "gradients"}):
        return Meaning("grad_norm", 0 if simple in NORMS else 1 if "total" in has else 2)
    return None


def _loss(words: list[str], has: set[str]) -> Meaning:
    smoothed = 1 if has & SMOOTHED else 0
    if has & EVALUATION:
        return Meaning("evaluation", smoothed + (0 if len(words) <= 2 else 2))
    others = has - TRAINING - SMOOTHED - {"loss", "step", "trl", "nll"}
    if not others:
        return Meaning("loss", 2 * smoothed + bool(has & TRAINING))
    if others <= {"total", "lm", "batch", "overall", "ce"}:
        return Meaning("loss", 4 + smoothed)
    return Meaning("loss", 8 + smoothed)


SELDOM = 0.1  # of the numbers that another name for the same has: less is no curve


class Chosen(NamedTuple):
    """The columns that are taken, by role; a loss may be the sum of several."""

    names: Mapping[str, tuple[str, ...]]

    def name(self, role: str) -> str | None:
        found = self.names.get(role)
        return found[0] if found else None

    def words(self) -> dict[str, str]:
        return {role: " + ".join(names) for role, names in self.names.items()}


def choose(
    names: Iterable[str], asked: Mapping[str, str], counts: Mapping[str, int] | None = None
) -> Chosen:
    """Which of the names to take.

    Args:
        names: those that a log has, in its order.
        asked: names by role that somebody asked for.
        counts: how many numbers each has in the first lines: one that hardly has any is taken
            where no other stands for the same. None: all have as many.

    Raises:
        LookupError: a name that was asked for is not there, there is no loss, or several are alike.
    """
    names = list(dict.fromkeys(names))
    taken: dict[str, tuple[str, ...]] = {}
    for role, name in asked.items():
        if name not in names:
            raise LookupError(f"--{role.replace('_', '-')}: got {name!r}, wanted {_listed(names)}")
        taken[role] = (name,)
    for role in ROLES:
        if role in taken:
            continue
        ranked = sorted(
            (found.rank, i, name)
            for i, name in enumerate(names)
            if (found := meaning(name)) is not None and found.role == role
        )
        if counts is not None and ranked:
            most = max(counts.get(name, 0) for _, _, name in ranked)
            ranked = [one for one in ranked if counts.get(one[2], 0) >= SELDOM * most]
        if not ranked:
            continue
        best = [name for rank, _, name in ranked if rank == ranked[0][0]]
        if role == "loss" and len(best) > 1 and ranked[0][0] >= 4:
            if not all(set(plain(name).split("_")) & TERMS for name in best):
                raise LookupError(f"got several losses, {_listed(best)}, wanted --loss to name one")
            taken[role] = tuple(best)
        else:
            taken[role] = (best[0],)
    if "loss" not in taken and "evaluation" in taken:
        taken["loss"] = taken.pop("evaluation")
    return Chosen(taken)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "nothing"


# ---- numbers as tools write them ----

UNKNOWN = math.nan  # a cell with nothing in it; what was logged as no finite number is infinite
NOTHING = {"", "none", "null", "na", "n/a", "-", "--", "<na>"}
DIGITS = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = rf"(?:{DIGITS}|[-+]?\d+\.|[-+]?(?:[nN]a[nN]|NAN|[iI]nf(?:inity)?))"


def number(value: Any, decimal_comma: bool = False) -> float:
    """A cell as a float: NaN where nothing is known, infinite where it is no finite number.

    Raises:
        ValueError: it is a text.
    """
    if isinstance(value, str):
        text = value.strip().strip("\"'")
        if text.lower() in NOTHING:
            return UNKNOWN
        if "," in text or "\u202f" in text or "\u00a0" in text:
            text = text.replace("\u202f", "").replace("\u00a0", "")
            if decimal_comma and "," in text:
                text = text.replace(".", "").replace(",", ".")
            else:
                text = text.replace(",", "")
        value = float(text)
    elif value is None:
        return UNKNOWN
    found = float(value)
    return found if math.isfinite(found) else math.inf


def has_decimal_comma(texts: Iterable[str]) -> bool:
    """Whether a comma stands before decimals there, not between thousands."""
    texts = [text for text in texts if text.strip()]
    commas = [text.strip() for text in texts if "," in text]
    if any("." in text for text in commas):
        # 1.234,5 has the point first; 1,234.5 the comma
        return any(0 <= text.find(".") < text.find(",") for text in commas)
    if len(commas) == len(texts) > 0 and all(re.fullmatch(r"\d,\d{3}", one) for one in commas):
        return True  # 2,000 then 1,500: no loss is in the thousands to the last digit
    return any(
        re.fullmatch(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?", text)
        and not re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", text)
        for text in commas
    )
