"""Cut a graph into stages: small graphs that each compute some rows from rows that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from upscale_fx.analysis.stages.cut import Cut, Load, cut_graph
from upscale_fx.analysis.stages.flat import flat_graph
from upscale_fx.analysis.stages.kinds import find_kinds
from upscale_fx.analysis.stages.stage import Operand, Stage, Stages, Value
from upscale_fx.analysis.stages.write import StageWriter, reached_from
from upscale_fx.compiled.module import CompiledGNN

__all__ = ["CutStages", "Operand", "Stage", "Stages", "Value"]


@dataclass(frozen=True)
class CutStages:
    """Cut a compiled graph where rows of neighbours are gathered; the graph itself stays as it is.

    This is no rewrite of one graph into another, so the result is no PassResult.
    """

    def __call__(self, gm: CompiledGNN) -> Stages:
        """Return the stages.

        Raises:
            ServerError: the graph cannot be answered node by node; names the operation and the reason.
        """
        kinds = find_kinds(gm, flat_graph(gm))
        cut = cut_graph(kinds)
        stages: list[Stage] = []
        for number in sorted(cut.loads):
            roots = [node for node, own in cut.stored.items() if own == number]
            stages += _grouped(gm, cut, roots, number, is_output=False)
        stages += _grouped(gm, cut, list(dict.fromkeys(cut.outputs)), cut.last, is_output=True)
        output = next(node for node in kinds.graph.nodes if node.op == "output")
        structure = {operand.name for stage in stages for operand in stage.operands if operand.kind == "structure"}
        return Stages(tuple(stages), map_arg(output.args[0], str), tuple(sorted(structure)), kinds)


def _grouped(gm: nn.Module, cut: Cut, roots: Sequence[fx.Node], number: int, is_output: bool) -> list[Stage]:
    """One stage for all values of a number that depend on the same rows and edges."""
    groups: dict[Any, list[fx.Node]] = {}
    for root in roots:
        reached = reached_from(cut, root, number)
        border = {
            (n, s) for n, s in reached if Load(n, s) in cut.loads[number] or cut.kinds.kinds[n].rows == "structure"
        }
        edges = {s for n, s in reached if s.where == "edges"}
        inputs = {(n, s) for n, s in reached if n.op == "placeholder"}
        groups.setdefault(
            (cut.kinds.kinds[root].of, frozenset(border), frozenset(edges), frozenset(inputs)), []
        ).append(root)
    letters = "abcdefghijklmnopqrstuvwxyz" if len(groups) > 1 and not is_output else ""
    word = "outputs" if is_output else str(number)
    stages = []
    for place, members in enumerate(groups.values()):
        suffix = letters[place] if place < len(letters) else f".{place}" if letters or (is_output and place) else ""
        stages.append(StageWriter(gm, cut, members, number).stage(f"{word}{suffix}", is_output))
    return stages
