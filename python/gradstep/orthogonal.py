"""Matrices made orthogonal between the two passes of a step: what Muon does to its directions.

The products are the host framework's, here NumPy's, and their last bits follow the machine. All
else of a step has the same bits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .hyperparameters import EPSILON, FINITE, Choice, number, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine import Held

Polynomial = tuple[float, float, float]

POLAR_EXPRESS = "polar_express"
MOST_STEPS = 99  # as PyTorch
BATCH = 1 << 20  # elements, up to which matrices of one shape are multiplied in one call

# Amsel et al., "The Polar Express", 2025, algorithm 1: the best odd polynomials of degree 5 for
# singular values from 1e-3 to 1, each one for the range in which those before it leave them. All
# but the last divide by _SAFETY first, so that rounding does not lead out of that range.
_OPTIMAL = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_SAFETY = 1.01
POLYNOMIALS: tuple[Polynomial, ...] = (
    *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _OPTIMAL),
    (1.875, -1.25, 0.375),
)


class Part(NamedTuple):
    """A matrix to be made orthogonal in place: a direction, or some of its rows."""

    matrix: Any  # not more rows than columns
    norm: float | None  # None: yet to be computed
    scale: float  # what the result is multiplied by


class Orthogonal(NamedTuple):
    """How the directions of a group are made orthogonal.

    Attributes:
        polynomials: the three coefficients of each step.
        eps: the least norm that a matrix is divided by.
        dtype: what products are computed in; None: what the step computes in.
        adjust: how the rate follows from the shape.
        splits: how many parts a matrix has, or how many outputs each of them.
        transposed: whether outputs lie along columns.
    """

    polynomials: tuple[Polynomial, ...]
    eps: float
    dtype: str | None
    adjust: str | None
    splits: int | tuple[int, ...] | None
    transposed: bool

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Orthogonal:
        """What a group's hyperparameters, which were checked, say."""
        given = group["ns_coefficients"]
        known: Any = POLYNOMIALS if given == POLAR_EXPRESS else given
        known = tuple(map(tuple, known)) if isinstance(known[0], tuple | list) else (tuple(known),)
        steps = int(group["ns_steps"])
        splits = group["splits"]
        return cls(
            polynomials=(*known[:steps], *[known[-1]] * (steps - len(known))),
            eps=float(group["eps"]),
            dtype=group["dtype"],
            adjust=group["adjust_lr_fn"],
            splits=tuple(splits) if isinstance(splits, tuple | list) else splits,
            transposed=bool(group["transposed"]),
        )

    def factor(self, shape: Sequence[int]) -> float:
        """What the rate is multiplied by for a matrix of this shape."""
        outputs, inputs = reversed(shape) if self.transposed else shape
        if self.adjust == "match_rms_adamw":
            return 0.2 * math.sqrt(max(outputs, inputs))
        return math.sqrt(max(1.0, outputs / max(inputs, 1)))

    def parts(self, matrix: Any, squares: float) -> tuple[list[Part], float]:
        """Cut a direction into the matrices that are each made orthogonal by itself.

        Args:
            matrix: the direction.
            squares: the sum of its squares.

        Returns:
            The matrices, and what the rate is multiplied by for all of them.
        """
        across = int(self.transposed)
        lengths = output_counts(self.splits, matrix.shape[across])
        views, end = [], 0
        for length in lengths:
            begin, end = end, end + length
            views.append(matrix[:, begin:end] if across else matrix[begin:end])
        factors = [self.factor(view.shape) for view in views]
        norm = math.sqrt(squares) if len(views) == 1 else None
        parts = [
            Part(view.T if view.shape[0] > view.shape[1] else view, norm, factor / factors[0])
            for view, factor in zip(views, factors, strict=True)
        ]
        return parts, factors[0]


def output_counts(splits: int | tuple[int, ...] | None, outputs: int) -> Sequence[int]:
    """How many of a matrix's outputs each of its parts has."""
    if splits is None:
        return (outputs,)
    return [outputs // splits] * splits if isinstance(splits, int) else splits


class Redirection:
    """What stands between the passes of a step: turns directions into orthogonal matrices.

    Args:
        held: the parameters.
        groups: the position of each tensor's group.
        directions: the direction of each tensor, or None.
        gathered: a row for each tensor, whose first number is the sum of squares of its direction
            and becomes the factor of its rate.
    """

    def __init__(
        self,
        held: Held,
        groups: Sequence[int],
        directions: Sequence[Any],
        gathered: NDArray[np.float64],
    ) -> None:
        self.held = held
        self.groups = groups
        self.directions = directions
        self.gathered = gathered

    def __call__(self, indices: Sequence[int]) -> None:
        """Redirect these tensors' steps.

        Args:
            indices: their positions.
        """
        for how, some in self._batches(indices):
            whole = [self.collect(i) for i in some]
            alike: dict[tuple[int, ...], list[Part]] = {}
            for i, matrix in zip(some, whole, strict=True):
                parts, self.gathered[i, 0] = how.parts(matrix, self.gathered[i, 0])
                for part in parts:
                    alike.setdefault(tuple(part.matrix.shape), []).append(part)
            for group in alike.values():
                self.orthogonalise(group, how)
            for i, matrix in zip(some, whole, strict=True):
                self.hand_back(i, matrix)

    def _batches(self, indices: Sequence[int]) -> Iterator[tuple[Orthogonal, list[int]]]:
        """Tensors of one shape whose products are made at once."""
        rows = self.held.rows
        found: dict[int, Orthogonal] = {}
        alike: dict[Any, list[int]] = {}
        for i in indices:
            row, shape = rows[self.groups[i]], self.shape(i)
            if row.index not in found:
                found[row.index] = Orthogonal.of(row.values)
            alike.setdefault((found[row.index], shape, self.kind(i)), []).append(i)
        for (how, shape, _), some in alike.items():
            count = max(1, BATCH // max(1, math.prod(shape)))
            for begin in range(0, len(some), count):
                yield how, some[begin : begin + count]

    # ---- what a framework does in its own way ----

    def shape(self, i: int) -> tuple[int, ...]:
        """The shape of a whole direction."""
        return tuple(self.directions[i].shape)

    def kind(self, i: int) -> Any:
        """What a direction must have in common with others of one call, besides its shape."""
        return self.directions[i].dtype

    def collect(self, i: int) -> Any:
        """A whole direction, to be changed in place."""
        return self.directions[i]

    def hand_back(self, i: int, matrix: Any) -> None:
        """Take what :meth:`collect` gave, once it is changed."""

    def orthogonalise(self, parts: Sequence[Part], how: Orthogonal) -> None:
        """Replace matrices of one shape by orthogonal ones."""
        rows, columns = parts[0].matrix.shape
        dtype = np.dtype(how.dtype or parts[0].matrix.dtype)
        x = np.empty((len(parts), rows, columns), dtype)
        for one, part in zip(x, parts, strict=True):
            norm = np.linalg.norm(part.matrix) if part.norm is None else part.norm
            np.divide(part.matrix, dtype.type(max(norm, how.eps)), out=one, casting="same_kind")
        gram = np.empty((len(parts), rows, rows), dtype)
        update, other = np.empty_like(gram), np.empty_like(x)
        diagonal = np.einsum("kii->ki", update)
        for a, b, c in how.polynomials:
            np.matmul(x, x.swapaxes(1, 2), out=gram)
            np.matmul(gram, gram, out=update)
            update *= dtype.type(c)
            gram *= dtype.type(b)
            update += gram
            diagonal += dtype.type(a)  # a X + update X in one product
            x, other = np.matmul(update, x, out=other), x
        for one, part in zip(x, parts, strict=True):
            np.multiply(one, dtype.type(part.scale), out=part.matrix, casting="same_kind")


# ---- the hyperparameters ----


def _check_coefficients(argument: str, value: Any) -> None:
    wanted = CHOICES["ns_coefficients"].wanted
    if isinstance(value, str) and value == POLAR_EXPRESS:
        return
    if not isinstance(value, tuple | list) or not value:
        raise TypeError(f"{argument}: got {value!r}, wanted {wanted}")
    for item in value if isinstance(value[0], tuple | list) else [value]:
        if not isinstance(item, tuple | list) or len(item) != 3:
            raise ValueError(f"{argument}: got {value!r}, wanted {wanted}")
        for coefficient in item:
            number(argument, FINITE, coefficient, single=True)


def _check_eps(argument: str, value: Any) -> None:
    number(argument, EPSILON, value, single=True)


def _check_steps(argument: str, value: Any) -> None:
    if whole(argument, value, 1 << 16) > MOST_STEPS:
        raise ValueError(f"{argument}: got {value}, wanted {CHOICES['ns_steps'].wanted}")


def _check_splits(argument: str, value: Any) -> None:
    parts = value if isinstance(value, tuple | list) else [1 if value is None else value]
    if not parts or not all(whole(argument, part, 1 << 52) for part in parts):
        raise ValueError(f"{argument}: got {value!r}, wanted {CHOICES['splits'].wanted}")


def _check_transposed(argument: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument}: got {value!r}, wanted True or False")


def _one_of(*values: str | None) -> Choice:
    wanted = "one of " + ", ".join(map(repr, values))

    def check(argument: str, value: Any) -> None:
        if not (value is None or isinstance(value, str)) or value not in values:
            raise ValueError(f"{argument}: got {value!r}, wanted {wanted}")

    return Choice(wanted, check)


CHOICES: dict[str, Choice] = {
    "ns_coefficients": Choice(
        "three numbers, a tuple of such for each step, or 'polar_express'", _check_coefficients
    ),
    "eps": Choice(EPSILON.wanted, _check_eps),
    "ns_steps": Choice(f"a whole number from 0 to {MOST_STEPS}", _check_steps),
    "adjust_lr_fn": _one_of(None, "original", "match_rms_adamw"),
    "dtype": _one_of(None, "float32", "float64", "bfloat16"),
    "splits": Choice("None, a number of parts, or the outputs of each", _check_splits),
    "transposed": Choice("True or False", _check_transposed),
}


def check_dtype(prefix: str, group: Mapping[str, Any]) -> None:
    """Raise ValueError for products that NumPy does not have."""
    if (dtype := group["dtype"]) == "bfloat16":
        raise ValueError(
            f"{prefix}dtype: got {dtype!r} for arrays, wanted None, 'float32' or 'float64'"
        )


def check_matrix(
    argument: str, shape: tuple[int, ...], start: int, group: Mapping[str, Any]
) -> None:
    """Raise ValueError for what is no whole matrix, or cannot be cut into the parts asked for."""
    if len(shape) != 2:
        raise ValueError(
            f"{argument}: got shape {shape}, wanted a matrix: Muon makes matrices orthogonal; what "
            "is none goes to a group with another rule, such as AdamW (see muon_groups)"
        )
    if start:
        raise ValueError(
            f"{argument}: got a shard that starts at {start}, wanted a whole matrix: Muon makes "
            "it orthogonal, which the orthogonal matrices of its pieces are not"
        )
    splits, across = group["splits"], int(bool(group["transposed"]))
    outputs = shape[across]
    if splits is not None and sum(output_counts(splits, outputs)) != outputs:
        raise ValueError(
            f"{argument}: got {outputs} {'columns' if across else 'rows'} with splits={splits!r}, "
            "wanted parts that fill it"
        )
