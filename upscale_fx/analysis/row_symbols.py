"""Row symbols: what the rows of a value are, nodes, edges, graphs, their sums and multiples."""

from __future__ import annotations

from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Axes, axes_of
from upscale_fx.compiled.record.row_axes import RowAxes, row_symbol, symbols_of


def shape_text(axes: Axes) -> str:
    """A shape as people write it: ``[N, 256]``."""
    sizes = [row_symbol(p) if s is None else str(s) for s, p in zip(axes.sizes, axes.pairs, strict=True)]
    return f"[{', '.join(sizes)}]"


def rows_of(axes: Axes) -> str:
    """The row symbols of a value, multiplied."""
    return symbols_of(row_axes(axes))


def row_axes(axes: Axes) -> RowAxes:
    """The sizes of the row axes of a value in the two example graphs."""
    return tuple(pair for size, pair in zip(axes.sizes, axes.pairs, strict=True) if size is None)


#: Row symbols of edges, with how many self loops each node has beside its neighbours.
LOOPS = {"E": 0, "E+N": 1}


def row_symbols(flow: Dataflow, node: fx.Node) -> str:
    """``"N"``, ``"E"``, ``"E+N"``, ...; ``"call"`` for a tensor without rows, ``""`` for what is none.

    A tuple has the rows of its first tensor.
    """
    axes = _axes(flow, node)
    return "" if axes is None else rows_of(axes)


def _axes(flow: Dataflow, node: fx.Node) -> Axes | None:
    if node in flow.axes or node not in flow.values:
        return flow.axes.get(node)
    first, second = flow.values[node]
    if not isinstance(first, tuple | list) or not isinstance(second, tuple | list):
        return None
    found = (axes_of(pair) for pair in zip(first, second, strict=False))
    return next((axes for axes in found if axes is not None), None)


def describe(node: fx.Node) -> str:
    """A node with its module path and source line, for errors."""
    where = ", ".join(str(part) for part in (node.meta.get("module"), node.meta.get("source")) if part)
    return f"node {node.name} ({where})" if where else f"node {node.name}"
