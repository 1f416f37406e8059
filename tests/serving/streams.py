"""A stream of random changes of a served graph and questions about it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.serving.serving_models import Case, EdgeName, NodeName
from upscale_fx.running.serving.server import Server


class Stream:
    """Random changes; knows by itself which nodes are there, and reads the edges from ``server.inputs()``.

    Attributes:
        changes: what was done, for messages.
    """

    def __init__(self, case: Case, server: Server, nodes: dict[NodeName, int], dtype: torch.dtype, seed: int = 0) -> None:
        self.case, self.server, self.dtype = case, server, dtype
        self.there = {kind: set(range(count)) for kind, count in nodes.items()}
        self.chance, self.draw = random.Random(seed), torch.Generator().manual_seed(seed)
        self.changes: list[str] = []

    def step(self) -> None:
        """Do one change: a single one, or a few in a transaction."""
        if self.chance.random() < 0.1:
            with self.server.transaction():
                for _ in range(self.chance.randint(1, 4)):
                    self.change(within=True)
        else:
            self.change()

    def change(self, within: bool = False) -> None:
        """Do one change; within a transaction, edges are only added, as the graph from before is what one can look up."""
        done = self.chance.choices(
            [self.add_edges, self.remove_edges, self.update_edges, self.add_nodes, self.remove_nodes, self.update_nodes],
            [5, 0 if within else 4, 0 if within else 2, 2, 0 if within else 1, 3],
        )[0]
        done()
        self.changes.append(done.__name__)

    # Edges -----------------------------------------------------------------------------------------------------------

    def add_edges(self) -> None:
        """A few edges; now and then a self loop, or one that is there already."""
        kind, ends = self.edge_type()
        count = self.chance.randint(1, 4)
        index = torch.tensor([[self.chance.choice(self.living(end)) for _ in range(count)] for end in ends])
        if ends[0] == ends[1] and self.chance.random() < 0.2:
            index[1, 0] = index[0, 0]
        if self.chance.random() < 0.2:
            index = torch.cat([index, index[:, :1]], dim=1)
        self.server.add_edges(index, edge_type=self.edge_name(kind), **self.edge_values(kind, index.size(1)))

    def remove_edges(self) -> None:
        """All edges between one or two pairs."""
        kind, pairs = self.some_edges()
        if pairs.size(1):
            self.server.remove_edges(pairs, edge_type=self.edge_name(kind))

    def update_edges(self) -> None:
        """Other values of some edges."""
        kind, pairs = self.some_edges()
        values = self.edge_values(kind, pairs.size(1))
        if values and pairs.size(1):
            self.server.update_edges(pairs, edge_type=self.edge_name(kind), **values)

    # Nodes -----------------------------------------------------------------------------------------------------------

    def add_nodes(self) -> None:
        """One or two nodes, without edges."""
        kind = self.node_type()
        count = self.chance.randint(1, 2)
        ids = self.server.add_nodes(self.node_values(kind, count), node_type=self.node_name(kind))
        self.there[kind].update(ids.tolist())

    def remove_nodes(self) -> None:
        """One node, with its edges."""
        kind = self.node_type()
        if len(self.there[kind]) > 10:
            gone = self.chance.choice(self.living(kind))
            self.server.remove_nodes([gone], node_type=self.node_name(kind))
            self.there[kind].discard(gone)

    def update_nodes(self) -> None:
        """Other features of a few nodes."""
        kind = self.node_type()
        ids = self.chance.sample(self.living(kind), 2)
        self.server.update_features(ids, self.node_values(kind, 2), node_type=self.node_name(kind))

    # What it draws ---------------------------------------------------------------------------------------------------

    def question(self, kind: NodeName) -> np.ndarray[Any, Any]:
        """Some nodes, in any order, which may repeat."""
        return np.array(self.chance.choices(self.living(kind), k=self.chance.randint(1, 8)))

    def living(self, kind: NodeName) -> list[int]:
        return sorted(self.there[kind])

    def node_type(self) -> NodeName:
        return self.chance.choice(list(self.case.nodes))

    def edge_type(self) -> tuple[EdgeName, tuple[NodeName, NodeName]]:
        kind = self.chance.choice(list(self.case.edges))
        return kind, (kind[0], kind[2]) if kind else (None, None)

    def some_edges(self) -> tuple[EdgeName, Tensor]:
        """One or two different pairs of nodes with edges."""
        kind = self.edge_type()[0]
        index = self.index_now(kind)
        picked = [self.chance.randrange(index.size(1)) for _ in range(self.chance.randint(1, 2))] if index.size(1) else []
        return kind, index[:, picked].unique(dim=1)

    def index_now(self, kind: EdgeName) -> Tensor:
        """All edges of a type as they are now."""
        leaves = pytree.tree_leaves_with_path(self.server.inputs())
        found = [value for path, value in leaves if self._is_index(path, value, kind)]
        return found[0]

    def _is_index(self, path: Any, value: Any, kind: EdgeName) -> bool:
        is_index = isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() == 2 and value.size(0) == 2
        return is_index and (kind is None or any(getattr(key, "key", None) == kind for key in path))

    def node_values(self, kind: NodeName, count: int) -> Any:
        values = {name: make(count, self.draw, self.dtype) for name, make in self.case.nodes[kind].items()}
        return values if len(values) > 1 else next(iter(values.values()))

    def edge_values(self, kind: EdgeName, count: int) -> dict[str, Tensor]:
        return {name: make(count, self.draw, self.dtype) for name, make in self.case.edges[kind].items()}

    @staticmethod
    def node_name(kind: NodeName) -> Any:
        return kind

    @staticmethod
    def edge_name(kind: EdgeName) -> Any:
        return kind


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread: sums of products then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
