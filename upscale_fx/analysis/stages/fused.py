"""Fused operators, and where each reads its operands."""

from __future__ import annotations

from typing import Any

from upscale_fx.operators.attention import attend, edge_softmax
from upscale_fx.operators.edges import edge_add, edge_additive_dot
from upscale_fx.operators.linear import edge_dot, spmm

#: Of fused operators, where each operand is read; sources may have rows of edges themselves.
FUSED: dict[Any, tuple[str, ...]] = {
    spmm: ("edges", "edges", "edges", "far"),
    edge_dot: ("edges", "edges", "own", "far"),
    edge_add: ("edges", "edges", "own", "far"),
    edge_additive_dot: ("edges", "edges", "own", "far"),
    attend: ("edges", "edges", "edges", "far"),
    edge_softmax: ("edges", "edges"),
}
