"""Try the stages of a model on example graphs before they are trusted: some nodes against the whole graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.analysis.row_symbols import describe
from upscale_fx.analysis.stages.run import run_flat
from upscale_fx.compiled.module import CompiledGNN, call_by_name, inputs_of
from upscale_fx.errors import ServerError
from upscale_fx.passes.cut_stages import Stage, Stages
from upscale_fx.running.serving.computing import Computation
from upscale_fx.running.serving.differences import along, some_edges
from upscale_fx.running.serving.graph.edge_table import Around
from upscale_fx.running.serving.naming import Naming
from upscale_fx.running.serving.served import ServedGraph
from upscale_fx.running.serving.statistics import Stats
from upscale_fx.running.serving.stores.base import Flags
from upscale_fx.running.serving.stores.memory import MemoryStore
from upscale_fx.running.serving.updating import refresh_structure

#: Rows of the graphs that are tried; loops and parallel edges are among the edges.
_SIZES = ({"N": 31, "E": 89, "B": 1}, {"N": 47, "E": 61, "B": 1})
#: Differences allowed, in relation to the largest value.
_ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4}


def check_stages(gm: CompiledGNN, stages: Stages, naming: Naming) -> frozenset[str]:
    """Raise a ServerError unless nodes that are answered a few at a time get what the whole graph gives.

    Returns:
        The names of stages that sum over neighbours such that partial sums add up.
    """
    adding = {stage.name for stage in stages.stages if stage.reduces}
    for rows in _SIZES:
        example = inputs_of(gm).example(rows, loops=True)
        graph = ServedGraph(gm, naming, (), example)
        computation = Computation(gm, stages, graph, MemoryStore(), Stats(stages.stages))
        computation.store.open(computation.tables(), "")
        refresh_structure(computation)
        with torch.no_grad():
            whole = call_by_name(gm, inputs_of(gm), example)
        names = pytree.tree_leaves(stages.outputs)
        expected = dict(zip(names, (v for v in pytree.tree_leaves(whole) if isinstance(v, Tensor)), strict=True))
        for stage in computation.outputs:
            for some in np.array_split(np.random.default_rng(0).permutation(graph.nodes[stage.of].count), 3):
                given = computation.answer(stage, np.sort(some))
                for value, result in zip(stage.values, given, strict=True):
                    if not _close(result, expected[value.name][torch.from_numpy(np.sort(some))]):
                        raise ServerError(_first_difference(gm, computation, example))
        adding = {stage.name for stage in computation.stored if stage.name in adding and _adds_up(computation, stage)}
    return frozenset(adding)


def _adds_up(computation: Computation, stage: Stage) -> bool:
    """Whether what some of the edges of nodes give, and what the others give, make up what all give."""
    targets = np.arange(computation.graph.nodes[stage.of].count)
    parts = []
    for kept in ((True, True), (True, False), (False, True), (False, False)):
        local = computation.look_at(stage, targets, partial(_every_other, kept=np.array(kept)))
        parts.append((computation.run(stage, local), local.edges_by_target()))
    (whole, _), (first, one), (second, two), (none, _) = parts
    for reduce, *rows in zip(stage.reduces, whole, first, second, none, strict=True):
        all_, some, others, empty = rows
        ones, twos = (along(counts, all_) for counts in (one, two))
        if reduce == "sum":
            made = some + others - empty
        elif reduce == "mean":
            made = (some * ones + others * twos) / (ones + twos).clamp(min=1)
        else:
            best = torch.maximum if reduce == "max" else torch.minimum
            made = torch.where(ones > 0, torch.where(twos > 0, best(some, others), some), others)
        if not _close(made, all_):
            return False
    return True


def _every_other(around: Around, *, kept: Flags) -> Around:
    return some_edges(around, np.resize(kept, around.edges.size))


def _close(result: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(result, expected)
    allowed = _ALLOWED.get(expected.dtype, 1e-2)
    scale = max(1.0, float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 1.0)
    return torch.allclose(result, expected, rtol=allowed, atol=allowed * scale, equal_nan=True)


def _first_difference(gm: CompiledGNN, computation: Computation, example: dict[str, Any]) -> str:
    """Name the first stored value that is not what the whole graph gives, or the output."""
    kinds = computation.stages.kinds
    values = run_flat(gm, kinds.graph, (example, example))
    by_name = {node.name: node for node in kinds.graph.nodes}
    for stage in (*computation.stored, *computation.outputs):
        for value in stage.values:
            node = by_name[value.name]
            if stage.is_output:
                break
            ids = computation.store.held_ids(value.name)
            if not _close(computation.store.read(value.name, ids), values[node][0][torch.from_numpy(ids)]):
                return _refused(node)
        else:
            continue
        return _refused(by_name[stage.values[0].name])
    return "this graph cannot be answered node by node"


def _refused(node: Any) -> str:
    return (
        f"this graph cannot be answered node by node: {describe(node)}, or something it is computed from, gives nodes "
        f"other values when only they and their neighbours are known (it may use numbers of nodes, the size of the "
        f"graph, or rows beside each other). Call the compiled model itself, on the whole graph"
    )
