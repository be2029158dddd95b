"""A model on an accelerator, its optimizer here; see :func:`gradstep.torch.offload`."""

from __future__ import annotations

from .optimizer import Offload, offload
from .simulated import SimulatedLink

__all__ = ["Offload", "SimulatedLink", "offload"]
