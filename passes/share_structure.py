"""Compute equal calls once, above all on the graph's structure: one ``gcn_norm`` per graph, not one per layer.

Two nodes are equal iff they make the same call (target and constants) on equal nodes, and the call is pure: not random,
not a module. Sizes are first read from the earliest value with the same rows, so that calls that take a number of rows
compare equal too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_origin import row_origin
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.purity import is_pure
from upscale_fx.passes.base import edited_flow


@dataclass(frozen=True)
class ShareStructure:
    """Merge equal pure calls."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited_flow(gm, share_structure)


def share_structure(flow: Dataflow) -> int:
    """Read dtypes and sizes from one value each, and merge equal calls; returns how many reads and calls changed."""
    return share_dtypes(flow) + share_sizes(flow) + merge_equal_calls(flow.module.graph)


def share_dtypes(flow: Dataflow) -> int:
    """Read the floating dtype from the first float input: ``.to(dtype)`` gives all values of a graph the same one."""
    inputs = [n for n in flow.nodes if n.op == "placeholder" and _is_float(flow, n)]
    count = 0
    for node in flow.nodes:
        if node.target is getattr and node.args[1] == "dtype" and inputs and node.args[0] is not inputs[0]:
            first: Any = flow.values[inputs[0]][0]
            if first.dtype == flow.values[node][0]:
                node.args = (inputs[0], "dtype")
                count += 1
    return count


def _is_float(flow: Dataflow, node: fx.Node) -> bool:
    value = flow.values[node][0]
    return isinstance(value, Tensor) and value.is_floating_point()


def share_sizes(flow: Dataflow) -> int:
    """Read every number of rows from the earliest value that provably has as many; returns how many reads moved."""
    count = 0
    for node in flow.nodes:
        if node.op != "call_method" or node.target != "size" or len(node.args) != 2:
            continue
        source, axis = node.args
        if not isinstance(source, fx.Node) or not isinstance(axis, int) or source not in flow.axes:
            continue
        origin, place = row_origin(flow, source, axis % len(flow.axes[source].sizes))
        if (origin, place) != (source, axis):
            node.args = (origin, place)
            count += 1
    return count


def merge_equal_calls(graph: fx.Graph) -> int:
    """Replace each pure call by the first equal one; returns how many were removed."""
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
    if not is_pure(node):
        return None
    try:
        key = (node.op, node.target, _frozen(node.args), _frozen(node.kwargs))
        hash(key)
    except TypeError:
        return None
    return key


def _frozen(value: Any) -> Any:
    """Arguments as a hashable key; constants of different types stay different (1, 1.0, True)."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, tuple | list):
        return (type(value).__name__, *(_frozen(v) for v in value))
    if isinstance(value, dict):
        return ("dict", *((k, _frozen(value[k])) for k in sorted(value)))
    if isinstance(value, slice):
        return ("slice", _frozen(value.start), _frozen(value.stop), _frozen(value.step))
    return (type(value).__name__, value)
