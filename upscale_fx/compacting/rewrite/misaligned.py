"""The exception of a rewrite that finds a layout which cannot be expressed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx


class Misaligned(Exception):
    """The layouts of these values cannot be expressed; ``certain``: in no order of what they keep.

    A rewrite goes on after the first one, as if it could be expressed: ``later`` are those that it met after it.
    """

    def __init__(self, *nodes: fx.Node, certain: bool = False) -> None:
        super().__init__(", ".join(node.name for node in nodes))
        self.nodes = nodes
        self.certain = certain
        self.reader: fx.Node | None = None  # the node that was being emitted
        self.later: list[Misaligned] = []


def raise_first(misaligned: Sequence[Misaligned]) -> None:
    """Raise the first of these, which has the later ones with it, if there are any."""
    if misaligned:
        first, *first.later = misaligned
        raise first
