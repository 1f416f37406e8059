"""The structure half of an FX graph: the nodes that depend on the input graph's structure alone.

A node is *structure* iff it is (1) an argument that describes the structure: indices, graph ids, types of edges, one
number per edge, row counts; (2) the number of rows, the floating dtype or the device of a value that no argument of (1)
reaches; or (3) a pure call that draws no random numbers and reads only structure and constants. The structure half
consists of the nodes computed from arguments of (1), and the nodes they read. An index per node (tokens, types of
atoms) is a feature.

Rows are recognised on the two example graphs. Two row axes may have equal sizes there by accident. So every call
compares all row counts, dtypes and devices of (2) with those the handle was made for, and refuses others.
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

#: Functions that write over their first operand, which every call must therefore compute anew.
_OVERWRITING = {functions.add_into, functions.add_linear, functions.relu_into, functions.elu_into}
Depends = dict[fx.Node, frozenset[fx.Node]]


@dataclass(frozen=True)
class HalfPart:
    """Arguments that belong together, and the nodes computed from them.

    Attributes:
        arguments: their placeholders, edges first.
        computed: the nodes computed from them, in execution order.
        nodes: ``computed``, and the nodes they read that depend on sizes and constants only; other parts may read these
            too.
    """

    arguments: tuple[fx.Node, ...]
    computed: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Half:
    """The structure half of a graph.

    Attributes:
        parts: its parts; the part with the edges comes first.
        reads: nodes that read sizes, dtypes and devices of features.
        features: all other tensor arguments, and tensors inside arguments.
    """

    parts: tuple[HalfPart, ...]
    reads: Mapping[fx.Node, Input]
    features: Mapping[fx.Node, TensorSpec]


def find_structure(gm: CompiledGNN) -> Half | None:
    """Return the structure half of a graph; None if it computes nothing."""
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
        elif node not in downstream and (read := _read(node, specs, values, rows)):
            reads[node], depends[node] = read, frozenset()
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
    """Whether an argument describes the structure: (1) of the module's definition."""
    leaves = [leaf for leaf in pytree.tree_leaves(spec) if isinstance(leaf, TensorSpec | RowCount)]
    return bool(leaves) and all(map(_is_structural_leaf, leaves))


def _is_structural_leaf(leaf: TensorSpec | RowCount) -> bool:
    if isinstance(leaf, RowCount) or leaf.role in ("edges", "batch", "ptr"):
        return True
    per_edge = bool(leaf.axes) and str(leaf.axes[0])[0] in "EK"
    return per_edge and (leaf.role == "index" or len(leaf.axes) == 1)


def _argument_parts(gm: CompiledGNN) -> dict[fx.Node, Any]:
    """Return the descriptions of placeholders and of their items at constant keys."""
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
    """Return row symbols by their sizes in the two examples; nodes take precedence over other rows."""
    symbols: dict[tuple[int, int], str] = {}
    for node, spec in specs.items():
        if isinstance(spec, TensorSpec):
            small, large = values[node]
            for axis, symbol in enumerate(spec.axes):
                pair = small.shape[axis], large.shape[axis]
                if isinstance(symbol, str) and (pair not in symbols or symbol.startswith("N")):
                    symbols[pair] = symbol
    return symbols


def _read(
    node: fx.Node,
    specs: Mapping[fx.Node, Any],
    values: Mapping[fx.Node, tuple[Any, Any]],
    rows: Mapping[tuple[int, int], str],
) -> Input | None:
    """Return what a node reads of a feature, if that is its number of rows, its floating dtype or its device."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or len(node.args) != 2 or node.kwargs:
        return None
    name, (small, large) = argument_name(source), values[node]
    if node.op == "call_method" and node.target == "size" and (small, large) in rows:
        spec, axis = specs.get(source), node.args[1]
        symbol = spec.axes[axis] if isinstance(spec, TensorSpec) and isinstance(axis, int) else rows[small, large]
        return Input("rows", name, str(symbol))
    if node.target is getattr and isinstance(small, torch.dtype) and small.is_floating_point:
        return Input("dtype", name)
    return Input("device", name) if node.target is getattr and isinstance(small, torch.device) else None


def argument_name(node: fx.Node) -> str:
    """Return an argument, or an item of one, as users write it (``x['user']``); for other nodes the node name."""
    if node.op == "placeholder":
        return str(node.target)
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return f"{argument_name(node.args[0])}[{node.args[1]!r}]"
    return node.name


def _is_computable(node: fx.Node) -> bool:
    """Whether a call returns equal results for equal arguments in every process: (3) of the module's definition."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__qualname__", str(node.target))
    if "<" in name:  # lambdas and local functions are not identified by their names
        return False
    return is_pure(node) or node.target is functions.set_item  # which copies before it writes


def _is_lost(node: fx.Node, depends: Depends, reads: Mapping[fx.Node, Input]) -> bool:
    """Whether a node must stay outside the half: a call outside writes over it, or it reads a node outside."""
    if any(user.target in _OVERWRITING and user.args[0] is node and user not in depends for user in node.users):
        return True
    return node not in reads and any(source not in depends for source in node.all_input_nodes)


def _parts(depends: Depends, reads: Mapping[fx.Node, Input], specs: Mapping[fx.Node, Any]) -> tuple[HalfPart, ...]:
    """Group arguments that one computed node depends on, and make a part of each group; none if nothing is computed."""
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
        inside = {node for node, on in computed.items() if on <= group}
        nodes = set(inside)
        for node in reversed(depends):
            if node in nodes:
                nodes.update(s for s in node.all_input_nodes if not depends[s] and s not in reads)
        first = sorted((node for node in arguments if node in group), key=lambda node: node not in edges)
        parts.append(HalfPart(tuple(first), *(tuple(n for n in depends if n in some) for some in (inside, nodes))))
    return tuple(parts)
