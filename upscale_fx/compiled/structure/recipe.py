"""The recipe of a computation: a text that is equal for equal computations, whatever the names and order of nodes.

A node's recipe is a digest of what it calls, of the constants it passes, and of the recipes of the nodes it reads.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping

from torch import fx
from torch.fx.node import _get_qualified_name, map_arg


def recipes(graph: fx.Graph, inputs: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """Return the recipe of every node of a graph of pure calls; ``inputs`` gives the texts of its placeholders."""
    by_node: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            by_node[node] = digest([inputs[node]])
        elif node.op != "output":
            constants = map_arg((node.args, tuple(sorted(node.kwargs.items()))), by_node.__getitem__)
            by_node[node] = digest([node.op, function_name(node), repr(constants)])
    return by_node


def digest(parts: Iterable[str]) -> str:
    """Return a hash of several strings, as one string of fixed length."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def function_name(node: fx.Node) -> str:
    """Return the name of a node's target; of a function, with its module."""
    return node.target if isinstance(node.target, str) else _get_qualified_name(node.target)


def summary_of(nodes: Iterable[fx.Node]) -> str:
    """Return the names of the functions that nodes call, each once, in order, without ``getitem``."""
    calls = [node for node in nodes if node.op.startswith("call") and node.target is not operator.getitem]
    names = dict.fromkeys(function_name(node).rpartition(".")[2] for node in calls)
    return ", ".join(names) or "the values"
