"""Parameter tables with a row per node, read whole and passed over edges: LightGCN's ``conv(emb.weight, edge_index)``.

A parameter has the same shape in both example graphs, so its rows look like channels. Such a table is traced again as
rows (:func:`~upscale_fx.compiled.functions.rows_of`): then its columns are channels, and so are those of what the
edges make of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
import torch_geometric.utils as pyg
from torch import fx, nn
from torch.nn import functional as F

#: Calls whose operands lie one below the other.
_STACKS = (torch.cat, torch.concat, torch.concatenate, torch.vstack)


def node_tables(gm: fx.GraphModule) -> set[str]:
    """Names of the 2-D parameters ``[N, C]`` in a graph that aggregates to ``N`` rows; together, of stacked ones.

    ``N`` is a constant in such a graph, which the aggregation says.
    """
    tables = {node: shape for node in gm.graph.nodes if (shape := _shape(gm, node)) is not None}
    if not tables:
        return set()
    counts = {count for node in gm.graph.nodes for count in _counts(node)}
    found: set[str] = set()
    for node, (rows, _) in tables.items():
        if rows in counts and not any(_is_weight(user, node) for user in node.users):
            found.add(str(node.target))
    for node in gm.graph.nodes:
        parts = list(node.args[0]) if node.target in _STACKS and isinstance(node.args[0], list | tuple) else []
        if parts and all(part in tables for part in parts) and sum(tables[part][0] for part in parts) in counts:
            found.update(str(part.target) for part in parts)
    return found


def _shape(gm: fx.GraphModule, node: fx.Node) -> tuple[int, int] | None:
    """``(N, C)`` of a parameter of floating point numbers; None for other nodes."""
    if node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(gm.get_submodule(owner), name, None)
    if not isinstance(value, nn.Parameter) or value.dim() != 2 or not value.is_floating_point():
        return None
    return value.shape[0], value.shape[1]


def _counts(node: fx.Node) -> Iterator[int]:
    """Rows of an aggregation, or of what it adds to: ``scatter(x, index, 0, 37)``, ``x.new_zeros(37, 8)``."""
    if node.target is pyg.scatter or str(node.target).startswith("new_"):
        yield from (value for value in (*node.args, *node.kwargs.values()) if type(value) is int)


def _is_weight(user: fx.Node, table: fx.Node) -> bool:
    """Whether a call multiplies by the table, so that its rows are channels."""
    if user.target in (F.linear, torch.addmm, F.bilinear):
        return user.args[0] is not table
    products = (operator.matmul, torch.matmul, torch.mm, "matmul", "mm")
    return user.target in products and len(user.args) > 1 and user.args[1] is table
