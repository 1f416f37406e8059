"""Which modules a graph could call in the place of functions that read their tensors."""

from __future__ import annotations

from torch import fx

from upscale_fx.compiled.layers.kinds import Call, layer_call


def calls_by_owner(graph: fx.Graph) -> dict[str, Call]:
    """Return the call of every path whose tensors the graph reads in calls of one function only."""
    found: dict[str, Call] = {}
    refused: set[str] = set()
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        owner = str(node.target).rpartition(".")[0]
        for user in node.users:
            call = layer_call(user)
            if call is None or call.owner != owner or call.x is node or not _alike(found.setdefault(owner, call), call):
                refused.add(owner)
    return {owner: call for owner, call in found.items() if owner not in refused}


def _alike(first: Call, second: Call) -> bool:
    return (first.module, first.tensors, first.constants) == (second.module, second.tensors, second.constants)
