"""A list of the nodes of a graph, by which changes by hand are noticed later.

Dead nodes can be removed, as FX's ``eliminate_dead_code`` does; this changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import fx, nn

from upscale_fx.compiled.purity import is_pure


@dataclass(frozen=True)
class ListedNode:
    """One node of a list.

    Attributes:
        name: its name, behind that of the graph for a graph that a module holds.
        digest: of what it calls, with which arguments.
        live: whether an output needs it, or it has effects of its own.
    """

    name: str
    digest: str
    live: bool


def list_nodes(graph: fx.Graph, within: str = "") -> tuple[ListedNode, ...]:
    """List the nodes of a graph, in order."""
    nodes: list[fx.Node] = list(graph.nodes)
    live: set[fx.Node] = set()
    for node in reversed(nodes):
        alone = node.op in ("placeholder", "output") or (node.op.startswith("call_f") and not is_pure(node))
        if alone or (node.op == "call_method" and not is_pure(node)) or not live.isdisjoint(node.users):
            live.add(node)
    return tuple(ListedNode(within + node.name, _digest(node), node in live) for node in nodes)


def list_all_nodes(gm: fx.GraphModule) -> tuple[ListedNode, ...]:
    """List the nodes of a graph, and of the graphs in modules that it calls."""
    found = list(list_nodes(gm.graph))
    for name, part in _called_graphs(gm):
        found += list_nodes(part.graph, f"{name}: ")
    return tuple(found)


def changes(before: Sequence[ListedNode], now: Sequence[ListedNode]) -> str:
    """Say what differs in two lists; empty if nothing does but dead nodes that are gone."""
    old, new = {node.name: node for node in before}, {node.name: node for node in now}
    found = [(name, "was added") for name in new if name not in old]
    found += [(name, "was changed") for name in new if name in old and new[name].digest != old[name].digest]
    found += [(name, "was removed") for name, node in old.items() if node.live and name not in new]
    if not found:
        order = {node.name: place for place, node in enumerate(before)}
        places = [order[node.name] for node in now]
        moved = next((i for i in range(1, len(places)) if places[i] < places[i - 1]), None)
        found = [] if moved is None else [(now[moved].name, "was moved")]
    shown = [f"node '{name}' {how}" for name, how in found[:3]]
    return ", ".join(shown) + (f", and {len(found) - 3} more" if len(found) > 3 else "")


def missing_target(gm: nn.Module, targets: Sequence[str]) -> str | None:
    """Return the first of these dotted names that a module does not have; None if it has all."""
    for target in targets:
        owner: Any = gm
        for part in target.split("."):
            if not hasattr(owner, part):
                return target
            owner = getattr(owner, part)
    return None


def _called_graphs(gm: fx.GraphModule) -> list[tuple[str, fx.GraphModule]]:
    """The graphs in modules that a graph calls, with their names."""
    targets = dict.fromkeys(str(node.target) for node in gm.graph.nodes if node.op == "call_module")
    called = [(target, gm.get_submodule(target)) for target in targets if missing_target(gm, [target]) is None]
    return [
        (f"{target}.{path}" if path else target, part)
        for target, module in called
        for path, part in module.named_modules()
        if isinstance(part, fx.GraphModule)
    ]


def _digest(node: fx.Node) -> str:
    parts = (node.op, _text(node.target), _text(node.args), _text(node.kwargs))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    """A text for an argument that is equal in every process: no address is part of it."""
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):  # FX's own tuples and lists are equal to Python's
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, slice):
        return f"slice({', '.join(map(_text, (value.start, value.stop, value.step)))})"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__qualname__}({', '.join(_text(getattr(value, field.name)) for field in fields(value))})"
    if callable(value):
        name = getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__))
        return f"{getattr(value, '__module__', '')}.{name}"
    text = repr(value)
    return text if " at 0x" not in text else type(value).__qualname__
