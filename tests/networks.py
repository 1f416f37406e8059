"""Networks and graphs that several test files take."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

#: The families that upscale_fx.models brings.
FAMILIES = (SimpleGCN, SAGE, GATv2, GraphTransformer, JKNet)


def random_graph(
    nodes: int, edges: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Features ``[nodes, width]`` and an edge index ``[2, edges]`` with loops, double edges and isolated nodes."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, width, dtype=dtype, generator=draw)
    return x, torch.randint(nodes, (2, edges), generator=draw)


class Stack(nn.Module):
    """Layers with an activation and, if asked, dropout between them; arguments after ``x`` go to every one.

    ``stem`` is a layer on the nodes before them.
    """

    def __init__(
        self,
        *convs: nn.Module,
        act: Callable[[Tensor], Tensor] = torch.relu,
        dropout: float | None = None,
        stem: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.convs, self.act, self.dropout, self.stem = nn.ModuleList(convs), act, dropout, stem

    def run(self, x: Tensor, *graph: Any) -> Tensor:
        """Everything that forward() does, whatever a graph consists of."""
        x = x if self.stem is None else self.act(self.stem(x))
        *hidden, last = self.convs
        for conv in hidden:
            x = self.act(conv(x, *graph))
            x = x if self.dropout is None else F.dropout(x, self.dropout, self.training)
        result: Tensor = last(x, *graph)
        return result

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.run(x, edge_index)


class Residual(nn.Module):
    """``h + conv(h)`` twice: three layers read channels of one and the same tensor."""

    readers = ("convs.0.lin", "convs.1.lin", "head")

    def __init__(self, source: int, width: int, target: int) -> None:
        super().__init__()
        self.stem = nn.Linear(source, width)
        self.convs = nn.ModuleList([GCNConv(width, width), GCNConv(width, width)])
        self.head = nn.Linear(width, target)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.stem(x)
        for conv in self.convs:
            h = h + conv(h, edge_index).relu()
        result: Tensor = self.head(h)
        return result
