"""Where PyTorch keeps what the core reads of tensors at each step, found by trying at import.

PyTorch promises none of it. So each place is found by how it changes, and then all of it is tried
on every change that matters; where one goes unseen, nothing is used, and each step asks PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sysconfig
import weakref
from collections.abc import Callable, Sequence
from operator import or_
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import _core

SIZES = (2, 3, 5, 7, 11)
ALL_BITS = 2**64 - 1


def find(handle: int, source: _core.TensorSource) -> _core.TensorMemory:
    """What reads tensors where they lie; of no use where something was not found.

    Args:
        handle: where the C++ tensor lies in a tensor's Python object, in bytes.
        source: looks into tensors by asking PyTorch.
    """
    nothing = _core.TensorMemory()
    if struct.calcsize("P") != 8 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return nothing
    try:
        with torch.inference_mode(mode=False), torch.no_grad():
            return _find(handle, source)
    except (
        ValueError,
        AttributeError,
        RuntimeError,
        TypeError,
        OSError,
    ):  # another PyTorch than expected
        source.memory = nothing
        return nothing


def _find(handle: int, source: _core.TensorSource) -> _core.TensorMemory:
    try:
        places = Reader(22, 11).places(handle)
    except ValueError:  # what is not in the first words is behind them
        places = Reader(23, 12).places(handle)
    memory = source.memory = _core.TensorMemory(places)
    is_good = _tells_apart(source)
    source.memory = _core.TensorMemory()
    for tensor in (_new(), _new()):
        memory.learn_alone(tensor)
        tensor.untyped_storage()  # whose Python object may stay
        memory.learn_alone(tensor)
    return memory if is_good and _counts(memory) else source.memory


def _new(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(sizes or (3, 5), dtype=dtype, device="cpu")


def _changed(before: Sequence[int], after: Sequence[int]) -> set[int]:
    return {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}


def _only(places: set[int]) -> int:
    """The one that there is."""
    (place,) = places  # else a ValueError
    return place


class Reader(NamedTuple):
    """Finds each thing in so many words of 8 bytes of a C++ tensor and of its storage."""

    tensor_words: int
    storage_words: int

    def of_tensor(self, tensor: torch.Tensor) -> tuple[int, ...]:
        return self._words(tensor._cdata, self.tensor_words)

    def of_storage(self, tensor: torch.Tensor) -> tuple[int, ...]:
        return self._words(tensor.untyped_storage()._cdata, self.storage_words)

    @staticmethod
    def _words(address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"{count}Q", ctypes.string_at(address, 8 * count))

    def places(self, handle: int) -> _core.TensorPlaces:
        """Where each thing is.

        Raises:
            ValueError: it was not found.
        """
        places = _core.TensorPlaces()
        places.handle = handle
        tensor = _new(*SIZES)
        words = self.of_tensor(tensor)
        shape = [len(SIZES), *SIZES, *tensor.stride()]
        starts = [i for i in range(len(words)) if list(words[i : i + len(shape)]) == shape]
        places.dimensions, places.most_dimensions = _only({*starts}), len(SIZES)
        places.storage = words.index(tensor.untyped_storage()._cdata)
        before = self.of_tensor(tensor), self.of_storage(tensor)
        kept = tensor[:1]
        places.count = _only(_changed(before[0], self.of_tensor(tensor)))
        places.storage_count = _only(_changed(before[1], self.of_storage(tensor)))
        del kept
        # Addresses differ among all of the alike; unused bits hold what was in that memory before.
        alike = [self.of_tensor(one) for one in [self._spoilt(n) for n in range(9)]]
        who = {i for i, values in enumerate(zip(*alike, strict=True)) if len({*values}) > 4}
        unused = [
            functools.reduce(or_, (value ^ word for value in values))
            for word, *values in zip(words, *alike, strict=True)
        ]
        before = self.of_tensor(tensor), self.of_storage(tensor)
        tensor.requires_grad_()
        who |= {places.storage, places.count} | _changed(before[0], self.of_tensor(tensor))
        tensor.requires_grad_(requires_grad=False)
        last = max(_changed(words, self.of_tensor(tensor._neg_view())) - who)
        places.words = [i for i in range(last + 1) if i not in who]
        places.masks = [ALL_BITS & ~unused[i] for i in places.words]
        self._find_in_storage(places)
        return places

    def _spoilt(self, n: int) -> torch.Tensor:
        """A tensor, if all goes well in memory that was full of ones, or of zeros for an even n."""
        library = ctypes.CDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
        size = 8 * self.tensor_words
        blocks = [block for block in [library.malloc(size) for _ in range(4)] if block]
        for block in blocks:
            ctypes.memset(block, 255 * (n % 2), size)
        for block in blocks:
            library.free(block)
        return _new(*SIZES)

    def _find_in_storage(self, places: _core.TensorPlaces) -> None:
        tensor, array = _new(1237), np.ones(1237, np.float32)
        of_numpy = torch.from_numpy(array)
        storage = tensor.untyped_storage()
        words = self.of_storage(tensor)
        places.data = words.index(tensor.data_ptr())
        places.size = words.index(storage.nbytes())
        places.storage_object = words.index(id(storage))
        places.deleter = places.data + 1
        places.memory_end = places.size + 1
        here = [self.of_storage(_new(n))[places.deleter] for n in (1, 5, 300, 100_000)]
        found = (
            self.of_storage(of_numpy)[places.data] == array.ctypes.data
            and all(one == words[places.deleter] for one in here)
            and self.of_storage(of_numpy)[places.deleter] not in here
            and places.data < places.size
        )
        if not found:
            raise ValueError


# ---- trying it ----


def _strided(*strides: int) -> torch.Tensor:
    return torch.empty_strided((3, 5), strides, dtype=torch.float32, device="cpu")


# What is another tensor than the one that _new makes, as far as a step is concerned.
OTHERS: tuple[Callable[[], torch.Tensor], ...] = (
    lambda: _new(5, 3),
    lambda: _new(15),
    lambda: _new(1, 3, 5),
    lambda: _new(3, 4),
    lambda: _new(4, 5),
    lambda: _strided(1, 3),
    lambda: _strided(10, 1),
    lambda: _strided(0, 1),
    *(
        (lambda dtype=dtype: _new(dtype=dtype))
        for dtype in (torch.int32, torch.float64, torch.float16, torch.bfloat16, torch.complex64)
    ),
    lambda: _new(8, 5)[1:4],
    lambda: _new()._neg_view(),
    lambda: torch._efficientzerotensor((3, 5), dtype=torch.float32, device="cpu"),
    lambda: torch.empty(3, 5, dtype=torch.float32, device="meta"),
    lambda: _new().to_sparse(),
)


def _tells_apart(source: _core.TensorSource) -> bool:
    """Whether the core sees every change that matters, and takes the alike for alike."""
    tensor, six, shrunk = _new(), _new(1, 1, 1, 1, 3, 5), _new()
    kept = _core.KeptTensor(source, tensor)
    shrunk.untyped_storage().resize_(8)
    return (
        kept.is_same(tensor)
        and kept.is_alike(_new())
        and not any(kept.is_same(one) for one in (tensor.clone(), tensor[1:], six))
        and not kept.is_alike(shrunk)
        and not _core.KeptTensor(source, six).is_same(six)  # its sizes lie elsewhere
        and not any(kept.is_alike(make()) for make in OTHERS)
        and _sees_moves(source)
    )


def _sees_moves(source: _core.TensorSource) -> bool:
    """Whether a tensor that was changed in place is no longer the same."""

    def move(change: Callable[[torch.Tensor], Any]) -> bool:
        tensor = _new()
        kept = _core.KeptTensor(source, tensor)
        change(tensor)
        return not kept.is_same(tensor)

    def replace(tensor: torch.Tensor) -> None:
        tensor.data = _new()

    return all(
        move(change)
        for change in (
            replace,
            lambda tensor: tensor.t_(),
            lambda tensor: tensor.resize_(2, 5),
            lambda tensor: tensor.untyped_storage().resize_(0),
            lambda tensor: tensor.untyped_storage().resize_(4000),
            torch._lazy_clone,
            lambda tensor: tensor.set_(_new(8, 5).untyped_storage(), 5, (3, 5)),
        )
    )


def _counts(memory: _core.TensorMemory) -> bool:
    """Whether it tells that somebody holds a tensor or its memory, and that nobody does."""
    holders: tuple[Callable[[torch.Tensor], Any], ...] = (
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: weakref.ref(tensor.untyped_storage()),
        weakref.ref,
        lambda tensor: tensor[:1],
        lambda tensor: tensor.detach(),
        torch.utils.dlpack.to_dlpack,
    )
    for hold in holders:
        tensor = _new()
        if not memory.is_alone(tensor):
            return False
        held = hold(tensor)
        if memory.is_alone(tensor):
            return False
        del held
        if not memory.is_alone(tensor):
            return False
    return not memory.is_alone(torch.from_numpy(np.ones((3, 5), np.float32)))
