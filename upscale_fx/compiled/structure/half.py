"""Which half of a graph depends on the graph structure alone.

A node is *structure* iff it is (1) an argument that says what the graph is: indices, numbers of graphs and kinds of
edges, a number per edge, row counts; (2) the number of rows, the floating dtype or the device of what no argument of
(1) goes into; or (3) a pure call that draws nothing and reads structure and constants only. The structure half is what
is computed from arguments of (1), and what that reads. An index per node (tokens, kinds of atoms) is a feature.

Rows are recognised on the two example graphs. A call compares all that (2) reads with what a handle was made for, so a
size that is as large as another by accident is refused there, never taken for it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from upscale_fx.compiled import functions
from upscale_fx.compiled.example_values import example_values
from upscale_fx.compiled.inputs import RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.purity import is_pure
from upscale_fx.compiled.structure.modules import Input

#: Write over their first operand, which must therefore be made anew in every call.
_OVERWRITING = {functions.add_into, functions.add_linear, functions.relu_into, functions.elu_into}
Depends = dict[fx.Node, frozenset[fx.Node]]


@dataclass(frozen=True)
class HalfPart:
    """Arguments that belong together, and what is computed from them.

    Attributes:
        arguments: their placeholders, edges first.
        computed: what is computed from them, in execution order.
        nodes: the same with what that reads and sizes and constants alone make, which others may read too.
    """

    arguments: tuple[fx.Node, ...]
    computed: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Half:
    """The structure half of a graph.

    Attributes:
        parts: what is computed; the part with the edges comes first.
        reads: nodes that read sizes, dtypes and devices off features.
        features: the other arguments that are tensors, and tensors taken out of arguments.
    """

    parts: tuple[HalfPart, ...]
    reads: Mapping[fx.Node, Input]
    features: Mapping[fx.Node, TensorSpec]


def find_structure(gm: CompiledGNN) -> Half | None:
    """The structure half of a graph; None if nothing is computed in it."""
    specs, values = _argument_parts(gm), example_values(gm)
    rows = _row_counts(specs, values)
    arguments = {node for node in gm.graph.nodes if node.op == "placeholder" and is_structural(specs[node])}
    downstream = set(arguments)
    depends: Depends = {}
    reads: dict[fx.Node, Input] = {}
    for node in gm.graph.nodes:
        sources = node.all_input_nodes
        if not downstream.isdisjoint(sources):
            downstream.add(node)
        if node in arguments:
            depends[node] = frozenset([node])
        elif node not in downstream and (found := _read(node, specs, values, rows)):
            reads[node], depends[node] = found, frozenset()
        elif _is_computable(node) and all(source in depends for source in sources):
            depends[node] = frozenset[fx.Node]().union(*(depends[source] for source in sources))
    while lost := [node for node in depends if _is_lost(node, depends, reads)]:
        for node in lost:
            del depends[node]
    parts = _parts(depends, reads, specs)
    if not parts:
        return None
    inside = {node for part in parts for node in (*part.arguments, *part.nodes)}
    features = {node: spec for node, spec in specs.items() if isinstance(spec, TensorSpec) and node not in inside}
    return Half(parts, reads, features)


def is_structural(spec: Any) -> bool:
    """Whether an argument says what the graph is: (1) of the module's definition."""
    leaves = [leaf for leaf in pytree.tree_leaves(spec) if isinstance(leaf, TensorSpec | RowCount)]
    return bool(leaves) and all(map(_is_structural_leaf, leaves))


def _is_structural_leaf(leaf: TensorSpec | RowCount) -> bool:
    if isinstance(leaf, RowCount) or leaf.role in ("edges", "batch", "ptr"):
        return True
    per_edge = bool(leaf.axes) and str(leaf.axes[0])[0] in "EK"
    return per_edge and (leaf.role == "index" or len(leaf.axes) == 1)


def _argument_parts(gm: CompiledGNN) -> dict[fx.Node, Any]:
    """Placeholders and what is taken out of them by constant keys, with what each was described as."""
    specs: dict[fx.Node, Any] = {}
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            specs[node] = inputs_of(gm).arguments.get(str(node.target))
        elif node.target is operator.getitem and isinstance(specs.get(node.args[0]), dict | tuple | list):
            container, key = specs[node.args[0]], node.args[1]
            if not isinstance(key, fx.Node | slice):
                specs[node] = container[key]
    return specs


def _row_counts(specs: Mapping[fx.Node, Any], values: Mapping[fx.Node, tuple[Any, Any]]) -> dict[tuple[int, int], str]:
    """Row symbols by how many rows they have in the two examples; nodes come before other kinds of rows."""
    found: dict[tuple[int, int], str] = {}
    for node, spec in specs.items():
        if isinstance(spec, TensorSpec):
            small, large = values[node]
            for axis, symbol in enumerate(spec.axes):
                pair = small.shape[axis], large.shape[axis]
                if isinstance(symbol, str) and (pair not in found or symbol.startswith("N")):
                    found[pair] = symbol
    return found


def _read(
    node: fx.Node,
    specs: Mapping[fx.Node, Any],
    values: Mapping[fx.Node, tuple[Any, Any]],
    rows: Mapping[tuple[int, int], str],
) -> Input | None:
    """What a node reads off a feature, if that is its number of rows, its floating dtype or its device."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or len(node.args) != 2 or node.kwargs:
        return None
    name, (small, large) = argument_name(source), values[node]
    if node.op == "call_method" and node.target == "size" and (small, large) in rows:
        spec, axis = specs.get(source), node.args[1]
        known = spec.axes[axis] if isinstance(spec, TensorSpec) and isinstance(axis, int) else rows[small, large]
        return Input("rows", name, str(known))
    if node.target is getattr and isinstance(small, torch.dtype) and small.is_floating_point:
        return Input("dtype", name)
    return Input("device", name) if node.target is getattr and isinstance(small, torch.device) else None


def argument_name(node: fx.Node) -> str:
    """An argument, or what is taken out of one, as users write it; other values by the name of their node."""
    if node.op == "placeholder":
        return str(node.target)
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return f"{argument_name(node.args[0])}[{node.args[1]!r}]"
    return node.name


def _is_computable(node: fx.Node) -> bool:
    """Whether a call returns the same for the same, in every process: (3) of the module's definition."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__qualname__", str(node.target))
    if "<" in name:  # a function inside another is not told from one of the same name
        return False
    return is_pure(node) or node.target is functions.set_item  # which copies before it writes


def _is_lost(node: fx.Node, depends: Depends, reads: Mapping[fx.Node, Input]) -> bool:
    """Whether a node must stay outside: a call outside writes over it, or it reads what stays outside."""
    if any(user.target in _OVERWRITING and user.args[0] is node and user not in depends for user in node.users):
        return True
    return node not in reads and any(source not in depends for source in node.all_input_nodes)


def _parts(depends: Depends, reads: Mapping[fx.Node, Input], specs: Mapping[fx.Node, Any]) -> tuple[HalfPart, ...]:
    """Group the arguments that something is computed from together; nothing if nothing is computed."""
    arguments = [node for node in depends if node.op == "placeholder"]
    computed = {node: on for node, on in depends.items() if on and node.op != "placeholder"}
    groups: list[set[fx.Node]] = [{node} for node in arguments]
    for on in dict.fromkeys(computed.values()):
        touched = [group for group in groups if group & on]
        groups = [group for group in groups if not group & on] + [set(on).union(*touched)]
    roles = {node: {getattr(leaf, "role", "count") for leaf in pytree.tree_leaves(specs[node])} for node in arguments}
    counts = {node for node in arguments if roles[node] <= {"count"}}
    groups = [group for group in groups if group - counts]
    if not computed or not groups:
        return ()
    edges = {node for node in arguments if "edges" in roles[node]}
    groups.sort(key=lambda group: (not group & edges, min(map(arguments.index, group))))
    groups[0] |= counts.difference(*groups[1:])
    parts = []
    for group in groups:
        own = {node for node, on in computed.items() if on <= group}
        nodes = set(own)
        for node in reversed(depends):
            if node in nodes:
                nodes.update(s for s in node.all_input_nodes if not depends[s] and s not in reads)
        first = sorted((node for node in arguments if node in group), key=lambda node: node not in edges)
        parts.append(HalfPart(tuple(first), *(tuple(n for n in depends if n in chosen) for chosen in (own, nodes))))
    return tuple(parts)
