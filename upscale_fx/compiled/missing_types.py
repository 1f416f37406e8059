"""Calls of heterogeneous models that lack a type of node or edge, or that have types in another order.

PyG's ``HeteroConv`` skips an edge type that a batch lacks: whatever would be computed from it does not exist, and where
the results of several types come together (``torch.stack``, ``torch.cat``), those that exist do. :func:`without_types`
does the same to a graph. Whether this is what a model does is not assumed: tracing compares it with the model, and a
graph takes only those batches for which they agree.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.record.nodes import copied_graph
from upscale_fx.errors import InputError

#: Entries of dictionaries that a call lacks: (argument, type).
Missing = frozenset[tuple[str, Any]]
_MERGES = (torch.stack, torch.cat, torch.concat, torch.concatenate)


def typed_entries(graph: fx.Graph) -> dict[fx.Node, tuple[str, Any]]:
    """Return the nodes that read an entry of a dictionary among the arguments, and that entry."""
    return {
        node: (str(node.args[0].target), node.args[1])
        for node in graph.find_nodes(op="call_function", target=operator.getitem)
        if isinstance(node.args[0], fx.Node) and node.args[0].op == "placeholder" and _is_type(node.args[1])
    }


def _is_type(key: Any) -> bool:
    """Whether a key names a type of nodes or edges; others take a part of a tensor."""
    return isinstance(key, str) or (isinstance(key, tuple) and bool(key) and all(isinstance(one, str) for one in key))


def merges_of_types(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes where values of different types come together, some of which a batch may lack."""
    needs: dict[fx.Node, frozenset[tuple[str, Any]]] = {}
    entries, merges = typed_entries(graph), set()
    for node in graph.nodes:
        own = [needs[operand] for operand in node.all_input_nodes]
        if _parts(node) is not None and len(set(own)) > 1:
            merges.add(node)
        needs[node] = frozenset().union(*own, {entries[node]} if node in entries else ())
    return merges


def _parts(node: fx.Node) -> list[fx.Node] | None:
    """The values that a node brings together; None for other nodes."""
    parts = node.args[0] if node.args else node.kwargs.get("tensors")
    if node.target not in _MERGES or not isinstance(parts, list | tuple):
        return None
    return [part for part in parts if isinstance(part, fx.Node)]


def without_types(graph: fx.Graph, missing: Missing) -> fx.Graph | None:
    """Return the graph without what needs missing entries; None if it cannot give its outputs then.

    Entries that a dictionary of outputs lacks are left out.
    """
    new = copied_graph(graph)
    entries = typed_entries(new)
    absent: set[fx.Node] = set()
    for node in list(new.nodes):
        if node.op == "output":
            if not _shorten_output(node, absent):
                return None
            continue
        if entries.get(node) in missing:
            absent.add(node)
        elif absent.intersection(node.all_input_nodes):
            parts = _parts(node)
            kept = [part for part in parts or () if part not in absent]
            if kept and node.args and not absent.intersection(_others(node)):
                node.args = (kept, *node.args[1:])
            else:
                absent.add(node)
    for node in reversed(list(new.nodes)):
        if node in absent:
            new.erase_node(node)
    return new


def _others(node: fx.Node) -> list[fx.Node]:
    """The operands of a node besides the values that it brings together."""
    others: list[fx.Node] = []
    map_arg((node.args[1:], node.kwargs), others.append)
    return others


def _shorten_output(node: fx.Node, absent: set[fx.Node]) -> bool:
    value = node.args[0]
    if isinstance(value, Mapping):
        value = {key: item for key, item in value.items() if item not in absent}
        node.args = (value,)
    return not absent.intersection(node.all_input_nodes)


def text_of(missing: Missing) -> str:
    """Missing entries, as text for messages."""
    return " and ".join(f"{name}[{key!r}]" for name, key in sorted(missing, key=str))


def missing_types(inputs: ModelInputs, arguments: Mapping[str, Any], any_order: bool) -> Missing:
    """Return the entries that the dictionaries of a call lack.

    Args:
        inputs: the arguments that the graph was traced with.
        arguments: those of the call, by name.
        any_order: whether the model does the same for types in any order.

    Raises:
        InputError: a dictionary has a type that the graph was not traced with, or its types are in another order.
    """
    lacking: set[tuple[str, Any]] = set()
    for name, spec in inputs.arguments.items():
        value = arguments.get(name)
        if not isinstance(spec, dict) or not isinstance(value, Mapping):
            continue
        known = {**spec, **(inputs.unread.get(name) or {})}
        if more := [key for key in value if key not in known]:
            raise InputError(
                f"argument '{name}' has the type {more[0]!r}, which this graph was not traced with (it takes "
                f"{', '.join(map(repr, spec))}); trace again with an example that has it, or leave it out"
            )
        if not any_order and [k for k in value if k in spec] != [k for k in spec if k in value]:
            raise InputError(
                f"argument '{name}' has its types in the order {', '.join(map(repr, value))}, and this model does "
                f"something else in another order than {', '.join(map(repr, spec))}, with which it was traced; pass "
                f"them in that order, or trace again"
            )
        lacking |= {(name, key) for key in spec if key not in value}
    return frozenset(lacking)
