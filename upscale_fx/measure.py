"""Counting: row symbols, shapes for people, parameters, multiply-adds and bytes of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

from torch import fx

from upscale_fx.channels import Axes
from upscale_fx.dataflow import Dataflow, analyse
from upscale_fx.inputs import LARGE, SMALL
from upscale_fx.module import CompiledGNN, parameter_bytes, plain
from upscale_fx.relations import Contraction
from upscale_fx.relations.convolutions import Convolution
from upscale_fx.relations.products import Product

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
        macs: multiply-adds of all contractions with a weight, per row symbol (``{"N": 1000}``: 1000 per node).
    """

    parameters: int
    bytes: int
    macs: dict[str, int]

    def macs_text(self) -> str:
        """``1,000 per N + 200 per E``."""
        parts = [f"{count:,} per {symbol}" for symbol, count in sorted(self.macs.items(), key=lambda item: -item[1])]
        return " + ".join(parts) or "0"


def size_of(module: CompiledGNN, flow: Dataflow | None = None) -> Size:
    """Count a graph; a fused one as it was before, because fusing changes neither parameters nor multiply-adds."""
    flow = flow if flow is not None and "plain" not in module.meta else analyse(plain(module))
    macs: dict[str, int] = {}
    for node, relation in flow.relations.items():
        if isinstance(relation, Contraction | Convolution | Product):
            symbol = rows_of(flow.axes[node])
            macs[symbol] = macs.get(symbol, 0) + macs_of(flow, node, relation)
    return Size(sum(p.numel() for p in module.parameters()), parameter_bytes(module), macs)


def rows_of(axes: Axes) -> str:
    """The row symbols of a value, multiplied."""
    return "*".join(row_symbol(p) for s, p in zip(axes.sizes, axes.pairs, strict=True) if s is None) or "call"


def macs_of(flow: Dataflow, node: fx.Node, relation: Contraction | Convolution | Product) -> int:
    """Multiply-adds of a contraction per row."""
    if isinstance(relation, Product):
        return int(relation.positions[2].size * relation.positions[0].shape[-1])
    if isinstance(relation, Convolution):
        return flow.axes[node].count * relation.channels[1] * relation.places[2]
    return flow.axes[node].count * flow.axes[relation.x].shape[-1]
