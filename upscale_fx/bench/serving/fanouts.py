"""Fan-outs: some neighbours instead of all. PyG's dense model on sampled blocks beside servers of the pruned one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.models import GraphSAGE

import upscale_fx
from upscale_fx.bench.graphs import Graph, stored
from upscale_fx.bench.serving.columns import forget
from upscale_fx.bench.serving.pyg import Block, Ids, block, run_blocks
from upscale_fx.bench.serving.spec import ServingSpec

_BATCH = 512


@dataclass
class Sampled:
    """The measurements of one way to answer.

    Attributes:
        seconds: of each question; with drawing the neighbours for servers, without it for PyG.
        right: share of the nodes whose class is predicted.
    """

    seconds: list[float] = field(default_factory=list)
    right: float = 0.0


def measure(
    name: str, spec: ServingSpec, step: Callable[[str], object] = lambda _: None
) -> tuple[Graph, dict[str, Sampled]]:
    """Train, prune, and answer for the same nodes in turns; calls ``step`` twice."""
    graph = stored(replace(spec.as_bench("SAGE"), graph=name, data=spec.data))
    torch.manual_seed(spec.seed)
    model = GraphSAGE(graph.dims[0], spec.hidden, 2, graph.dims[-1])
    draw = Blocks(graph, spec.fanouts, spec.seed)
    _train(model, graph, draw, spec.steps)
    random = np.random.default_rng(spec.seed)
    parts = draw(random.permutation(graph.num_nodes)[:_BATCH])
    compiled = upscale_fx.prune(model, spec.amount, calibration=_inputs(graph, parts))
    compiled = upscale_fx.optimize(compiled, inference=True).eval()
    step(f"{name}, trained")
    unseen = torch.nonzero(~graph.train_mask & (graph.y >= 0)).flatten().numpy()
    judged = random.permutation(unseen)[: spec.judged]
    with (
        upscale_fx.Server(compiled, graph.x, graph.edge_index, fanouts=spec.fanouts) as cold,
        upscale_fx.Server(compiled, graph.x, graph.edge_index, fanouts=spec.fanouts) as warm,
        upscale_fx.Server(compiled, graph.x, graph.edge_index) as exact,
    ):
        warm.warm()
        exact.warm()

        def without_store(ids: Ids) -> Callable[[], Tensor]:
            forget(cold)
            return partial(cold, ids)

        # Each gets nodes and returns what is timed.
        ways: dict[str, Callable[[Ids], Callable[[], Tensor]]] = {
            "PyG dense, sampled blocks": lambda ids: partial(_run, model, graph, draw(ids)),
            "no store, fan-outs": without_store,
            "warm, fan-outs": lambda ids: partial(warm, ids),
            "warm, all neighbours": lambda ids: partial(exact, ids),
        }
        found = {way: Sampled() for way in ways}
        for ids in np.array_split(judged, -(-judged.size // _BATCH)):
            for way, made in ways.items():
                ask = made(ids)
                start = time.perf_counter()
                logits = ask()
                found[way].seconds.append(time.perf_counter() - start)
                found[way].right += float((logits.argmax(1) == graph.y[torch.from_numpy(ids)]).sum()) / judged.size
    step(f"{name}, answered")
    return graph, found


class Blocks:
    """Draws the blocks of some nodes: at most so many neighbours at hop 0, 1, ..., each as likely."""

    def __init__(self, graph: Graph, fanouts: tuple[int, ...], seed: int) -> None:
        order = graph.edge_index[1].argsort(stable=True)
        counts = torch.bincount(graph.edge_index[1], minlength=graph.num_nodes).numpy()
        self._start = np.concatenate([[0], np.cumsum(counts)])
        self._sources = graph.edge_index[0][order].numpy()
        self._fanouts, self._random = fanouts, np.random.default_rng(seed)

    def __call__(self, ids: Ids) -> list[Block]:
        """Return the blocks of different nodes, the widest first."""
        blocks: list[Block] = []
        for fanout in self._fanouts:
            drawn = [self._draw(int(self._start[i]), int(self._start[i + 1]), fanout) for i in ids]
            rowptr = np.concatenate([[0], np.cumsum([part.size for part in drawn])])
            blocks.append(block(ids, rowptr, np.concatenate(drawn)))
            ids = blocks[-1].sources
        return blocks[::-1]

    def _draw(self, start: int, end: int, fanout: int) -> Ids:
        if end - start <= fanout:
            return self._sources[start:end]
        return self._sources[start + self._random.choice(end - start, fanout, replace=False)]


def _run(model: GraphSAGE, graph: Graph, blocks: list[Block]) -> Tensor:
    with torch.no_grad():
        return run_blocks(model.convs, graph.x, blocks)


def _inputs(graph: Graph, blocks: list[Block]) -> tuple[Tensor, Tensor]:
    """Features and edges of the widest block, whose targets are read by the other."""
    widest = blocks[0]
    return graph.x[torch.from_numpy(widest.sources)], widest.edge_index


def _train(model: GraphSAGE, graph: Graph, draw: Blocks, steps: int) -> None:
    known = torch.nonzero(graph.train_mask).flatten().numpy()
    random = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
    for _ in range(steps):
        ids = random.permutation(known)[:_BATCH]
        optimizer.zero_grad()
        logits = run_blocks(model.convs, graph.x, draw(ids))
        F.cross_entropy(logits, graph.y[torch.from_numpy(ids)]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
