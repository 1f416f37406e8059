"""The columns: ways to answer for some nodes, each with what is done before a question and beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import upscale_fx
from upscale_fx.bench.columns import Case, text
from upscale_fx.bench.serving.pyg import Ids, OnSubgraph
from upscale_fx.bench.serving.spec import ServingSpec
from upscale_fx.bench.serving.stream import Stream
from upscale_fx.bench.work import macs_of, work_of

#: The column that all others are compared with.
BASELINE = "PyG dense, k-hop"


@dataclass
class Effort:
    """What one answer takes.

    Attributes:
        nodes: different nodes of which features or stored rows are read.
        macs: multiply-adds.
        bytes: of these features and rows.
        computed: rows that are computed before the outputs.
    """

    nodes: int
    macs: float
    bytes: int
    computed: int


@dataclass
class Column:
    """A way to answer.

    Attributes:
        name: its printed name.
        ask: returns the outputs ``[len(ids), classes]`` of different nodes.
        expected: the right outputs of all nodes ``[N, classes]``, for the graph as it is when it is called.
        effort: what an answer takes; asks once.
        before: done before each question, untimed.
        beside: entered while questions are asked.
        stored: bytes of the rows that are kept between questions.
    """

    name: str
    ask: Callable[[Ids], Tensor]
    expected: Callable[[], Tensor]
    effort: Callable[[Ids], Effort]
    before: Callable[[], object] = field(default=lambda: None)
    beside: Callable[[], AbstractContextManager[object]] = nullcontext
    stored: Callable[[], int] = field(default=lambda: 0)


def forget(server: upscale_fx.Server) -> None:
    """Forget all rows of a server, as if it had no store."""
    server._versions._forget_everything()


def columns(case: Case, spec: ServingSpec, stack: ExitStack) -> list[Column]:
    """Every column of a model; what they open is closed with the stack."""
    dense, pruned = case.compiled(0.0), case.compiled(spec.amount)
    x, edges = case.graph.x, case.graph.edge_index
    of_dense = functools.partial(case.expected, edges)
    of_pruned = functools.partial(case.expected, edges, spec.amount)

    def server(compiled: Any, **options: Any) -> upscale_fx.Server:
        return stack.enter_context(upscale_fx.Server(compiled, x, edges, **options))

    part = OnSubgraph(case.model, case.graph, len(spec.dims) - 1)
    bare, bare_pruned, warm = server(dense), server(pruned), server(pruned)
    lazy, eager = server(pruned), server(pruned, eager=True)
    for one in (warm, lazy, eager):
        one.warm()
    amount = text(spec.amount)
    table = [
        Column(BASELINE, part, of_dense, functools.partial(_of_subgraph, part)),
        _full_pass(f"{amount}, full pass", case, spec.amount, of_pruned),
        _of_server("dense, no store", bare, of_dense, before=functools.partial(forget, bare)),
        _of_server(f"{amount}, no store", bare_pruned, of_pruned, before=functools.partial(forget, bare_pruned)),
        _of_server(f"{amount}, warm", warm, of_pruned),
    ]
    for name, changing in (("updates", lazy), ("eager updates", eager)):
        stream = Stream(changing, case.graph.num_nodes, spec.burst, spec.seed)
        column = _of_server(f"{amount}, {name}", changing, functools.partial(_now, pruned, changing))
        column.beside = functools.partial(stream.running, spec.rate)
        table.append(column)
    return table


def _now(compiled: Any, server: upscale_fx.Server) -> Tensor:
    with torch.no_grad():
        return compiled(*server.inputs())  # type: ignore[no-any-return]


def _full_pass(name: str, case: Case, amount: float, expected: Callable[[], Tensor]) -> Column:
    compiled = case.compiled(amount)
    edges, x = case.prepared(compiled), case.graph.x

    def ask(ids: Ids) -> Tensor:
        with torch.no_grad():
            return compiled(x, edges)[torch.from_numpy(ids)]  # type: ignore[no-any-return]

    def effort(_: Ids) -> Effort:
        macs = macs_of(work_of(lambda: compiled(x, case.graph.edge_index)))
        return Effort(x.size(0), macs, x.nbytes, x.size(0))

    return Column(name, ask, expected, effort)


def _of_subgraph(part: OnSubgraph, ids: Ids) -> Effort:
    nodes = part.subgraph(ids)[0].size
    macs = macs_of(work_of(functools.partial(part, ids)))
    return Effort(nodes, macs, nodes * part.x[0].nbytes, nodes)


def _of_server(
    name: str, server: upscale_fx.Server, expected: Callable[[], Tensor], before: Callable[[], object] = lambda: None
) -> Column:
    def stored() -> int:
        return server._computation.store.nbytes

    return Column(name, server, expected, functools.partial(effort_of, server), before, nullcontext, stored)


def effort_of(server: upscale_fx.Server, ids: Ids) -> Effort:
    """What one answer of a server takes: rows are seen where its stages read them, without their padding."""
    computation = server._computation
    usual, seen, size = computation._rows, [ids], 0

    def rows(name: str, wanted: Ids, nothing: bool) -> Tensor:
        nonlocal size
        found = usual(name, wanted, nothing)
        different = np.unique(wanted)
        if not nothing:
            seen.append(different)
            size += different.size * found[0].nbytes
        return found

    server.reset_stats()
    computation._rows = rows  # type: ignore[method-assign, assignment]
    try:
        server(ids)
    finally:
        del computation._rows
    outputs = {stage.name for stage in computation.outputs}
    computed = sum(count for name, count in server.stats.rows_computed.items() if name not in outputs)
    return Effort(np.unique(np.concatenate(seen)).size, server.stats.macs, size, computed)
