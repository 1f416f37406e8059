"""Models that are refused today, with reasons and messages. Whoever makes one work takes its line out."""

from dataclasses import dataclass, replace

from tests.conformance.whole_models.row import Whole


@dataclass(frozen=True)
class Refusal:
    """The reason in words, as the documentation lists it, and what the error says."""

    why: str
    error: str


FIXED = Refusal("an adjacency matrix or a kernel per node fixes the number of nodes", r"expected \[(any, 3, )?9")
POINTS = Refusal("what an index points to is guessed, and here wrongly: the example's sizes only", "is fixed at")

REFUSED = {
    "GraphDTA gcn on two-molecules": POINTS,
    "STGCN-temporal": FIXED,
    "ASTGCN-temporal": FIXED,
}


def marked(rows: list[Whole]) -> list[Whole]:
    """The rows, those that are refused marked as such."""
    names = {name.replace(" ", "_"): refusal for name, refusal in REFUSED.items()}
    unknown = names.keys() - {row.name for row in rows}
    assert not unknown, unknown
    return [_refused(row, names[row.name]) if row.name in names else row for row in rows]


def _refused(row: Whole, refusal: Refusal) -> Whole:
    return replace(row, expect="refused", why=refusal.why, error=refusal.error)
