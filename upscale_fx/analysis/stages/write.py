"""Write the small graph of one stage."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from upscale_fx.analysis.stages.cut import Cut, Load, has_row_per_node
from upscale_fx.analysis.stages.demands import Space, demands, nodes_in
from upscale_fx.analysis.stages.stage import Operand, Stage, Value
from upscale_fx.analysis.stages.work import macs_of_edge, macs_of_row


def reached_from(cut: Cut, root: fx.Node, number: int) -> set[tuple[fx.Node, Space]]:
    """All that a value is computed from within its stage, and what is loaded."""
    reached: set[tuple[fx.Node, Space]] = set()
    waiting = [(root, Space("own", cut.kinds.kinds[root].of))]
    while waiting:
        node, space = waiting.pop()
        if (node, space) in reached or cut.kinds.kinds[node].rows == "constant":
            continue
        reached.add((node, space))
        loaded = Load(node, space) in cut.loads[number] and (node is not root or space.where != "own")
        if cut.kinds.kinds[node].rows == "structure" or loaded:
            continue
        if cut.kinds.kinds[node].rows == "count":
            continue
        waiting += demands(cut.kinds, node, space)
        waiting += [(n, space) for n in node.all_input_nodes if cut.kinds.kinds[n].rows == "structure"]
    return reached


def _far(relation: Space) -> Space:
    return Space("far", relation.of, relation.end)


class StageWriter:
    """Writes the graph of one stage."""

    def __init__(self, gm: nn.Module, cut: Cut, roots: Sequence[fx.Node], number: int) -> None:
        self.gm, self.cut, self.kinds, self.roots = gm, cut, cut.kinds, roots
        self.loads = cut.loads[number]
        self.of = self.kinds.kinds[roots[0]].of
        self.reached = set().union(*(reached_from(cut, root, number) for root in roots))
        self.graph, self.root = fx.Graph(), nn.Module()
        self.operands: dict[Operand, fx.Node] = {}
        self.written: dict[tuple[fx.Node, Space | None], Any] = {}
        self.own = Space("own", self.of)
        self.relations = tuple(sorted({s for _, s in self.reached if s.where == "edges"}, key=str))
        self.loops = frozenset(s for n, s in self.reached if s.where == "edges" and self.kinds.kinds[n].loops)
        ends = {far: relation for relation in self.relations if nodes_in(self.kinds, far := _far(relation)) == self.of}
        self.with_targets = frozenset(far for far, relation in ends.items() if self._reads_targets(far, relation))
        self.joined = self.with_targets | {far for far, relation in ends.items() if self._compares_ends(relation)}

    def _compares_ends(self, relation: Space) -> bool:
        """Whether an operation reads both ends of edges at once, for which a node must have one number."""
        for node, space in self.reached:
            if space == relation and node.op != "placeholder":
                read = {self.kinds.kinds[n].end for n in node.all_input_nodes if self.kinds.kinds[n].rows == "edges"}
                whole = any(str(n.target) in self.kinds.edges and n.op == "placeholder" for n in node.all_input_nodes)
                if {0, 1} <= read or (whole and node.target is not operator.getitem):
                    return True
        return False

    def _reads_targets(self, far: Space, relation: Space) -> bool:
        """Whether rows of the targets are read with those of neighbours: there are loops, or both are read alike."""
        loads = {n for n, s in self.reached if s == far and Load(n, far) in self.loads}
        own = {n for n, s in self.reached if s == self.own and Load(n, self.own) in self.loads}
        return relation in self.loops or bool(loads and loads <= own)

    def stage(self, name: str, is_output: bool) -> Stage:
        """Write all values, and describe the stage."""
        results = tuple(self._write(root, self.own) for root in self.roots)
        placed = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.graph.output(results)
        first = next(iter(self.graph.nodes))
        for node in placed:
            first.prepend(node) if node is not first else None
        ordered = [node for node in self.graph.nodes if node.op == "placeholder"]
        by_node = {node: operand for operand, node in self.operands.items()}
        module = fx.GraphModule(self.root, self.graph, f"Stage_{name}")
        per_node, per_edge = self._macs()
        return Stage(
            name, self.cut.number(self.roots[0], self.own), self.of,
            tuple(self._value(root) for root in self.roots), is_output,
            tuple(by_node[node] for node in ordered), self.relations, self.loops, self.joined, self.with_targets,
            module, per_node, per_edge, self._pads_edges(),
            tuple(self.cut.sums[root] for root in self.roots if root in self.cut.sums)
            if self.cut.sums.keys() >= set(self.roots) else (),
            frozenset(n.name for n, s in self.reached if s == self.own and self.kinds.kinds[n].rows == "nodes"),
        )  # fmt: skip

    def _value(self, node: fx.Node) -> Value:
        value = next(leaf for leaf in pytree.tree_leaves(self.kinds.values[node][0]) if isinstance(leaf, Tensor))
        where = ", ".join(str(node.meta[key]) for key in ("module", "source") if node.meta.get(key))
        return Value(node.name, self.kinds.kinds[node].of, tuple(value.shape[1:]), value.dtype, where)

    def _write(self, node: fx.Node, space: Space) -> Any:
        """Return what stands for a value at some rows."""
        kind = self.kinds.kinds[node]
        if kind.rows == "constant" and not self._of_argument(node):
            return self._constant(node)
        if kind.rows == "structure":
            return self._operand(Operand("structure", node.name, Space("own", "")))
        if kind.rows == "count":
            return self._operand(Operand("count", kind.of, space))
        key = (node, None if kind.rows == "constant" else space)
        if key not in self.written:
            self.written[key] = self._computed(node, space)
        return self.written[key]

    def _computed(self, node: fx.Node, space: Space) -> Any:
        kind = self.kinds.kinds[node]
        if kind.rows == "nodes":
            far = next((far for far in self.with_targets if (node, far) in self.reached), None)
            if space == self.own and far is not None and has_row_per_node(self.kinds, node):
                count = self._operand(Operand("count", self.of, self.own))
                return self.graph.call_function(torch.narrow, (self._write(node, far), 0, 0, count))
            if Load(node, space) in self.loads and (node not in self.roots or space != self.own):
                name = str(node.target) if self.cut.is_input(node) else node.name
                return self._operand(Operand("rows", name, space))
        if node.op == "placeholder":
            if kind.rows == "constant":
                return self._operand(Operand("argument", str(node.target), Space("own", "")))
            is_pair = str(node.target) in self.kinds.edges
            return self._operand(Operand("edges" if is_pair else "edge_values", str(node.target), space))
        where = dict(demands(self.kinds, node, space)) if kind.rows != "constant" else {}
        args = map_arg(node.args, lambda n: self._write(n, where.get(n, space)))
        kwargs = map_arg(node.kwargs, lambda n: self._write(n, where.get(n, space)))
        if node.op == "call_module":
            name = f"module_{str(node.target).replace('.', '_')}"
            self.root.add_module(name, self.gm.get_submodule(str(node.target)))
            return self.graph.call_module(name, args, kwargs)
        if node.op == "call_method":
            return self.graph.call_method(str(node.target), args, kwargs)
        if node.target is operator.getitem and isinstance(args[0], tuple):
            return args[0][cast(int, args[1])]
        return self.graph.call_function(cast(Any, node.target), args, kwargs)

    def _of_argument(self, node: fx.Node) -> bool:
        """Whether a value without rows comes from an argument, so that it is known in a call only."""
        waiting, seen = [node], set()
        while waiting:
            other = waiting.pop()
            if other in seen or self.kinds.kinds[other].rows != "constant":
                continue
            seen.add(other)
            if other.op == "placeholder":
                return isinstance(self.kinds.values[other][0], Tensor)
            waiting += other.all_input_nodes
        return False

    def _constant(self, node: fx.Node) -> Any:
        """What a value is that depends on no argument: a buffer, or written in."""
        value = self.kinds.values[node][0]
        if not isinstance(value, Tensor):
            return value
        if node not in self.written_constants:
            name = f"constant_{len(self.written_constants)}"
            self.root.register_buffer(name, value.detach())
            self.written_constants[node] = self.graph.get_attr(name)
        return self.written_constants[node]

    @property
    def written_constants(self) -> dict[fx.Node, fx.Node]:
        """Constants that the graph reads already."""
        constants: dict[fx.Node, fx.Node] = self.__dict__.setdefault("_constants", {})
        return constants

    def _operand(self, operand: Operand) -> fx.Node:
        if operand not in self.operands:
            self.operands[operand] = self.graph.placeholder(f"operand_{len(self.operands)}")
        return self.operands[operand]

    def _macs(self) -> tuple[float, float]:
        """Multiply-adds per target and per edge; a sum over edges counts one per channel."""
        computed = {(n, s) for n, s in self.reached if Load(n, s) not in self.loads}
        per_node = per_edge = 0.0
        for node, space in computed:
            kind = self.kinds.kinds[node]
            macs = macs_of_row(self.kinds, node) if node.op in ("call_function", "call_module", "call_method") else 0.0
            if kind.rows == "nodes":
                per_node += macs if space == self.own else 0.0
                per_edge += macs if space != self.own else 0.0
                if any(self.kinds.kinds[n].rows == "edges" for n in node.all_input_nodes):
                    per_edge += macs_of_edge(self.kinds, node)
            elif kind.rows == "edges":
                per_edge += macs
        return per_node, per_edge

    def _pads_edges(self) -> bool:
        return any(
            self.kinds.kinds[n].rows == "edges" and n.op.startswith("call") and macs_of_row(self.kinds, n) > 0
            for n, _ in self.reached
        )
