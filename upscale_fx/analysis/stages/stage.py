"""A graph in stages: small graphs that each compute some rows from rows that are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from upscale_fx.analysis.stages.demands import Space
from upscale_fx.analysis.stages.kinds import Kinds


@dataclass(frozen=True)
class Operand:
    """One argument of a stage.

    Attributes:
        kind: rows of a stored value or of an argument (``rows``); the edges of the targets as ``[2, E]`` with local
            numbers (``edges``); an argument with a row per edge (``edge_values``); a number of rows (``count``); a
            value for the whole graph (``structure``), or an argument without rows (``argument``).
        name: of the stored value or argument.
        space: the rows that it has, or counts.
    """

    kind: Literal["rows", "edges", "edge_values", "count", "structure", "argument"]
    name: str
    space: Space


@dataclass(frozen=True)
class Value:
    """A stored value: its name, the shape of a row, its dtype, and where the model computes it."""

    name: str
    of: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Stage:
    """A small graph that computes rows of some values at target nodes.

    Attributes:
        name: ``"1"``, or ``"1a"`` where values of one number depend on different things.
        number: the most gathers from neighbours on the way to its values.
        of: the symbol of its targets.
        values: what it computes.
        is_output: whether the values are the model's outputs, which are not stored.
        operands: the arguments of ``module``, in order.
        relations: the edges that it goes along, each with the end at which the targets are.
        loops: of these, the ones to which the model adds a self loop per node.
        joined: of the rows of neighbours, those that start with the rows of the targets.
        with_targets: of these, those in which the rows of the targets are read too.
        module: computes the rows of all values at the targets, a tuple.
        macs_per_node, macs_per_edge: multiply-adds.
        pads_edges: whether a product with weights goes over edges.
        reduces: per value, how it combines rows of neighbours (``sum``, ``mean``, ``max``, ``min``), if the stage does
            nothing else; else empty.
        own_reads: names of the values that are read at the targets themselves, not only by self loops.
    """

    name: str
    number: int
    of: str
    values: tuple[Value, ...]
    is_output: bool
    operands: tuple[Operand, ...]
    relations: tuple[Space, ...]
    loops: frozenset[Space]
    joined: frozenset[Space]
    with_targets: frozenset[Space]
    module: nn.Module
    macs_per_node: float
    macs_per_edge: float
    pads_edges: bool
    reduces: tuple[str, ...] = ()
    own_reads: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stages:
    """A graph in stages, in the order in which they are computed; the last ones compute the outputs.

    Attributes:
        stages: all stages.
        outputs: the model's output, with names of values in place of tensors.
        structure: values that are recomputed from all edges after every change, by name.
        kinds: of the values of the flat graph.
    """

    stages: tuple[Stage, ...]
    outputs: Any
    structure: tuple[str, ...]
    kinds: Kinds = field(repr=False)

    @property
    def values(self) -> dict[str, Value]:
        """All stored values by name."""
        return {value.name: value for stage in self.stages if not stage.is_output for value in stage.values}
