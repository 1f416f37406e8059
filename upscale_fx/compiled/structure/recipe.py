"""The identity of a computation: equal for equal ones, whatever their nodes are called and how they are ordered.

A node's recipe is a digest of what it calls, of the constants it passes, and of the recipes of the nodes it reads.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping

from torch import fx
from torch.fx.node import _get_qualified_name, map_arg


def recipes(graph: fx.Graph, inputs: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """The recipe of every node of a graph of pure calls; ``inputs`` gives those of its placeholders."""
    found: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            found[node] = digest([inputs[node]])
        elif node.op != "output":
            constants = map_arg((node.args, tuple(sorted(node.kwargs.items()))), found.__getitem__)
            found[node] = digest([node.op, function_name(node), repr(constants)])
    return found


def digest(parts: Iterable[str]) -> str:
    """One string for several, of fixed length."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def function_name(node: fx.Node) -> str:
    """What a call calls, with its module."""
    return node.target if isinstance(node.target, str) else _get_qualified_name(node.target)


def summary_of(nodes: Iterable[fx.Node]) -> str:
    """The functions that nodes call, each once, in order; what only takes something out of a tuple is left out."""
    calls = [node for node in nodes if node.op.startswith("call") and node.target is not operator.getitem]
    names = dict.fromkeys(function_name(node).rpartition(".")[2] for node in calls)
    return ", ".join(names) or "the values"
