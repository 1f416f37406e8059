"""The exception of a rewrite that finds a layout which cannot be expressed."""

from __future__ import annotations

from torch import fx


class Misaligned(Exception):
    """The layouts of these values cannot be expressed; ``certain``: as long as they hold what they hold, in any order.

    A rewrite goes on after the first one, as if it could be expressed: ``later`` are those that it met after it.
    """

    def __init__(self, *nodes: fx.Node, certain: bool = False) -> None:
        super().__init__(", ".join(node.name for node in nodes))
        self.nodes = nodes
        self.certain = certain
        self.reader: fx.Node | None = None  # the node that was being emitted
        self.later: list[Misaligned] = []
