"""Reduce a trace to the attributes that its outputs need, and note what the model looked for besides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.inputs import LARGE, SMALL, ModelInputs, TensorSpec
from upscale_fx.compiled.objects.arguments import ObjectParts
from upscale_fx.compiled.objects.reads import Place, Reads
from upscale_fx.tracing.objects.apart import is_in, places

#: Calls the model with arguments of a description.
Run = Callable[[ModelInputs, Mapping[str, Any]], Any]


def only_read(inputs: ModelInputs, graph: fx.Graph, reads: Reads, run: Run) -> ModelInputs:
    """Remove the attributes that no output needs from a graph, and return its arguments.

    Args:
        inputs: all attributes of the example.
        graph: the trace; it changes.
        reads: what the model looked up while it was traced.
        run: calls the model with arguments of this description.
    """
    if not inputs.objects:
        return inputs
    drop_dead_nodes(graph)
    inputs = replace(inputs, objects={n: _with_listed(p, (n,), reads) for n, p in inputs.objects.items()})
    nodes = {str(node.target): node for node in graph.find_nodes(op="placeholder")}
    looked_up = _looked_up(inputs, reads.found)
    arguments, unread = dict(inputs.arguments), dict[str, Any]()
    inner = {name for parts in inputs.objects.values() for name in parts.names()}
    for name in inner & arguments.keys():
        live, dead = _split(arguments[name], nodes[name], name in looked_up)
        if dead is not None:
            unread[name] = dead
        if live is None:
            del arguments[name]
            graph.erase_node(nodes[name])
        else:
            arguments[name] = live
    order = tuple(name for name in inputs.order if name in arguments or name not in inner)
    suspects = {name for name in unread if name in looked_up and name not in arguments}
    present = suspects if suspects and _matter(inputs, suspects, run) else set()
    missing = _by_object(inputs, reads.missing)
    for place, names in missing.items():
        names -= {name for name in names if not _would_matter(inputs, place, name, run)}
    objects = {name: _noted(parts, (name,), present, missing) for name, parts in inputs.objects.items()}
    return replace(inputs, arguments=arguments, order=order, unread=unread, objects=objects)


def _with_listed(parts: ObjectParts, place: Place, reads: Reads) -> ObjectParts:
    """Note all attributes of objects that were listed."""
    inner = {
        key: part if isinstance(part, str) else _with_listed(part, (*place, key), reads)
        for key, part in parts.parts.items()
    }
    listed = any(is_in(where, place) for where in reads.listed)
    refused = {path[-1] if len(path) == 1 else f"{path[-1]}_dict" for path in parts.refused}
    return replace(parts, parts=inner, listed=frozenset({*parts.parts, *refused}) if listed else parts.listed)


def _split(spec: Any, node: fx.Node, looked_up: bool) -> tuple[Any, Any]:
    """Return what is read of an argument and what is not; None for nothing."""
    if isinstance(spec, dict):
        users = list(node.users)
        if any(
            user.op != "call_function" or user.target.__name__ != "getitem" for user in users if callable(user.target)
        ):
            return spec, None
        keys = {user.args[1] for user in users}
        live = {key: part for key, part in spec.items() if key in keys or (looked_up and not _traced(part))}
        dead = {key: part for key, part in spec.items() if key not in live}
        return live or None, dead or None
    is_live = bool(node.users) if _traced(spec) else looked_up
    return (spec, None) if is_live else (None, spec)


def _traced(spec: Any) -> bool:
    """Whether a description has a node in the graph, rather than a constant that is built in."""
    return any(not isinstance(leaf, bool | int | float | str) for leaf in pytree.tree_leaves(spec))


def _looked_up(inputs: ModelInputs, reads: Mapping[tuple[Place, str], None]) -> set[str]:
    """The graph's arguments that were looked up by name; those of named tuples and lists always count."""
    found = set()
    for place, parts in places(inputs.objects):
        always = issubclass(parts.kind.cls, tuple | list) or parts.listed is not None
        for key, part in parts.parts.items():
            names = (key, key.removesuffix("_dict"))
            if isinstance(part, str) and (
                always or any(is_in(where, place) and name in names for where, name in reads)
            ):
                found.add(part)
    return found


def _by_object(inputs: ModelInputs, reads: Mapping[tuple[Place, str], None]) -> dict[Place, set[str]]:
    """Per object, the names that were looked up and that none of its attributes has."""
    missing: dict[Place, set[str]] = {}
    for place, parts in places(inputs.objects):
        known = {key.removesuffix("_dict") for key in parts.parts} | set(parts.parts)
        for where, name in reads:
            if not is_in(where, place) or name in known:
                continue
            missing.setdefault(place, set()).add(name if where == place else f"{name}_dict")
    return missing


def _noted(parts: ObjectParts, place: Place, present: set[str], missing: Mapping[Place, set[str]]) -> ObjectParts:
    inner = {
        key: part if isinstance(part, str) else _noted(part, (*place, key), present, missing)
        for key, part in parts.parts.items()
    }
    needed = frozenset(key for key, part in parts.parts.items() if isinstance(part, str) and part in present)
    return replace(parts, parts=inner, present=needed, absent=parts.absent | frozenset(missing.get(place, ())))


def _matter(inputs: ModelInputs, names: set[str], run: Run) -> bool:
    """Whether the model does something else on a graph without these attributes."""
    without = replace(inputs, arguments={n: s for n, s in inputs.arguments.items() if n not in names}, unread={})
    for rows in (SMALL, LARGE):
        try:
            whole = inputs.example(rows)
            part = {name: value for name, value in whole.items() if name not in names}
            if largest_difference(run(inputs, whole), run(without, part)) > 0:
                return True
        except Exception:  # it needs them
            return True
    return False


def _would_matter(inputs: ModelInputs, place: Place, name: str, run: Run) -> bool:
    """Whether the model does something else on a graph with an attribute of this name."""
    parts = inputs.objects.get(place[0])
    if len(place) > 1 or parts is None or parts.kind.types:
        return True
    known = {**inputs.objects, place[0]: replace(parts, parts={**parts.parts, name: "attribute"})}
    values = {**inputs.arguments, "attribute": TensorSpec(("N",), torch.get_default_dtype())}
    more = replace(inputs, arguments=values, objects=known)
    for rows in (SMALL, LARGE):
        try:
            whole = more.example(rows)
            rest = {key: value for key, value in whole.items() if key != "attribute"}
            if largest_difference(run(inputs, rest), run(more, whole)) > 0:
                return True
        except Exception:  # it makes use of it
            return True
    return False


def same_attribute(new: Any, old: Any) -> bool:
    """Whether an attribute is what it was, or only moved or copied by a call such as ``data.to(device)``."""
    if new is old:
        return True
    node, before = getattr(new, "node", None), getattr(old, "node", None)
    if isinstance(node, fx.Node) and isinstance(before, fx.Node):
        while (
            node is not before
            and node.op == "call_method"
            and node.target in _MOVES
            and isinstance(node.args[0], fx.Node)
        ):
            node = node.args[0]
        return node is before
    if isinstance(new, Tensor) or isinstance(old, Tensor):
        return False
    return type(new) is type(old) and bool(new == old)


_MOVES = ("to", "cpu", "cuda", "contiguous", "detach", "pin_memory")
