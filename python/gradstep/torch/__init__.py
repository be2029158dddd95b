"""gradstep's rules as PyTorch optimizers: one native step for all tensors, on the CPU.

The classes have the signatures, groups, states and checkpoints of ``torch.optim``'s, and what
gradstep has besides: storages, clipping, averages and more, see :class:`Optimizer`.

Example:
    >>> import torch
    >>> from gradstep.torch import AdamW
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AdamW(model.parameters(), lr=1e-3, clip_norm=1.0)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.report.grad_norm  # doctest: +ELLIPSIS
    1.73...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import torch
except ImportError as error:  # in the words of extras.need; no extra of ours is for torch alone
    raise ImportError("torch is needed for gradstep.torch: pip install torch") from error

if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(
        f"gradstep.torch: got PyTorch {torch.__version__}, wanted 2.10 or newer, whose tensors can "
        "be looked at from C++"
    )

from .. import _core
from .backward import step_in_backward
from .classes import CLASSES
from .offloading import SimulatedLink, offload
from .optimizer import Optimizer
from .placing import layerwise, muon_groups

_core.find_openmp()  # PyTorch's, which it has loaded by now
globals().update(CLASSES)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[Optimizer]: ...  # the rules of the catalogue


__all__ = [  # noqa: PLE0604 - and the classes' names
    "Optimizer",
    "SimulatedLink",
    "layerwise",
    "muon_groups",
    "offload",
    "step_in_backward",
    *CLASSES,
]
