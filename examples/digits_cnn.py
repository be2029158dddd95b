"""Which rate for a small convolutional network on handwritten digits?

    python examples/digits_cnn.py --out DIR
    gradstep find examples/digits_cnn.py:training

Needs PyTorch and the extra "demo".
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import common
from gradstep.torch import Adam

BATCH = 64


def load() -> list[torch.Tensor]:
    """The 1,797 digits of scikit-learn, three quarters to train on: images, held out, labels."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return train_test_split(
        pixels, torch.tensor(labels), test_size=0.25, stratify=labels, random_state=0
    )


class Digits(common.Training):
    """A small convolutional network learns handwritten digits, at several rates."""

    title = "Digits, a convolutional network"
    unit = "nats per image"
    measure = "held-out errors (%)"
    rate = 0.001

    def __init__(self, rate: common.Rate, seed: int = 0) -> None:
        torch.manual_seed(seed)  # of the first weights
        self.model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 2 * 2, 10),
        )  # fmt: skip
        self.optimizer = Adam(self.model.parameters(), lr=rate, stats="sample")
        self.images, self.held_images, self.labels, self.held_labels = load()
        self.generator = torch.Generator().manual_seed(seed)  # of the minibatches
        self.order = torch.empty(0, dtype=torch.int64)

    def step(self) -> float:
        if len(self.order) < BATCH:
            self.order = torch.randperm(len(self.images), generator=self.generator)
        batch, self.order = self.order[:BATCH], self.order[BATCH:]
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.images[batch]), self.labels[batch])
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def held_out(self) -> tuple[float, float]:
        scores = self.model(self.held_images)
        loss = nn.functional.cross_entropy(scores, self.held_labels)
        wrong = (scores.argmax(dim=1) != self.held_labels).float().mean()
        return loss.item(), 100 * wrong.item()


def training() -> tuple[object, Adam]:
    """For `gradstep find`."""
    made = Digits(Digits.rate)
    return made.step, made.optimizer


if __name__ == "__main__":
    common.main(Digits, "exponential", steps=840)
