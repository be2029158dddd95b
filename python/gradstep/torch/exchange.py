"""Other numbers in the place of parameters, for a while."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Exchange:
    """Numbers that stand in parameters, and in their copies, until they are brought back.

    Args:
        shown: pairs of a tensor and what is to stand in it.
    """

    def __init__(self, shown: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._shown = shown
        self._before = [tensor.detach().clone() for tensor, _ in shown]

    def there(self) -> None:
        """Bring the other numbers in."""
        with torch.no_grad():
            for tensor, value in self._shown:
                tensor.copy_(value)

    def back(self) -> None:
        """Bring back what was there, to the bit, however often."""
        with torch.no_grad():
            for (tensor, _), before in zip(self._shown, self._before, strict=True):
                tensor.copy_(before)
