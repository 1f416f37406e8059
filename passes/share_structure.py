"""Repeated work on the graph's structure: one ``gcn_norm`` per graph, not one per layer.

Two nodes compute the same iff they make the same call (target and constants) on nodes that compute the same, and the call
is pure: not random, not a module. A row count is the same wherever it is read off a value whose rows it counts, so sizes
are read off the earliest such value, which lets the calls that take them be recognised as equal.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch_geometric.utils as pyg
from torch import fx
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx import ops
from upscale_fx.channels import Contraction, Pointwise
from upscale_fx.dataflow import Dataflow, analyse
from upscale_fx.module import CompiledGNN, make_module
from upscale_fx.tracer import drop_dead_nodes

#: Draw random numbers, or have effects: never merged.
_RANDOM = {"dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu", "rand", "randn", "randint", "randperm",
           "rand_like", "randn_like", "bernoulli", "multinomial", "normal", "dropout1d", "gumbel_softmax"}  # fmt: skip
_IMPURE = {ops.check_inputs, ops.set_item, pyg.dropout_edge, pyg.dropout_node, F.dropout}


@dataclass(frozen=True)
class ShareStructure:
    """Merge equal pure calls."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        new = copy.deepcopy(gm)
        count = share_sizes(analyse(new)) + merge_equal_calls(new.graph)
        if not count:
            return PassResult(new, False)
        drop_dead_nodes(new.graph)
        return PassResult(make_module(new, new.graph, gm.meta, gm.training), True)


def share_sizes(flow: Dataflow) -> int:
    """Read every row size off the earliest value that provably has as many rows; returns how many reads moved."""
    count = 0
    for node in flow.nodes:
        if node.op != "call_method" or node.target != "size" or len(node.args) != 2:
            continue
        source, axis = node.args
        if not isinstance(source, fx.Node) or not isinstance(axis, int) or source not in flow.axes:
            continue
        origin, place = row_origin(flow, source, axis % len(flow.axes[source].sizes))
        if origin is not source:
            node.args = (origin, place)
            count += 1
    return count


def row_origin(flow: Dataflow, node: fx.Node, axis: int) -> tuple[fx.Node, int]:
    """Follow a row axis back through operations that keep it."""
    while True:
        relation = flow.relations[node]
        if isinstance(relation, Contraction) and axis < len(flow.axes[node].sizes) - 1:
            node = relation.x
        elif isinstance(relation, Pointwise) and _keeps_rows(flow, node, relation):
            node = relation.flows[0].source
        else:
            return node, axis


def _keeps_rows(flow: Dataflow, node: fx.Node, relation: Pointwise) -> bool:
    """Whether the first operand has the result's row axes; aggregations and gathers have rows of their own."""
    if len(node.all_input_nodes) != len(relation.flows) and node.op != "call_module":
        return False
    source = relation.flows[0].source
    return source.op != "get_attr" and flow.axes[source].pairs == flow.axes[node].pairs and node.target is not pyg.scatter


def merge_equal_calls(graph: fx.Graph) -> int:
    """Replace each pure call by the first equal one; returns how many went."""
    seen: dict[Any, fx.Node] = {}
    count = 0
    for node in list(graph.nodes):
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
            count += 1
    return count


def _key(node: fx.Node) -> Any:
    if node.op not in ("call_function", "call_method", "get_attr"):
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _RANDOM or node.target in _IMPURE or (name.endswith("_") and not name.endswith("__")):
        return None
    try:
        key = (node.op, node.target, _frozen(node.args), _frozen(node.kwargs))
        hash(key)
    except TypeError:
        return None
    return key


def _frozen(value: Any) -> Any:
    """A hashable stand-in for arguments; constants of different types stay different (1, 1.0, True)."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, tuple | list):
        return (type(value).__name__, *(_frozen(v) for v in value))
    if isinstance(value, dict):
        return ("dict", *((k, _frozen(value[k])) for k in sorted(value)))
    if isinstance(value, slice):
        return ("slice", _frozen(value.start), _frozen(value.stop), _frozen(value.step))
    return (type(value).__name__, value)


__all__ = ["ShareStructure", "map_arg", "merge_equal_calls", "operator", "row_origin", "share_sizes"]
