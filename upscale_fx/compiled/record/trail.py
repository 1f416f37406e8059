"""The trail of a search for an amount: all amounts it tried."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Trial:
    """One amount that was tried.

    Attributes:
        amount: the share of channels to remove, in [0, 1).
        score: the score of the pruned model; that of the dense model if the amount rounds to no channel.
        drop: the dense model's score minus this one; below 0 the pruned model is better.
        parameters: number of parameters left.
        within: whether the drop is at most the allowed one (up to rounding, 1e-7 of the score).
        removed: whether anything was removed.
    """

    amount: float
    score: float
    drop: float
    parameters: int
    within: bool
    removed: bool = True


@dataclass(frozen=True)
class Trail:
    """The trials of a search, in order; prints as a table.

    Attributes:
        rows: one per amount.
        dense: the dense model's score.
        parameters: the dense model's number of parameters.
        max_drop: the largest drop of the score that was allowed.
    """

    rows: tuple[Trial, ...]
    dense: float
    parameters: int
    max_drop: float

    @property
    def best(self) -> Trial | None:
        """The trial with the largest amount that removes something and stays within the drop; None if there is none."""
        within = [row for row in self.rows if row.within and row.removed]
        return max(within, key=lambda row: row.amount, default=None)

    def __str__(self) -> str:
        rows = [("dense", f"{self.dense:.6g}", "", f"{self.parameters:,}", "")]
        for row in self.rows:
            verdict = ("yes" if row.within else "no") if row.removed else "nothing removed"
            chosen = " <-" if row == self.best else ""
            drop = f"{row.drop:+.4g}"
            rows.append((f"{row.amount:.4g}", f"{row.score:.6g}", drop, f"{row.parameters:,}", verdict + chosen))
        headers = ["amount", "score", "drop", "parameters", f"drop <= {self.max_drop:g}"]
        aligned = ("right", "right", "right", "right", "left")
        return str(tabulate(rows, headers=headers, colalign=aligned, disable_numparse=True))
