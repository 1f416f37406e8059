"""Count the parameters, bytes and multiply-adds of a graph, and the rows of a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.row_symbols import row_axes
from upscale_fx.channels.relations import Contraction
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product
from upscale_fx.compiled.inputs import ModelInputs, RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, is_fused, parameter_bytes, unfused
from upscale_fx.compiled.record.row_axes import RowAxes
from upscale_fx.compiled.record.size import Size


def size_of(module: CompiledGNN, flow: Dataflow | None = None) -> Size:
    """Return the size of a graph; fusing does not change it, so a fused graph is counted as it was before."""
    flow = flow if flow is not None and not is_fused(module) else analyse(unfused(module))
    by_rows: Counter[RowAxes] = Counter()
    for node in flow.relations:
        if counts_macs(flow, node):
            by_rows[row_axes(flow.axes[node])] += macs_of(flow, node)
    return Size(sum(p.numel() for p in module.parameters()), parameter_bytes(module), dict(by_rows))


def counts_macs(flow: Dataflow, node: fx.Node) -> bool:
    """Whether the multiply-adds of a call are counted: it contracts over channels."""
    return isinstance(flow.relations.get(node), Contraction | Convolution | Product)


def macs_of(flow: Dataflow, node: fx.Node) -> int:
    """Return the multiply-adds of a contraction per row."""
    relation = flow.relations[node]
    if isinstance(relation, Product):
        return int(relation.positions[2].size * relation.positions[0].shape[-1])
    if isinstance(relation, Convolution):
        return flow.axes[node].count * relation.channels[1] * relation.places[2]
    assert isinstance(relation, Contraction)
    return flow.axes[node].count * flow.axes[relation.x].shape[-1]


def row_counts(described: ModelInputs, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of nodes (``N``), edges (``E``), graphs (``B``) and other rows in the arguments of a call."""
    rows: dict[str, int] = {}
    passed = {name: arguments.get(name) for name in described.arguments}
    for spec, value in zip(
        pytree.tree_leaves(described.arguments), pytree.tree_leaves(passed), strict=False
    ):  # an argument that cannot be described is a leaf of both
        if isinstance(spec, TensorSpec) and isinstance(value, Tensor):
            rows |= {axis: size for axis, size in zip(spec.axes, value.shape, strict=False) if isinstance(axis, str)}
            if spec.role == "batch" and value.numel():
                rows["B"] = int(value.max()) + 1
        elif isinstance(spec, RowCount) and isinstance(value, int):
            rows[spec.symbol] = value
    return rows
