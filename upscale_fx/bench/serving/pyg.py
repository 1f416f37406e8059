"""PyG's dense model on the nodes that an answer depends on: the k-hop subgraph, or sampled blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.nn import GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from upscale_fx.bench.graphs import Graph

Ids = NDArray[np.int64]


class OnSubgraph:
    """A PyG model that answers for some nodes, on the nodes and edges within as many hops as it has layers.

    Only edges into nodes that are less than that many hops away are taken, so its answers are those on the whole graph.
    The normalisation of GCN is done once for the whole graph, before the first question.
    """

    def __init__(self, model: nn.Module, graph: Graph, hops: int) -> None:
        self.model, self.hops, self.x = model, hops, graph.x
        edges, weight = graph.edge_index, None
        if any(isinstance(module, GCNConv) for module in model.modules()):
            edges, weight = gcn_norm(edges, None, graph.num_nodes, add_self_loops=True)
            self.model = copy.deepcopy(model)
            for module in self.model.modules():
                if isinstance(module, GCNConv):
                    module.normalize = module.add_self_loops = False
        order = edges[1].argsort(stable=True)
        counts = np.bincount(edges[1].numpy(), minlength=graph.num_nodes)
        self._start = np.concatenate([[0], np.cumsum(counts)])
        self._sources = edges[0][order].numpy()
        self._weight = None if weight is None else weight[order]
        self._place = np.full(graph.num_nodes, -1, np.int64)

    def __call__(self, ids: Ids) -> Tensor:
        """Return the logits ``[len(ids), classes]``."""
        nodes, edges, at = self.subgraph(ids)
        with torch.no_grad():
            x, pair = self.x[torch.from_numpy(nodes)], torch.from_numpy(edges)
            args = () if self._weight is None else (self._weight[torch.from_numpy(at)],)
            return self.model(x, pair, *args)[: ids.size]  # type: ignore[no-any-return]

    def subgraph(self, ids: Ids) -> tuple[Ids, Ids, Ids]:
        """Return the nodes, ``ids`` first, the edges ``[2, E]`` with numbers among them, and the places of the edges.

        ``ids`` must be different from each other.
        """
        nodes, front, at = [ids], ids, []
        self._place[ids] = np.arange(ids.size)
        count = ids.size
        for _ in range(self.hops):
            places = _ranges(self._start[front], self._start[front + 1])
            at.append(places)
            sources = self._sources[places]
            front = np.unique(sources[self._place[sources] < 0])
            self._place[front] = np.arange(count, count + front.size)
            nodes.append(front)
            count += front.size
        every, edges = np.concatenate(nodes), np.concatenate(at)
        degrees = self._start[every + 1] - self._start[every]
        targets = np.repeat(np.arange(count), degrees)[: edges.size]
        pair = np.stack([self._place[self._sources[edges]], targets])
        self._place[every] = -1
        return every, pair, edges


def _ranges(starts: Ids, ends: Ids) -> Ids:
    """All numbers from each start up to its end."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    numbers: Ids = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return numbers


@dataclass(frozen=True)
class Block:
    """The sampled edges of some targets.

    Attributes:
        targets: their numbers in the graph.
        sources: the numbers of what is read: the targets first, then all further neighbours.
        edge_index: ``[2, E]``, with places in ``sources`` and in ``targets``.
    """

    targets: Ids
    sources: Ids
    edge_index: Tensor


def block(targets: Ids, rowptr: Ids, others: Ids) -> Block:
    """Return the block of targets whose neighbours are ``others[rowptr[i]:rowptr[i + 1]]``."""
    further = np.setdiff1d(others, targets)
    sources = np.concatenate([targets, further])
    order = sources.argsort()
    places = order[np.searchsorted(sources[order], others)]
    row = np.repeat(np.arange(targets.size), np.diff(rowptr))
    return Block(targets, sources, torch.from_numpy(np.stack([places, row])))


def run_blocks(convs: Sequence[Any], x: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Run PyG's layers along blocks ``[targets, classes]``, the widest first; the next reads its targets."""
    h = x[torch.from_numpy(blocks[0].sources)]
    for number, (conv, part) in enumerate(zip(convs, blocks, strict=True)):
        h = h.relu() if number else h
        h = conv((h, h[: part.targets.size]), part.edge_index)
    return h
