"""Every operator, what it must equal, and inputs: gathers, messages and scatters as eager PyG runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch_geometric.utils import scatter, softmax

from upscale_fx import operators

HEADS, CHANNELS = 3, 5


@dataclass
class Graph:
    """Edges sorted by target."""

    row: Tensor
    num_rows: int
    num_cols: int
    col: Tensor | None
    rowptr: Tensor = field(init=False)

    def __post_init__(self) -> None:
        degree = torch.bincount(self.row, minlength=self.num_rows)
        self.rowptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])

    @property
    def source(self) -> Tensor:
        """The source of every edge."""
        return torch.arange(self.num_cols) if self.col is None else self.col


def random_graph(num_rows: int, num_cols: int, num_edges: int) -> Graph:
    """Half the targets have no edges."""
    row = (torch.randint(max(1, num_rows), (num_edges,)) // 2 * 2).sort().values
    return Graph(row, num_rows, num_cols, torch.randint(max(1, num_cols), (num_edges,)))


def make_graph(name: str) -> Graph:
    """A graph by name, always the same."""
    torch.manual_seed(1)
    identity = torch.randint(6, (15,)).sort().values
    return {
        "random": lambda: random_graph(9, 7, 40),
        "identity": lambda: Graph(identity, 8, 15, None),
        "one node": lambda: random_graph(1, 1, 3),
        "no edges": lambda: random_graph(4, 3, 0),
        "no nodes": lambda: random_graph(0, 0, 0),
        "nothing, identity": lambda: Graph(identity[:0], 3, 0, None),
    }[name]()


GRAPHS = ("random", "identity", "one node", "no edges", "no nodes", "nothing, identity")

#: Letters are axes: edges, targets (n), sources (m), heads, channels.
Sizes = dict[str, int]


@dataclass(frozen=True)
class Case:
    """An operator on a graph, its reference, and the axes of its floating inputs; "" is an argument left out."""

    name: str
    run: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    axes: Sequence[str]

    def inputs(self, graph: Graph, *, strided: bool = False) -> list[Tensor | None]:
        """Random inputs of which gradients are asked; slices of wider tensors where they have channels."""
        torch.manual_seed(2)
        sizes = {"e": graph.row.numel(), "n": graph.num_rows, "m": graph.num_cols, "h": HEADS, "c": CHANNELS}
        found: list[Tensor | None] = []
        for axes in self.axes:
            shape = [sizes[axis] for axis in axes]
            if strided and axes.endswith("c"):
                wide = torch.randn(*shape[:-1], shape[-1] + 4, dtype=torch.float64)
                found.append(wide[..., 2:-2].detach().requires_grad_())
            else:
                found.append(torch.randn(shape, dtype=torch.float64, requires_grad=True) if axes else None)
        return found


def _expand(weight: Tensor, messages: Tensor) -> Tensor:
    return weight.view(weight.shape + (1,) * (messages.dim() - weight.dim()))


def _gather_scatter(g: Graph, weight: Tensor | None, x: Tensor, reduce: str) -> Tensor:
    messages = x.index_select(0, g.source)
    messages = messages if weight is None else messages * _expand(weight, messages)
    return scatter(messages, g.row, 0, g.num_rows, reduce)


def _transposed(g: Graph, weight: Tensor | None, x: Tensor) -> Tensor:
    messages = x.index_select(0, g.row)
    messages = messages if weight is None else messages * _expand(weight, messages)
    return scatter(messages, g.source, 0, g.num_cols, "sum")


def _ends(g: Graph, left: Tensor, right: Tensor, slope: float) -> Tensor:
    return torch.nn.functional.leaky_relu(left[g.row] + right[g.source], slope)


def _attend(g: Graph, scores: Tensor, x: Tensor) -> Tensor:
    return _gather_scatter(g, softmax(scores, g.row, num_nodes=g.num_rows), x, "sum")


def _cases() -> list[Case]:
    cases = []
    for reduce in ("sum", "mean", "max", "min"):
        for axes in (("", "mc"), ("", "mhc"), ("e", "mc"), ("e", "mhc"), ("eh", "mhc")):

            def run(g, weight, x, reduce=reduce):
                return operators.spmm(g.rowptr, g.col, weight, x, reduce)

            def reference(g, weight, x, reduce=reduce):
                return _gather_scatter(g, weight, x, reduce)

            cases.append(Case(f"spmm {reduce} {axes[0] or 'none'} {axes[1]}", run, reference, axes))
    for axes in (("", "nc"), ("e", "nhc"), ("eh", "nhc")):
        cases.append(
            Case(
                f"spmm_transposed {axes[0] or 'none'} {axes[1]}",
                lambda g, weight, x: operators.spmm_transposed(g.rowptr, g.col, weight, x, g.num_cols),
                _transposed,
                axes,
            )
        )
    for slope in (0.2, 1.0):
        cases.append(
            Case(
                f"edge_add {slope}",
                lambda g, a, b, slope=slope: operators.edge_add(g.rowptr, g.col, a, b, slope),
                lambda g, a, b, slope=slope: _ends(g, a, b, slope),
                ("nh", "mh"),
            )
        )
    for axes in (("e", "mc"), ("e", "mhc"), ("eh", "mhc")):
        cases.append(
            Case(
                f"attend {axes[0]} {axes[1]}",
                lambda g, s, x: operators.attend(g.rowptr, g.col, s, x),
                _attend,
                axes,
            )
        )
    for axis in ("e", "eh"):
        cases.append(
            Case(
                f"edge_softmax {axis}",
                lambda g, s: operators.edge_softmax(g.rowptr, s),
                lambda g, s: softmax(s, g.row, num_nodes=g.num_rows),
                (axis,),
            )
        )
    dot = Case(
        "edge_dot",
        lambda g, a, b: operators.edge_dot(g.rowptr, g.col, a, b),
        lambda g, a, b: (a[g.row] * b[g.source]).sum(-1),
        ("nhc", "mhc"),
    )
    additive = Case(
        "edge_additive_dot",
        lambda g, a, b, v: operators.edge_additive_dot(g.rowptr, g.col, a, b, v, 0.2),
        lambda g, a, b, v: (v * _ends(g, a, b, 0.2)).sum(-1),
        ("nhc", "mhc", "hc"),
    )
    return [*cases, dot, additive]


CASES = _cases()
