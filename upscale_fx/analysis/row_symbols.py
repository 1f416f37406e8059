"""Row symbols: whether the rows of a value are nodes, edges, graphs, or sums and multiples of these."""

from __future__ import annotations

from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Axes, axes_of
from upscale_fx.compiled.record.row_axes import RowAxes, row_symbol, symbols_of


def shape_text(axes: Axes) -> str:
    """Return a shape as text, such as ``[N, 256]``."""
    sizes = [row_symbol(p) if s is None else str(s) for s, p in zip(axes.sizes, axes.pairs, strict=True)]
    return f"[{', '.join(sizes)}]"


def rows_of(axes: Axes) -> str:
    """Return the product of the row symbols of a value, such as ``N*N``."""
    return symbols_of(row_axes(axes))


def row_axes(axes: Axes) -> RowAxes:
    """Return the sizes of the row axes of a value in the two example graphs."""
    return tuple(pair for size, pair in zip(axes.sizes, axes.pairs, strict=True) if size is None)


#: Row symbol of edges -> number of added self loops per node.
LOOPS = {"E": 0, "E+N": 1}


def row_symbols(flow: Dataflow, node: fx.Node) -> str:
    """Return ``"N"``, ``"E"``, ``"E+N"``, ...; ``"call"`` for a tensor without rows, ``""`` for other values.

    A tuple has the rows of its first tensor.
    """
    axes = tensor_axes(flow, node)
    return "" if axes is None else rows_of(axes)


def tensor_axes(flow: Dataflow, node: fx.Node) -> Axes | None:
    """Return the axes of a tensor, or of the first tensor in a tuple; None for other values."""
    if node in flow.axes or node not in flow.values:
        return flow.axes.get(node)
    first, second = flow.values[node]
    if not isinstance(first, tuple | list) or not isinstance(second, tuple | list):
        return None
    candidates = (axes_of(pair) for pair in zip(first, second, strict=False))
    return next((axes for axes in candidates if axes is not None), None)


def describe(node: fx.Node) -> str:
    """Return a node with its module path and source line, for errors."""
    where = ", ".join(str(part) for part in (node.meta.get("module"), node.meta.get("source")) if part)
    return f"node {node.name} ({where})" if where else f"node {node.name}"
