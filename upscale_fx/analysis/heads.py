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
    alike: dict[tuple[int, int], Positions] = {}
    for node, axes in flow.axes.items():
        if len(axes.wide) > 1 and node.op != "get_attr" and not _is_stack_like(flow, node):
            shape = (axes.count, axes.shape[axes.wide[-1]])
            if shape not in alike:
                alike[shape] = cells(axes)
            blocks[node] = alike[shape]
    if not blocks:
        return blocks
    links = [
        (node, f.source)
        for node, relation in flow.relations.items()
        if isinstance(relation, Pointwise | Movement)
        for f in relation.ties()
        if f.is_identity and f.source.op != "get_attr" and len(f.index) == flow.axes[f.source].count
    ]
    # Most values have the same blocks as others, in one array: what two of them make together is found once.
    together: dict[tuple[int, int], Positions] = {}
    kept: list[tuple[Positions, Positions]] = []  # so that no other array gets the id of one of them
    changed = True
    while changed:
        changed = False
        for a, b in [*links, *reversed(links)]:
            for into, out in ((a, b), (b, a)):
                if out not in blocks or blocks.get(into) is blocks[out]:
                    continue
                own, other = blocks.get(into, blocks[out]), blocks[out]
                key = (id(own), id(other))
                if key not in together:
                    together[key] = _refined(own, other)
                    kept.append((own, other))
                if blocks.get(into) is not together[key]:
                    blocks[into] = together[key]
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


def _refined(own: Positions, other: Positions) -> Positions:
    """The blocks that two lists of blocks make together; ``own`` itself where the other ones divide none of its."""
    if own is other:
        return own
    kinds, together = np.unique(_common(own, other), return_inverse=True)
    return together.reshape(-1).astype(np.int64) if len(kinds) > len(np.unique(own)) else own


def _common(own: Positions, other: Positions) -> Positions:
    """Number the pairs of blocks; block numbers are not negative."""
    return own.astype(np.int64) * (int(other.max(initial=0)) + 1) + other
