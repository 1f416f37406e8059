"""Heads: blocks of positions, which exist because a value, or a view of it, has several channel axes."""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.rectangles import cells
from upscale_fx.channels.relations import Barrier, Movement, Pointwise


def head_blocks(flow: Dataflow) -> dict[fx.Node, Positions]:
    """Return the block (head) of each position, for values with several wide axes and for flat views of them."""
    blocks: dict[fx.Node, Positions] = {}
    for node, axes in flow.axes.items():
        if len(axes.wide) > 1 and node.op != "get_attr" and not _is_stack_like(flow, node):
            blocks[node] = cells(axes)
    if not blocks:
        return blocks
    links = [
        (node, f.source)
        for node, relation in flow.relations.items()
        if isinstance(relation, Pointwise | Movement)
        for f in relation.ties()
        if f.is_identity and f.source.op != "get_attr" and len(f.index) == flow.axes[f.source].count
    ]
    changed = True
    while changed:
        changed = False
        for a, b in [*links, *reversed(links)]:
            for into, out in ((a, b), (b, a)):
                if out in blocks and _refines(blocks.get(into), blocks[out]):
                    blocks[into] = _refined(blocks.get(into), blocks[out])
                    changed = True
    return blocks


def _is_stack_like(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a value is stacked ([C, L] or [L, C]): its parts are whole tensors, not heads."""
    relation = flow.relations[node]
    if isinstance(relation, Movement) and relation.how == "stack":
        return True
    if isinstance(relation, Pointwise):
        full = [f for f in relation.flows if f.is_identity and len(f.index) == flow.axes[f.source].count]
        return any(_is_stack_like(flow, f.source) for f in full)
    return isinstance(relation, Barrier)


def _refines(own: Positions | None, other: Positions) -> bool:
    if own is None:
        return True
    return own is not other and len(np.unique(_common(own, other))) > len(np.unique(own))


def _refined(own: Positions | None, other: Positions) -> Positions:
    if own is None:
        return other
    return np.unique(_common(own, other), return_inverse=True)[1].reshape(-1).astype(np.int64)


def _common(own: Positions, other: Positions) -> Positions:
    """Number the pairs of blocks; block numbers are not negative."""
    return own.astype(np.int64) * (int(other.max(initial=0)) + 1) + other
