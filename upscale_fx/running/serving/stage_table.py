"""The table of the stages that a compiled model is served in."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import InputError
from upscale_fx.passes.cut_stages import CutStages, Operand, Stage, Stages


@dataclass(frozen=True)
class StageRow:
    """One stage.

    Attributes:
        name: of the stage; ``outputs`` computes what the model returns, which is not stored.
        nodes: the kind of nodes that it has rows of.
        reads_own, reads_neighbours: names of the values read at the node itself, and at its neighbours.
        numbers_read: how many numbers are read at the node itself, and per edge.
        writes: names of the values that are stored, with the shape of a row.
        width: numbers per row that are stored.
        bytes_per_node: bytes per row that are stored.
        macs_per_node, macs_per_edge: multiply-adds.
        whole_graph: values that are computed again from all edges after every change.
    """

    name: str
    nodes: str
    reads_own: tuple[str, ...]
    reads_neighbours: tuple[str, ...]
    numbers_read: tuple[int, int]
    writes: tuple[str, ...]
    width: int
    bytes_per_node: int
    macs_per_node: float
    macs_per_edge: float
    whole_graph: tuple[str, ...]


@dataclass(frozen=True)
class StageTable:
    """What each stage reads, writes and costs; prints as a table."""

    rows: tuple[StageRow, ...]

    def __str__(self) -> str:
        header = ["stage", "nodes", "reads at the node", "reads per edge", "stores", "bytes", "MACs/node", "MACs/edge"]
        lines = [
            [
                row.name,
                row.nodes,
                _read(row.reads_own, row.numbers_read[0]),
                _read(row.reads_neighbours, row.numbers_read[1]),
                ", ".join(row.writes) or "-",
                row.bytes_per_node,
                f"{row.macs_per_node:g}",
                f"{row.macs_per_edge:g}",
            ]
            for row in self.rows
        ]
        table = tabulate(lines, header, disable_numparse=True)
        whole = sorted({name for row in self.rows for name in row.whole_graph})
        note = f"\nComputed again from all edges after every change: {', '.join(whole)}." if whole else ""
        return f"{table}{note}"


def stages(compiled: CompiledGNN) -> StageTable:
    """Return the stages in which ``Server`` computes a compiled model; it prints as a table.

    Args:
        compiled: what ``prune``, ``compact``, ``optimize`` or ``trace`` returned.

    Raises:
        InputError: this is no compiled model.
        ServerError: it cannot be answered node by node; names the operation, its layer and the reason.
    """
    if not isinstance(compiled, CompiledGNN):
        raise InputError(
            f"stages() takes a compiled model, got {type(compiled).__name__}; pass upscale_fx.trace(model)"
        )
    cut = CutStages()(compiled)
    return StageTable(tuple(_row(cut, stage) for stage in cut.stages))


def _row(cut: Stages, stage: Stage) -> StageRow:
    rows = [o for o in stage.operands if o.kind == "rows"]
    own = tuple(o for o in rows if o.space.where == "own" or o.name in stage.own_reads)
    far = tuple(o for o in rows if o.space.where == "far")
    along = tuple(o for o in stage.operands if o.kind == "edge_values")
    stored = () if stage.is_output else stage.values
    return StageRow(
        stage.name,
        stage.of,
        tuple(o.name for o in own),
        tuple(o.name for o in (*far, *along)),
        (sum(_width(cut, o) for o in own), sum(_width(cut, o) for o in (*far, *along))),
        tuple(f"{value.name} {list(value.shape)}" for value in stored),
        sum(_numbers(value.shape) for value in stored),
        sum(value.row_bytes for value in stored),
        stage.macs_per_node,
        stage.macs_per_edge,
        tuple(sorted(o.name for o in stage.operands if o.kind == "structure")),
    )


def _width(cut: Stages, operand: Operand) -> int:
    """Numbers in a row of what a stage reads."""
    if operand.name in cut.values:
        return _numbers(cut.values[operand.name].shape)
    node = next(node for node in cut.kinds.graph.nodes if node.op == "placeholder" and node.target == operand.name)
    return _numbers(cut.kinds.values[node][0].shape[1:])


def _numbers(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _read(names: tuple[str, ...], numbers: int) -> str:
    return f"{', '.join(names)} ({numbers})" if names else "-"
