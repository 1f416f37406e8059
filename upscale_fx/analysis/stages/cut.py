"""Cut a flat graph into stages, and choose what each stage stores.

The *number* of a value is the most gathers from neighbours on the way to it. A stage computes values of one number from
values of lower numbers: at the targets themselves, and at the other ends of their edges. What it reads is stored by the
stage that computes it, or, row by row, computed again from something narrower: a minimum cut weighs reading against
computing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch_geometric.utils import scatter

from upscale_fx.analysis.row_symbols import describe
from upscale_fx.analysis.stages.demands import Space, check_group, combines_edges, demands, whole_graph
from upscale_fx.analysis.stages.kinds import Kinds
from upscale_fx.analysis.stages.work import macs_of_row, width_of
from upscale_fx.errors import ServerError
from upscale_fx.operators.linear import spmm

#: Reading a row costs as much as reading this many numbers more.
_ROW = 8.0
#: A multiply-add costs as much as reading this many numbers of a stored row: products are not made twice, which is what
#: small ones cost, and keeps multiply-adds those of the whole graph.
_MAC = 1.0
#: Neighbours per node that costs assume.
_DEGREE = 8.0
_INFINITE = float("inf")


@dataclass(frozen=True)
class Load:
    """A value that a stage reads, and at which rows."""

    value: fx.Node
    space: Space


@dataclass
class Cut:
    """A flat graph in stages.

    Attributes:
        kinds: of its values.
        loads: by number, what the stages of this number read.
        stored: the values that are stored, with their numbers.
        outputs: the values that the model returns.
        last: the number of the outputs.
        sums: operations that combine rows of neighbours, and how, if their results are stored too, so that they can
            take differences.
    """

    kinds: Kinds
    outputs: tuple[fx.Node, ...]
    last: int = 0
    stored: dict[fx.Node, int] = field(default_factory=dict)
    loads: dict[int, set[Load]] = field(default_factory=dict)
    sums: dict[fx.Node, str] = field(default_factory=dict)
    _numbers: dict[tuple[fx.Node, Space | None], int] = field(default_factory=dict)

    def number(self, node: fx.Node, space: Space) -> int:
        """The most gathers from neighbours on the way to a value."""
        kind = self.kinds.kinds[node]
        if kind.rows == "graph":
            raise ServerError(whole_graph(self.kinds, node))
        if kind.rows in ("constant", "structure", "count"):
            return 0
        key = (node, space if kind.rows == "edges" else None)
        if key not in self._numbers:
            check_group(self.kinds, node, space)
            own = space if kind.rows == "edges" else Space("own", kind.of)
            self._numbers[key] = max(
                (
                    self.number(operand, where) + (where.where == "far" and self.kinds.kinds[operand].rows == "nodes")
                    for operand, where in demands(self.kinds, node, own)
                ),
                default=0,
            )
        return self._numbers[key]

    def reads(self, roots: Iterable[fx.Node], number: int) -> set[Load]:
        """What is at the border of a stage: values of lower numbers that its own operations read, and inputs."""
        border: set[Load] = set()
        seen: set[tuple[fx.Node, Space]] = set()
        waiting: list[tuple[fx.Node, Space]] = []
        for root in roots:
            own = Space("own", self.kinds.kinds[root].of)
            waiting += [(root, own)] if self.is_stored_before(root, own, number) else demands(self.kinds, root, own)
        while waiting:
            node, space = waiting.pop()
            kind = self.kinds.kinds[node]
            if (node, space) in seen or kind.rows in ("constant", "structure", "count"):
                continue
            seen.add((node, space))
            if kind.rows == "nodes" and (self.is_stored_before(node, space, number) or node in self.sums):
                border.add(Load(node, space))
            else:
                waiting += demands(self.kinds, node, space)
        return border

    def is_stored_before(self, node: fx.Node, space: Space, number: int) -> bool:
        """Whether a stage of some number cannot compute a value itself: it is an argument, or of a stage before."""
        return self.is_input(node) or space.where == "far" or self.number(node, space) < number

    def in_order(self, loads: Iterable[Load]) -> list[Load]:
        """Sort what is read as the graph computes it: stages are the same in every process."""
        place = {node: number for number, node in enumerate(self.kinds.graph.nodes)}
        return sorted(loads, key=lambda load: (place[load.value], str(load.space)))

    def is_input(self, node: fx.Node) -> bool:
        """Whether a value is an argument with a row per node."""
        return node.op == "placeholder" and self.kinds.kinds[node].rows == "nodes"

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The values with rows of nodes that a row-by-row operation reads."""
        return [n for n in node.all_input_nodes if self.kinds.kinds[n].rows == "nodes"]


def cut_graph(kinds: Kinds, *, sums: bool = False) -> Cut:
    """Cut a graph whose outputs have rows of nodes.

    Args:
        kinds: of its values.
        sums: store what sums, means and extremes over neighbours give, apart from what is computed from it.

    Raises:
        ServerError: an output, or what it depends on, has no row per node.
    """
    output = next(node for node in kinds.graph.nodes if node.op == "output")
    outputs = tuple(node for node in pytree.tree_leaves(output.args[0]) if isinstance(node, fx.Node))
    for node in outputs:
        if kinds.kinds[node].rows == "graph":
            raise ServerError(whole_graph(kinds, node))
        if kinds.kinds[node].rows != "nodes" or not has_row_per_node(kinds, node):
            raise ServerError(f"the output of {describe(node)} has no row per node, so it cannot be asked for nodes")
    for node in kinds.graph.nodes:
        if node.op == "get_attr" and kinds.kinds[node].rows == "nodes":
            raise ServerError(f"{describe(node)} is a parameter with a row per node, which new nodes do not have")
    cut = Cut(kinds, outputs)
    cut.last = max(cut.number(node, Space("own", kinds.kinds[node].of)) for node in outputs)
    if sums:
        cut.sums = _sums_of_neighbours(cut)
    macs = _macs_by_row(kinds)
    for number in range(cut.last, -1, -1):
        roots = [node for node, own in cut.stored.items() if own == number]
        roots += list(outputs) if number == cut.last else []
        if not roots:
            continue
        cut.loads[number] = set()
        while roots:  # again for the sums that these read
            found = _chosen(cut, cut.reads(roots, number), macs)
            cut.loads[number] |= found
            for load in cut.in_order(found):
                if not cut.is_input(load.value):
                    cut.stored.setdefault(load.value, cut.number(load.value, load.space))
            roots = [load.value for load in cut.in_order(found) if cut.stored.get(load.value) == number]
    return cut


def _sums_of_neighbours(cut: Cut) -> dict[fx.Node, str]:
    """Operations that combine rows of neighbours by a sum, a mean or an extreme, before the last stage."""
    found: dict[fx.Node, str] = {}
    for node in cut.kinds.graph.nodes:
        reduce = _REDUCES.get(_reduce_of(node)) if combines_edges(cut.kinds, node) else None
        if reduce is not None and has_row_per_node(cut.kinds, node):
            number = cut.number(node, Space("own", cut.kinds.kinds[node].of))
            if 0 < number < cut.last:
                found[node] = reduce
    return found


def _reduce_of(node: fx.Node) -> Any:
    """The ``reduce`` of a fused product or a scatter."""
    if node.target is spmm:
        return node.args[4]
    if node.target is scatter:
        return node.kwargs.get("reduce", node.args[4] if len(node.args) > 4 else "sum")
    return None


#: What operations call their reductions.
_REDUCES = {"sum": "sum", "add": "sum", "mean": "mean", "max": "max", "min": "min"}


def _chosen(cut: Cut, border: set[Load], macs: Mapping[fx.Node, float]) -> set[Load]:
    """Choose where to stop reading: at the border itself, or at values that it can be computed from, row by row."""
    network: Any = nx.DiGraph()
    start, end = "start", "end"
    network.add_nodes_from([start, end])
    waiting: list[tuple[fx.Node, Space]] = []
    for load in cut.in_order(border):
        network.add_edge(start, ("needed", load), capacity=_INFINITE)
        waiting.append((load.value, load.space))
    seen: set[Load] = set()
    while waiting:
        node, space = waiting.pop()
        load = Load(node, space)
        if load in seen:
            continue
        seen.add(load)
        times = _DEGREE if space.where == "far" else 1.0
        network.add_edge(("needed", load), ("computed", load), capacity=_read_cost(cut, node, times))
        fixed = cut.is_input(node) or combines_edges(cut.kinds, node)
        network.add_edge(("computed", load), end, capacity=_INFINITE if fixed else (1 + macs[node] * _MAC) * times)
        for source in [] if fixed else cut.sources(node):
            network.add_edge(("computed", load), ("needed", Load(source, space)), capacity=_INFINITE)
            waiting.append((source, space))
    cost, (reached, _) = nx.minimum_cut(network, start, end)
    if cost == _INFINITE:
        names = ", ".join(describe(load.value) for load in border)
        raise ServerError(f"one of {names} is read by other nodes, but its rows are not on its first axis")
    return {load for load in seen if ("needed", load) in reached and ("computed", load) not in reached}


def _read_cost(cut: Cut, node: fx.Node, times: float) -> float:
    """Of one row that is read so many times, in numbers read; what nobody stores yet must be written first."""
    if not has_row_per_node(cut.kinds, node):
        return _INFINITE
    stored = cut.is_input(node) or node in cut.stored
    return (_ROW + width_of(cut.kinds, node)) * (times if stored else times + 1)


def has_row_per_node(kinds: Kinds, node: fx.Node) -> bool:
    """Whether a value is a tensor ``[N, ...]``: one row per node, on the first axis."""
    pair, axes = kinds.values[node], set()
    for value in pair:
        if not isinstance(value, Tensor) or not value.dim():
            return False
        axes.add(value.size(0))
    return len(axes) == 2 and kinds.is_count(kinds.kinds[node].of, pair[0].size(0), pair[1].size(0))


def _macs_by_row(kinds: Kinds) -> dict[fx.Node, float]:
    """Multiply-adds of every operation with rows of nodes, by row."""
    return {node: macs_of_row(kinds, node) for node in kinds.graph.nodes if kinds.kinds[node].rows == "nodes"}
