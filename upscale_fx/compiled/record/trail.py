"""What a search for an amount tried."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Trial:
    """One amount that was tried.

    Attributes:
        amount: the share of channels asked to go, in [0, 1).
        score: what the evaluation gave; the dense model's where the amount rounds to no channel.
        drop: the dense model's score minus this one; below 0 the pruned model is better.
        parameters: how many were left.
        within: whether the drop is at most what was allowed (up to rounding, 1e-7 of the score).
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
    """What a search tried, in the order in which it did; prints as a table.

    Attributes:
        rows: one per amount.
        dense: the dense model's score.
        parameters: the dense model's parameters.
        max_drop: by how much the score was allowed to be lower.
    """

    rows: tuple[Trial, ...]
    dense: float
    parameters: int
    max_drop: float

    @property
    def best(self) -> Trial | None:
        """The largest amount within the drop that removes something, if there is one."""
        good = [row for row in self.rows if row.within and row.removed]
        return max(good, key=lambda row: row.amount, default=None)

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
