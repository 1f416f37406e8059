"""Row symbols: what the rows of a value are, nodes, edges, graphs, their sums and multiples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations_with_replacement

from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Axes, axes_of
from upscale_fx.compiled.inputs import LARGE, SMALL

#: The sizes of a value's row axes in the two example graphs.
RowAxes = tuple[tuple[int, int], ...]


_PAIRS = {(SMALL[s], LARGE[s]): s for s in SMALL}
for _a, _b in combinations_with_replacement("NEB", 2):
    _PAIRS.setdefault((SMALL[_a] + SMALL[_b], LARGE[_a] + LARGE[_b]), "E+N" if (_a, _b) == ("N", "E") else f"{_a}+{_b}")
for _s in SMALL:
    _PAIRS.setdefault((SMALL[_s] + 1, LARGE[_s] + 1), f"{_s}+1")


def row_symbol(pair: tuple[int, int]) -> str:
    """``N`` nodes, ``E`` edges, ``B`` graphs, their sums and multiples, or ``*`` for another row count."""
    if pair in _PAIRS:
        return _PAIRS[pair]
    times = next((s for s in SMALL if pair[0] * LARGE[s] == pair[1] * SMALL[s] and pair[0] % SMALL[s] == 0), None)
    return "*" if times is None else f"{pair[0] // SMALL[times]}{times}"


def shape_text(axes: Axes) -> str:
    """A shape as people write it: ``[N, 256]``."""
    sizes = [row_symbol(p) if s is None else str(s) for s, p in zip(axes.sizes, axes.pairs, strict=True)]
    return f"[{', '.join(sizes)}]"


def rows_of(axes: Axes) -> str:
    """The row symbols of a value, multiplied."""
    return symbols_of(row_axes(axes))


def symbols_of(rows: RowAxes) -> str:
    """The symbols of row axes, multiplied."""
    return "*".join(map(row_symbol, rows)) or "call"


def row_axes(axes: Axes) -> RowAxes:
    """The sizes of the row axes of a value in the two example graphs."""
    return tuple(pair for size, pair in zip(axes.sizes, axes.pairs, strict=True) if size is None)


def rows_of_symbol(symbol: str, rows: Mapping[str, float]) -> float | None:
    """The rows that a symbol of :class:`Size` stands for (``E``, ``E+N``, ``2N``, ``N+1``, ``N*N``, ...).

    None for a count that is none of nodes, edges and graphs, or that the call does not have.
    """
    if symbol == "call":
        return 1.0
    total = 1.0
    for factor in symbol.split("*"):
        parts = [_rows_of_term(term, rows) for term in factor.split("+")]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        total *= sum(known)
    return total


def _rows_of_term(term: str, rows: Mapping[str, float]) -> float | None:
    found = re.fullmatch(r"(\d*)([A-Z]?)", term)
    if found is None or not term:
        return None
    times, kind = found.groups()
    if not kind:
        return float(times)
    count = rows.get(kind)
    return None if count is None else float(times or 1) * count


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
