"""Notice what was changed by hand in a graph, so that nothing goes back to the graph from before the change.

A fused graph holds the nodes from before fusing, which analyses read. Its own nodes are listed when fusing is done: a
graph whose nodes differ from the list was changed by hand, and what it computes is not what the nodes from before
fusing compute. Likewise the code of a graph is that of its nodes as they were at the last ``recompile``.
"""

from __future__ import annotations

import operator
from typing import cast

from torch import fx

from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.deferred_code import DeferredCode
from upscale_fx.compiled.guards.listed_nodes import changes, list_all_nodes, missing_target
from upscale_fx.compiled.layers.additions import check_additions
from upscale_fx.compiled.record import GraphRecord, NodeRecord
from upscale_fx.errors import EditedGraphError

_ASSIGNING = {operator.setitem, operator.delitem, operator.iadd, operator.isub, operator.imul, operator.itruediv}


def check_unedited(gm: DeferredCode, record: GraphRecord) -> None:
    """Refuse a graph that was changed by hand in a way that analyses would not see, or would fail at.

    Raises:
        EditedGraphError: names what was changed, and the way out.
    """
    for name, part in gm.named_modules():
        if isinstance(part, DeferredCode) and (edit := part.changes_without_code()):
            raise EditedGraphError(
                f"the graph{f' {name}' if name else ''} was changed ({edit}), but its code was not made again, so "
                f"calls do not have the change: call recompile()"
            )
    if "forward" in gm.__dict__:
        raise EditedGraphError(
            "forward() of this compiled graph was replaced, and its graph does not have the change: put a module "
            "around it instead, and trace that"
        )
    _check_arguments(gm, record)
    targets = [node.target for node in (*gm.graph.nodes, *(record.plain or ())) if is_read(node)]
    if (missing := missing_target(gm, targets)) is not None:
        raise EditedGraphError(f"'{missing}', which this compiled graph reads, was deleted or replaced: put it back")
    if record.plain is None:
        _check_pure(gm)
    check_additions(gm, record)
    edit = changes(record.fused, list_all_nodes(gm)) if record.fused is not None else ""
    if edit:
        raise EditedGraphError(
            f"this fused graph was changed by hand: {edit}. It can be called, trained, copied and saved as it is, but "
            f"graphs are analysed and pruned as they are before fusing, and that graph does not have the change. "
            f"Change the graph before it is fused: what upscale_fx.compact() returns, also for a fused graph before "
            f"the change; upscale_fx.optimize() then fuses it"
        )


def is_read(node: fx.Node | NodeRecord) -> bool:
    """Whether a node reads a parameter, a buffer or a module."""
    return node.op in ("get_attr", "call_module")


def _check_pure(gm: DeferredCode) -> None:
    """Traced graphs have pure calls only, and the analyses rely on it."""
    for node in gm.graph.nodes:
        name = target_name(node.target)
        of_torch = isinstance(node.target, str) or str(getattr(node.target, "__module__", "")).startswith("torch")
        method = name.endswith("_") and not name.endswith("__") and name != "requires_grad_" and of_torch
        assigned = node.target in _ASSIGNING or bool(node.kwargs.get("inplace")) or node.kwargs.get("out") is not None
        if assigned or (node.op in ("call_method", "call_function") and method):
            raise EditedGraphError(
                f"node '{node.name}' of this graph changes a tensor in place ({name}), and graphs are analysed as if "
                f"no call did: use the form that returns a new tensor, and let the nodes that follow read that"
            )


def _check_arguments(gm: DeferredCode, record: GraphRecord) -> None:
    """The analyses run a graph on arguments like those it was traced with."""
    arguments = {str(node.target) for node in gm.graph.nodes if node.op == "placeholder"}
    check = next((node for node in gm.graph.nodes if node.target is check_inputs), None)
    if check is None:
        raise EditedGraphError(
            "the call of check_inputs was removed from this graph, and the passes need it: put it back, or trace again"
        )
    known = {*record.inputs.arguments, *cast(tuple[str, ...], check.args[1])}
    strange = sorted((arguments - known) | (record.inputs.arguments.keys() - arguments))
    if strange:
        raise EditedGraphError(
            f"the argument '{strange[0]}' of this graph was added or removed by hand, and graphs are analysed with the "
            f"arguments they were traced with: change the model, and trace it again"
        )
