"""Counting: row symbols, shapes for people, parameters, multiply-adds and bytes of a graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.channels.positions import Axes
from upscale_fx.channels.relations import Contraction
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product
from upscale_fx.compiled.inputs import LARGE, SMALL, ModelInputs, RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, parameter_bytes, plain

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


@dataclass(frozen=True)
class Size:
    """What a graph costs.

    Attributes:
        parameters: number of parameters.
        bytes: bytes of parameters and persistent buffers.
        by_rows: multiply-adds of all contractions with a weight, per row, by the sizes of row axes in the two example
            graphs, which tell those apart that have no symbol.
    """

    parameters: int
    bytes: int
    by_rows: Mapping[RowAxes, int]

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-adds per row symbol (``{"N": 1000}``: 1000 per node)."""
        found: Counter[str] = Counter()
        for rows, count in self.by_rows.items():
            found[symbols_of(rows)] += count
        return dict(found)

    def macs_text(self) -> str:
        """``1,000 per N + 200 per E``."""
        parts = [f"{count:,} per {symbol}" for symbol, count in sorted(self.macs.items(), key=lambda item: -item[1])]
        return " + ".join(parts) or "0"


def size_of(module: CompiledGNN, flow: Dataflow | None = None) -> Size:
    """Count a graph; a fused one as it was before, because fusing changes neither parameters nor multiply-adds."""
    flow = flow if flow is not None and "plain" not in module.meta else analyse(plain(module))
    by_rows: Counter[RowAxes] = Counter()
    for node in flow.relations:
        if counts_macs(flow, node):
            by_rows[row_axes(flow.axes[node])] += macs_of(flow, node)
    return Size(sum(p.numel() for p in module.parameters()), parameter_bytes(module), dict(by_rows))


def rows_of(axes: Axes) -> str:
    """The row symbols of a value, multiplied."""
    return symbols_of(row_axes(axes))


def symbols_of(rows: RowAxes) -> str:
    """The symbols of row axes, multiplied."""
    return "*".join(map(row_symbol, rows)) or "call"


def row_axes(axes: Axes) -> RowAxes:
    """The sizes of the row axes of a value in the two example graphs."""
    return tuple(pair for size, pair in zip(axes.sizes, axes.pairs, strict=True) if size is None)


def counts_macs(flow: Dataflow, node: fx.Node) -> bool:
    """Whether a call has multiply-adds that are counted: it contracts over channels."""
    return isinstance(flow.relations.get(node), Contraction | Convolution | Product)


def macs_of(flow: Dataflow, node: fx.Node) -> int:
    """Multiply-adds of a contraction per row."""
    relation = flow.relations[node]
    if isinstance(relation, Product):
        return int(relation.positions[2].size * relation.positions[0].shape[-1])
    if isinstance(relation, Convolution):
        return flow.axes[node].count * relation.channels[1] * relation.places[2]
    assert isinstance(relation, Contraction)
    return flow.axes[node].count * flow.axes[relation.x].shape[-1]


def row_counts(described: ModelInputs, arguments: Mapping[str, Any]) -> dict[str, int]:
    """How many nodes (``N``), edges (``E``), graphs (``B``) and other rows the arguments of a call have."""
    rows: dict[str, int] = {}
    given = {name: arguments.get(name) for name in described.arguments}
    for spec, value in zip(
        pytree.tree_leaves(described.arguments), pytree.tree_leaves(given), strict=False
    ):  # an argument that cannot be described is a leaf of both
        if isinstance(spec, TensorSpec) and isinstance(value, Tensor):
            rows |= {axis: size for axis, size in zip(spec.axes, value.shape, strict=False) if isinstance(axis, str)}
            if spec.role == "batch" and value.numel():
                rows["B"] = int(value.max()) + 1
        elif isinstance(spec, RowCount) and isinstance(value, int):
            rows[spec.symbol] = value
    return rows


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
