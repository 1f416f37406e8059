"""The origin of a row axis: the first value with these rows."""

from __future__ import annotations

import torch_geometric.utils as pyg
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.relations import Contraction, Movement, Pointwise


def row_origin(flow: Dataflow, node: fx.Node, axis: int) -> tuple[fx.Node, int]:
    """Follow a row axis back through operations that keep its rows; return the first value and its axis."""
    while (step := _one_step_back(flow, node, axis)) is not None:
        node, axis = step
    return node, axis


def _one_step_back(flow: Dataflow, node: fx.Node, axis: int) -> tuple[fx.Node, int] | None:
    relation, sizes = flow.relations[node], flow.axes[node].sizes
    if isinstance(relation, Contraction):
        return (relation.x, axis) if axis < len(sizes) - 1 else None
    if node.target is pyg.scatter:  # its dim_size gives the number of rows
        count = node.args[3] if len(node.args) > 3 else node.kwargs.get("dim_size")
        if not isinstance(count, fx.Node) or count.target != "size" or len(count.args) != 2:
            return None
        counted, place = count.args
        if not isinstance(counted, fx.Node) or not isinstance(place, int) or counted not in flow.axes:
            return None
        return counted, place % len(flow.axes[counted].sizes)
    if isinstance(relation, Pointwise) and _keeps_rows(flow, node, relation):
        return relation.flows[0].source, axis
    if isinstance(relation, Movement) and relation.how in ("reshape", "cat", "pick"):
        source = relation.flows[0].source
        rows, source_rows = _row_axes(flow, node), _row_axes(flow, source)
        same = relation.how != "reshape" or flow.axes[source].count == flow.axes[node].count
        if (
            same
            and rows == [axis]
            and len(source_rows) == 1
            and flow.axes[source].pairs[source_rows[0]] == flow.axes[node].pairs[axis]
        ):
            return source, source_rows[0]
    return None


def _row_axes(flow: Dataflow, node: fx.Node) -> list[int]:
    return [axis for axis, size in enumerate(flow.axes[node].sizes) if size is None]


def _keeps_rows(flow: Dataflow, node: fx.Node, relation: Pointwise) -> bool:
    """Whether the first operand has the result's row axes; gathers and aggregations change the rows."""
    if sum(source in flow.axes for source in node.all_input_nodes) != len(relation.flows):
        return False
    source = relation.flows[0].source
    return source.op != "get_attr" and flow.axes[source].pairs == flow.axes[node].pairs
