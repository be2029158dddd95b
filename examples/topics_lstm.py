"""Which rate for an LSTM that reads Python's own help texts, one character after another?

    python examples/topics_lstm.py --out DIR
    gradstep find examples/topics_lstm.py:training

Needs PyTorch and the extra "demo". The texts are those of the Python that runs it, so that figures
differ a little from one version to the next.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from pydoc_data.topics import topics

import torch
from torch import nn

import common
from gradstep.torch import Adam

BATCH, LENGTH = 32, 32
CHARACTERS = 80  # the commonest; all others are one


@functools.cache
def load() -> tuple[torch.Tensor, torch.Tensor]:
    """The texts as numbers of characters, to train on and held out: every tenth paragraph.

    Topics share paragraphs; each counts once, or what is held out would have been seen.
    """
    paragraphs = list(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))
    common_ones = Counter("".join(paragraphs)).most_common(CHARACTERS)
    code = {character: i for i, (character, _) in enumerate(common_ones)}

    def numbers(chosen: list[str]) -> torch.Tensor:
        return torch.tensor([code.get(c, CHARACTERS) for c in "\n\n".join(chosen)])

    seen = [text for i, text in enumerate(paragraphs) if i % 10]
    return numbers(seen), numbers(paragraphs[::10])


class Model(nn.Module):
    """Scores of the next character after each of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS + 1, 32)
        self.lstm = nn.LSTM(32, 96, batch_first=True)
        self.output = nn.Linear(96, CHARACTERS + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.lstm(self.embedding(x))[0])


class Topics(common.Training):
    """An LSTM learns to foretell the next character of Python's help texts, at several rates."""

    title = "Help texts, an LSTM on characters"
    unit = "nats per character"
    measure = "held-out bits per character"
    rate = 0.01

    def __init__(self, rate: common.Rate, seed: int = 0) -> None:
        torch.manual_seed(seed)  # of the first weights
        self.model = Model()
        self.optimizer = Adam(self.model.parameters(), lr=rate, stats="sample")
        self.text, self.held_text = load()
        self.generator = torch.Generator().manual_seed(seed)  # of the minibatches

    def loss(self, text: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Mean over the texts that begin at these places."""
        x = text[at[:, None] + torch.arange(LENGTH + 1)]
        return nn.functional.cross_entropy(self.model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())

    def step(self) -> float:
        at = torch.randint(len(self.text) - LENGTH, (BATCH,), generator=self.generator)
        self.optimizer.zero_grad()
        loss = self.loss(self.text, at)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def held_out(self) -> tuple[float, float]:
        at = torch.arange(0, len(self.held_text) - LENGTH, LENGTH)
        loss = self.loss(self.held_text, at).item()
        return loss, loss / math.log(2)


def training() -> tuple[object, Adam]:
    """For `gradstep find`."""
    made = Topics(Topics.rate)
    return made.step, made.optimizer


if __name__ == "__main__":
    common.main(Topics, "fixed", steps=400)
