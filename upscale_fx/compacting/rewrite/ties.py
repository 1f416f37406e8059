"""Tied parameters: one tensor under several names, such as a weight that two recurrent modules share.

Parameters that the graph reads have one name, so they stay one. Modules that the graph calls hold their own, and are
cut one by one: what was one tensor stays one if all of them are cut alike. A called module of which the graph reads a
tensor besides (``bn.weight``) is not cut at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from torch import fx, nn

from upscale_fx.analysis.dataflow import Dataflow, nonzero
from upscale_fx.channels.relations import Barrier
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.channels.rules.registry import call_of
from upscale_fx.compiled.record.origin import Origin


def ties_of(module: nn.Module) -> list[tuple[str, ...]]:
    """The names of every parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]


def owner_of(target: str, modules: Collection[str]) -> str | None:
    """Which of some modules, given by path, holds a tensor; None if none does."""
    parts = target.split(".")
    above = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((path for path in above if path in modules), None)


def with_read_modules_whole(flow: Dataflow) -> Dataflow:
    """The same graph in which called modules are barriers if the graph reads a tensor besides that they would lose.

    Of recurrent modules only the input weights lose something in a rewrite.
    """
    called = {str(node.target) for node in flow.nodes if node.op == "call_module"}
    tensors = {str(node.target) for node in flow.nodes if node.op == "get_attr"}
    read = {owner_of(tensor, called) for tensor in tensors} - {None}
    if not read:
        return flow

    def is_read(node: fx.Node) -> bool:
        relation = flow.relations[node]
        if isinstance(relation, Recurrence):
            return any(f"{relation.module}.{name}" in tensors for name in relation.weights)
        call, _ = call_of(node, flow.values)
        return call.op == "call_module" and str(call.target) in read

    relations = dict(flow.relations)
    for node in filter(is_read, flow.relations):
        sources = tuple(source for source in relations[node].reads if source in flow.axes)
        relations[node] = Barrier(sources, "the graph reads its weights besides")
    changed = replace(flow, relations=relations)
    return replace(changed, nonzero=nonzero(changed))


def mates_of(module: nn.Module, target: str, others: Collection[str]) -> list[str]:
    """Those of other modules, given by path, that share a parameter with one."""
    own = {id(parameter) for parameter in module.get_submodule(target).parameters()}
    paths = [path for path in others if path != target]
    return [path for path in paths if any(id(p) in own for p in module.get_submodule(path).parameters())]


def tie(root: nn.Module, old: nn.Module, origins: Mapping[str, Origin]) -> None:
    """Let parameters of a cut graph be one that were one in ``old``, where the same entries of them are left.

    Args:
        root: the modules of the new graph.
        old: the graph before.
        origins: where the entries of the new parameters come from, for those that are not at home.
    """
    new = dict(root.named_parameters(remove_duplicate=False))
    for group in ties_of(old):
        kept = [name for name in group if name in new]
        for name in kept[1:]:
            if new[name].shape == new[kept[0]].shape and _alike(origins.get(kept[0]), origins.get(name)):
                path, _, own = name.rpartition(".")
                setattr(root.get_submodule(path), own, new[kept[0]])


def _alike(first: Origin | None, second: Origin | None) -> bool:
    """Whether two parameters keep the same entries."""
    places = [None if origin is None or origin.picks is None else origin.places for origin in (first, second)]
    if places[0] is None or places[1] is None:
        return places[0] is places[1]
    return places[0].shape == places[1].shape and np.array_equal(places[0], places[1])


def untied(before: nn.Module, after: nn.Module) -> list[tuple[str, ...]]:
    """The names of parameters that are one in ``before`` and several in ``after``."""
    now = dict(after.named_parameters(remove_duplicate=False))
    groups = [[name for name in group if name in now] for group in ties_of(before)]
    return [tuple(group) for group in groups if len({id(now[name]) for name in group}) > 1]
