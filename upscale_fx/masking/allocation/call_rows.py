"""The row counts of one call, for all axes of a graph: also those that are neither nodes, edges nor graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.propagations import find_propagations
from upscale_fx.analysis.row_symbols import row_axes
from upscale_fx.analysis.size import counts_macs, row_counts
from upscale_fx.compiled.inputs import LARGE, SMALL, row_count
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.record.row_axes import RowAxes, row_symbol, rows_of_symbol
from upscale_fx.compiled.record.size import Size
from upscale_fx.masking.reconstruction.replay import Replay


@dataclass(frozen=True)
class CallRows:
    """Row counts of one call.

    Attributes:
        symbols: counts of nodes (``N``), edges (``E``), graphs (``B``), and other rows of arguments.
        seen: counts of other row axes (further types of nodes, nodes after pooling), by their sizes in the two
            example graphs.
    """

    symbols: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def of(self, axes: RowAxes) -> float:
        """Rows of a value, given the example sizes of its row axes; an axis of unknown size counts once."""
        total = 1.0
        for pair in axes:
            count = self.find(pair)
            total *= 1.0 if count is None else count
        return total

    def multiply_adds(self, size: Size) -> float:
        """The multiply-adds of the whole call, for a graph of a size."""
        return sum(count * self.of(axes) for axes, count in size.by_rows.items())

    def find(self, pair: tuple[int, int]) -> float | None:
        """The size of an axis, if it is known."""
        known = rows_of_symbol(row_symbol(pair), self.symbols)
        return self.seen.get(pair) if known is None else known


def rows_in_call(flow: Dataflow, arguments: Mapping[str, Any]) -> CallRows:
    """The row counts of a call; the model is run if its arguments do not determine all of them.

    Args:
        flow: the analysed graph.
        arguments: the arguments of the call, by name.

    Raises:
        InputError: the model fails on these arguments.
    """
    root = flow.module
    assert isinstance(root, CompiledGNN)
    given = row_counts(inputs_of(root), arguments)
    sides = inputs_of(root).counts(SMALL), inputs_of(root).counts(LARGE)
    pairs = {symbol: (row_count(sides[0], symbol), row_count(sides[1], symbol)) for symbol in given}
    known = CallRows(given, {pairs[symbol]: float(count) for symbol, count in given.items()})
    multiplied = {pair for node in flow.nodes if counts_macs(flow, node) for pair in row_axes(flow.axes[node])}
    if all(known.find(pair) is not None for pair in multiplied):
        return known
    unknown: dict[tuple[int, int], fx.Node] = {}
    for node in flow.nodes:
        for pair in row_axes(flow.axes[node]) if node in flow.axes else ():
            if known.find(pair) is None:
                unknown.setdefault(pair, node)
    return CallRows(given, {**known.seen, **_seen(flow, root, arguments, unknown)})


def _seen(
    flow: Dataflow, root: CompiledGNN, arguments: Mapping[str, Any], unknown: Mapping[tuple[int, int], fx.Node]
) -> dict[tuple[int, int], float]:
    """The sizes of axes of values of a run."""
    counts: dict[tuple[int, int], float] = {}
    wanted = set(unknown.values())
    run = Replay(root, root, (), arguments, find_propagations(flow), wanted)
    for node in (node for node in flow.nodes if node in wanted):
        run.advance(node)
        value, pairs = run.dense[node], flow.axes[node].pairs
        if isinstance(value, Tensor):
            sizes = zip(pairs, value.shape, strict=True)
            counts |= {pair: float(size) for pair, size in sizes if unknown.get(pair) is node}
        run.release([node])
    return counts
