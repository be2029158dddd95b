"""What a search found: rows, a table, a file, a picture."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import notebooks, plots
from ..tables import table

Method = Literal["grid", "random", "tpe"]
Outcome = Literal["finished", "pruned", "diverged"]

EDGE = 1.1  # a rate lies beyond another if it is so many times further


@dataclass(frozen=True)
class Tried:
    """What one rate came to.

    `losses`: the last loss of each run, in the order of the seeds; where a run diverged or was
    pruned, its last loss is the last of them. `step`: the last that a run came to.
    """

    rate: float
    outcome: Outcome
    losses: tuple[float, ...]
    step: int

    @property
    def loss(self) -> float:
        """Mean over the seeds; infinite where not all of them came to their end."""
        return math.fsum(self.losses) / len(self.losses) if self.outcome == "finished" else math.inf


@dataclass(frozen=True)
class SearchResult:
    """What `search` found.

    `tried`: every rate that came to an end, from low to high. `seeds`: of the runs with each.
    `lr`, `method`: as asked for.
    """

    tried: tuple[Tried, ...]
    seeds: tuple[int, ...]
    lr: tuple[float, float]
    method: Method

    @property
    def best(self) -> float | None:
        """The rate with the lowest mean loss, the lower of two; None where none finished."""
        finished = [row for row in self.tried if row.outcome == "finished"]
        return min(finished, key=lambda row: row.loss).rate if finished else None

    @property
    def edge(self) -> Literal["", "low", "high"]:
        """At which end of the rates tried the best one is, so that a better one may lie beyond."""
        if self.best is None:
            return ""
        if self.tried[-1].rate < self.best * EDGE:
            return "high"
        return "low" if self.tried[0].rate > self.best / EDGE else ""

    def __str__(self) -> str:
        """A table, one line per rate."""
        header, rows = self._table()
        return table(rows, header, right=">" * (len(header) - 1))

    @notebooks.whatever_comes
    def _repr_html_(self) -> str:
        header, rows = self._table()
        return notebooks.table("Search", header, rows, numbers=set(range(len(header) - 1)))

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The names of the columns, and a row for each rate."""
        several = len(self.seeds) > 1
        rows = [
            (
                f"{row.rate:.6g}",
                f"{row.loss:.6g}" if row.outcome == "finished" else "-",
                *((f"{min(row.losses):.6g}", f"{max(row.losses):.6g}")
                  if several and row.outcome == "finished" else ("-", "-") if several else ()),
                f"{row.outcome} at step {row.step}" if row.outcome != "finished"
                else "best" if row.rate == self.best else "",
            )
            for row in self.tried
        ]  # fmt: skip
        if not several:
            return ("rate", "loss", ""), rows
        return ("rate", f"mean loss of {len(self.seeds)}", "lowest", "highest", ""), rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a logger or JSON; a loss that is not finite is None."""
        return {
            "best": self.best,
            "edge": self.edge,
            "lr": list(self.lr),
            "method": self.method,
            "seeds": list(self.seeds),
            "tried": [
                {
                    "rate": row.rate,
                    "outcome": row.outcome,
                    "step": row.step,
                    "loss": row.loss if math.isfinite(row.loss) else None,
                    "losses": [loss if math.isfinite(loss) else None for loss in row.losses],
                }
                for row in self.tried
            ],
        }

    def to_csv(self, path: Path | str) -> Path:
        """Write one line per rate: rate, outcome, step, mean loss, and the last loss by seed.

        Cells of runs that were not made are empty; a loss may be `inf` or `nan`.
        """
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["rate", "outcome", "step", "loss", *(f"loss_of_seed_{one}" for one in self.seeds)]
            )
            for row in self.tried:
                spare = [""] * (len(self.seeds) - len(row.losses))
                mean = row.loss if row.outcome == "finished" else ""
                writer.writerow([row.rate, row.outcome, row.step, mean, *row.losses, *spare])
        return path

    def plot(self, path: Path | str, *, title: str = "Search for a rate") -> Path:
        """Draw the loss by rate, with its spread over the seeds; see `plots.search`.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: no rate was tried.
        """
        finished = [row for row in self.tried if row.outcome == "finished"]
        others = {
            outcome: [row.rate for row in self.tried if row.outcome == outcome]
            for outcome in ("pruned", "diverged")
        }
        losses = [row.losses for row in finished]
        return plots.search([row.rate for row in finished], losses, others, path, title=title)
