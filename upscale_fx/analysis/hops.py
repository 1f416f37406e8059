"""Find the operations that cross edges, and the hops from an output at which each value is needed.

This is for graphs with one type of nodes and one type of edges. Example sizes, not names, show whether a value has rows
of nodes or of edges. An operation that reads nodes and returns edges *gathers* rows; one that reads edges and returns
nodes *aggregates* them. A gather reads the ``own`` end of its edges if its index equals the index by which its result
is aggregated later. Otherwise it reads the ``far`` end: a neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_symbols import LOOPS, describe, row_symbols, tensor_axes
from upscale_fx.errors import InputError

End = Literal["own", "far"]


@dataclass(frozen=True)
class Edges:
    """The operations of a graph that cross its edges.

    Attributes:
        gathers: operations that read rows of nodes for every edge -> the ends of edges they read: the aggregating node
            (``own``), its neighbour (``far``), or both if self loops are added; none if the operation has no index.
        aggregations: operations that combine rows of edges at nodes -> the values they combine.
    """

    gathers: Mapping[fx.Node, frozenset[End]]
    aggregations: Mapping[fx.Node, tuple[fx.Node, ...]]

    def __bool__(self) -> bool:
        return bool(self.gathers or self.aggregations)


def find_edges(flow: Dataflow) -> Edges:
    """Find all operations that cross edges in an analysed graph, which must not be fused."""
    indices: dict[fx.Node, fx.Node | None] = {}
    aggregations: dict[fx.Node, tuple[fx.Node, ...]] = {}
    targets: dict[fx.Node, set[fx.Node]] = {}  # value with rows of edges -> the indices by which it is aggregated
    for node in reversed(flow.nodes):
        rows = row_symbols(flow, node)
        floating = [source for source in node.all_input_nodes if _is_floating(flow, source)]
        if rows in LOOPS:
            if any(row_symbols(flow, source) == "N" for source in floating):
                indices[node] = _index(flow, node, rows)
            for source in node.all_input_nodes:
                targets.setdefault(source, set()).update(targets.get(node, ()))
        elif rows == "N":
            combined = tuple(source for source in floating if row_symbols(flow, source) in LOOPS)
            for source in combined:
                index = _index(flow, node, row_symbols(flow, source))
                targets.setdefault(source, set()).update(() if index is None else (index,))
            if combined:
                aggregations[node] = combined
    gathers = {node: _ends(flow, index, targets.get(node, set())) for node, index in indices.items()}
    return Edges(gathers, aggregations)


def _is_floating(flow: Dataflow, node: fx.Node) -> bool:
    value = flow.values[node][0]
    return node in flow.axes and isinstance(value, Tensor) and value.is_floating_point()


def _index(flow: Dataflow, node: fx.Node, rows: str) -> fx.Node | None:
    """Return the argument of an operation that is an index with one number per edge."""
    for source in node.all_input_nodes:
        value = flow.values[source][0]
        is_index = isinstance(value, Tensor) and value.dim() == 1 and value.dtype in (torch.int64, torch.int32)
        if is_index and row_symbols(flow, source) == rows:
            return source
    return None


def _ends(flow: Dataflow, index: fx.Node | None, targets: set[fx.Node]) -> frozenset[End]:
    """Return the ends a gather reads: none (unknown) without an index, the far end if nothing aggregates the result."""
    if index is None:
        return frozenset()
    if not targets:
        return frozenset({"far"})
    ends: set[End] = set()
    for target in targets:
        pairs = list(zip(flow.values[index], flow.values[target], strict=True))
        if all(isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b) for a, b in pairs):
            ends.add("own")
        else:
            loops = LOOPS[row_symbols(flow, index)]
            ends.update(("own", "far") if loops else ("far",))
    return frozenset(ends)


def data(flow: Dataflow) -> set[fx.Node]:
    """Return tensors, and tuples of tensors, that are computed from features or parameters; others are structure."""
    features: set[fx.Node] = set()
    for node in flow.nodes:
        axes, value = tensor_axes(flow, node), flow.values.get(node, (None,))[0]
        if node.op == "placeholder":
            is_data = axes is not None and len(axes.sizes) > 1 and _is_floating(flow, node)
        elif node.op == "get_attr":
            is_data = isinstance(value, nn.Parameter)
        else:
            is_data = axes is not None and any(source in features for source in node.all_input_nodes)
        if is_data:
            features.add(node)
    return features


def hops_needed(flow: Dataflow, edges: Edges) -> dict[fx.Node, set[int]]:
    """Return for every value that an output needs the hops at which it is needed, counted from one node of the output.

    A value with rows of edges is needed at hop h for the edges that end at a node at hop h.

    Raises:
        InputError: the output is not one row per node, or a value on the way to it has rows of neither nodes nor edges.
    """
    kept = data(flow)
    hops: dict[fx.Node, set[int]] = {}
    for output in flow.outputs:
        if output in kept:
            rows = row_symbols(flow, output)
            if rows != "N":
                has = "is one value for the whole graph" if rows == "call" else f"has one row for each of {rows}"
                raise InputError(
                    f"batched inference is of one node, but the output of {describe(output)} {has}; ask without fanouts"
                )
            hops[output] = {0}
    for node in reversed(flow.nodes):
        for source in node.all_input_nodes if node in hops else ():
            if source in kept:
                hops.setdefault(source, set()).update(_hops_before(flow, edges, source, node, hops[node]))
    return hops


def _hops_before(flow: Dataflow, edges: Edges, source: fx.Node, node: fx.Node, hops: set[int]) -> set[int]:
    """Return the hops at which an operation at these hops needs one of its operands."""
    before, after = row_symbols(flow, source), row_symbols(flow, node)
    if before in ("call", after) or (before in LOOPS and after in (*LOOPS, "N")):
        return hops
    ends = edges.gathers.get(node) if before == "N" else None
    if ends:
        steps = [step for step, end in enumerate(("own", "far")) if end in ends]
        return {hop + step for hop in hops for step in steps}
    raise InputError(
        f"batched inference of one node cannot be counted: {describe(node)} reads rows of kind {before} and gives "
        f"{'one value for the whole graph' if after == 'call' else f'rows of kind {after}'}, by no index of edges; ask "
        f"without fanouts"
    )
