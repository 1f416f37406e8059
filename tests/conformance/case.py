"""One configuration of one PyG module: how to build it, how to call it, and what compilation must make of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.zoo import randomise

WIDTH, EDGE, RELATIONS = 8, 3, 3


@dataclass(frozen=True)
class Graph:
    """A random graph, and everything a layer may ask of it; features in float64.

    Every node has an edge unless ``edges`` is too small; relation types and node types are spread evenly.
    """

    nodes: int = 9
    edges: int = 24
    graphs: int = 2
    targets: int = 5
    seed: int = 0
    draw: torch.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "draw", torch.Generator().manual_seed(self.seed))

    def features(self, rows: int, *widths: int) -> Tensor:
        """Normal random features ``[rows, *widths]``."""
        return torch.randn(rows, *widths, generator=self.draw, dtype=torch.float64)

    def positive(self, rows: int, *widths: int) -> Tensor:
        """Random numbers in [0.1, 1.1]: weights, pseudo-coordinates."""
        return torch.rand(rows, *widths, generator=self.draw, dtype=torch.float64) + 0.1

    @property
    def x(self) -> Tensor:
        """Node features ``[N, 8]``."""
        return self.features(self.nodes, WIDTH)

    @property
    def x_dst(self) -> Tensor:
        """Features of the target nodes of a bipartite graph, ``[M, 8]``."""
        return self.features(self.targets, WIDTH)

    @property
    def edge_index(self) -> Tensor:
        """``[2, E]``, the last edge pointing at the last node."""
        return self._edges(self.nodes)

    @property
    def bipartite(self) -> Tensor:
        """``[2, E]`` from the N source nodes to the M target nodes."""
        return self._edges(self.targets)

    def _edges(self, targets: int) -> Tensor:
        source = torch.randint(self.nodes, (self.edges,), generator=self.draw)
        target = torch.randint(targets, (self.edges,), generator=self.draw)
        if self.edges:
            source[-1], target[-1] = self.nodes - 1, targets - 1
        return torch.stack([source, target])

    @property
    def edge_weight(self) -> Tensor:
        """``[E]``, positive."""
        return self.positive(self.edges)

    @property
    def edge_attr(self) -> Tensor:
        """``[E, 3]``."""
        return self.features(self.edges, EDGE)

    @property
    def edge_type(self) -> Tensor:
        """``[E]``, below 3."""
        return torch.arange(self.edges) % RELATIONS

    @property
    def node_type(self) -> Tensor:
        """``[N]``, below 3, sorted."""
        return torch.arange(self.nodes) * RELATIONS // max(self.nodes, 1)

    @property
    def mixed_type(self) -> Tensor:
        """``[N]``, below 3, in no order."""
        return torch.arange(self.nodes) * 2 % RELATIONS

    @property
    def batch(self) -> Tensor:
        """``[N]``, sorted graph numbers."""
        return torch.arange(self.nodes) * self.graphs // max(self.nodes, 1)

    @property
    def pos(self) -> Tensor:
        """``[N, 3]``."""
        return self.features(self.nodes, 3)

    @property
    def normal(self) -> Tensor:
        """Normals of points, ``[N, 3]``."""
        return self.features(self.nodes, 3)

    @property
    def history(self) -> Tensor:
        """Node features of three layers, ``[N, 3, 8]``."""
        return self.features(self.nodes, 3, WIDTH)

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Features of sources ``[N, 8]`` and of targets ``[M, 8]``."""
        return self.x, self.x_dst

    @property
    def mixed(self) -> tuple[Tensor, Tensor]:
        """Features of sources ``[N, 8]`` and of targets in another width, ``[M, 5]``."""
        return self.x, self.features(self.targets, 5)

    @property
    def lone(self) -> tuple[Tensor, None]:
        """Features of sources only."""
        return self.x, None

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of sources and targets."""
        return self.nodes, self.targets

    @property
    def square(self) -> tuple[int, int]:
        """Number of nodes, twice."""
        return self.nodes, self.nodes

    @property
    def pos_pair(self) -> tuple[Tensor, Tensor]:
        """Positions of sources and targets."""
        return self.pos, self.features(self.targets, 3)

    @property
    def static(self) -> Tensor:
        """Features of a static graph, ``[B, N, 8]``."""
        return self.features(self.graphs, self.nodes, WIDTH)

    @property
    def sorted_edges(self) -> Tensor:
        """``[2, E]``, sorted by target."""
        edges = self.edge_index
        return edges[:, edges[1].argsort(stable=True)]

    @property
    def looped(self) -> Tensor:
        """``[2, E + N]``, with an edge to every node."""
        return torch.cat([self.edge_index, torch.arange(self.nodes).expand(2, -1)], dim=1)

    @property
    def index(self) -> Tensor:
        """A number below 9 for each node, as an index into embeddings."""
        return torch.arange(self.nodes) % 9

    @property
    def batch_size(self) -> int:
        """B, the number of graphs."""
        return self.graphs

    @property
    def ptr(self) -> Tensor:
        """``[B + 1]``: where each graph's nodes begin, as ``batch`` has them."""
        return torch.searchsorted(self.batch, torch.arange(self.graphs + 1))

    @property
    def node_mask(self) -> Tensor:
        """``[N]``, true for about half of the nodes."""
        return torch.rand(self.nodes, generator=self.draw) < 0.5

    @property
    def dense_x(self) -> Tensor:
        """``[B, N, 8]``: graphs of N nodes each, for dense layers."""
        return self.features(self.graphs, self.nodes, WIDTH)

    @property
    def dense_mask(self) -> Tensor:
        """``[B, N]``, false for a padded node."""
        return torch.rand(self.graphs, self.nodes, generator=self.draw) < 0.8

    @property
    def dense_adj(self) -> Tensor:
        """``[B, N, N]`` of 0 and 1, symmetric, with self loops."""
        drawn = torch.rand(self.graphs, self.nodes, self.nodes, generator=self.draw) < 0.3
        return (drawn | drawn.mT | torch.eye(self.nodes, dtype=torch.bool)).double()

    @property
    def adj(self) -> Tensor:
        """``[N, N]``: the first of ``dense_adj``."""
        return self.dense_adj[0]

    @property
    def x_0(self) -> Tensor:
        """The initial node features, ``[N, 8]``."""
        return self.features(self.nodes, WIDTH)

    @property
    def wide_edge_attr(self) -> Tensor:
        """``[E, 8]``, as wide as ``x``."""
        return self.features(self.edges, WIDTH)

    @property
    def x_dict(self) -> dict[str, Tensor]:
        """Features of two node types, ``[N, 8]`` and ``[M, 12]``."""
        return {"a": self.x, "b": self.features(self.targets, 12)}

    @property
    def edge_index_dict(self) -> dict[tuple[str, str, str], Tensor]:
        """Edges of three relations between the two node types."""
        return {
            ("a", "near", "a"): self.edge_index,
            ("a", "to", "b"): self.bipartite,
            ("b", "back", "a"): self.bipartite.flip([0]),
        }

    @property
    def yes(self) -> bool:
        """True, for an option of a call."""
        return True


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        module: name of the PyG module.
        how: what is particular about this configuration, in a few words.
        build: makes the module.
        call: the arguments of one call on a graph: names of attributes of :class:`Graph` that are passed under the
            same name (``"x edge_index"``) or another (``"x edge_index=bipartite"``), or a function of the graph that
            returns them by name (a dictionary) or by position (a tuple).
        expect: ``"pruned"``; ``"nothing"`` where the module has no contraction over channels; or ``"refused"`` where
            it cannot be traced.
        why: for ``"refused"``, the reason in words, as the documentation lists it.
        dtype: of parameters and features; float32 for what PyG itself cannot compute in float64.
    """

    module: str
    how: str
    build: Callable[[], nn.Module]
    call: str | Callable[[Graph], Any] = "x edge_index"
    expect: str = "pruned"
    why: str = ""
    dtype: torch.dtype = torch.float64

    @property
    def name(self) -> str:
        """The test's name."""
        return f"{self.module}-{self.how}".replace(" ", "_")

    def make(self) -> nn.Module:
        """The module in its dtype and ``eval()``, with random biases, scales and statistics."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.build().to(self.dtype)
            randomise(model)
        return model.eval()

    def arguments(self, graph: Graph) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of one call."""
        args, kwargs = self._given(replace(graph))  # a fresh one draws the same numbers again
        return pytree.tree_map(lambda leaf: leaf.to(self.dtype) if _floating(leaf) else leaf, (args, kwargs))

    def _given(self, graph: Graph) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(self.call, str):
            pairs = [word.partition("=")[::2] for word in self.call.split()]
            return (), {name: getattr(graph, attribute or name) for name, attribute in pairs}
        found = self.call(graph)
        return ((), found) if isinstance(found, dict) else (tuple(found), {})


def initialised(model: nn.Module, call: str | Callable[[Graph], Any] = "x edge_index") -> nn.Module:
    """A model of lazy widths after the one call, in float32, that gives them their sizes."""
    arguments = Case("", "", lambda: model, call).arguments(Graph())
    args, kwargs = pytree.tree_map(lambda leaf: leaf.float() if _floating(leaf) else leaf, arguments)
    with torch.no_grad():
        model(*args, **kwargs)
    return model


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
