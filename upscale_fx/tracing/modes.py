"""Merge the traces of ``train()`` and ``eval()`` into one graph; ByMode modules give the constants that differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from upscale_fx.compiled import functions


def merge_modes(evaluation: fx.Graph, train: fx.Graph, root: nn.Module) -> str | None:
    """Make the graph of ``eval()`` right for ``train()`` too; return the reason if this is impossible, else None.

    Constants that differ become calls of ByMode modules, which are added to ``root``.
    """
    pairs = list(zip(evaluation.nodes, train.nodes, strict=False))
    if len(evaluation.nodes) != len(train.nodes):
        return "forward() runs other operations in train() than in eval()"
    twin = {t: e for e, t in pairs}
    plan: list[tuple[fx.Node, Any, Any]] = []
    for e, t in pairs:
        if (e.op, e.target) != (t.op, t.target) and not _same_constant(e, t, root):
            return f"forward() calls {t.target} in train() where it calls {e.target} in eval() ({e.meta['source']})"
        switched = _switch((e.args, dict(e.kwargs)), (t.args, dict(t.kwargs)), twin)
        if switched is _DIFFERENT:
            return f"arguments of {e.target} differ between train() and eval() ({e.meta['source']})"
        plan.append((e, *switched))
    switches: dict[str, fx.Node] = {}

    def read(leaf: Any) -> Any:
        if not isinstance(leaf, functions.ByMode):
            return leaf
        key = leaf.extra_repr()
        if key not in switches:
            name = f"by_mode_{len(switches)}" if switches else "by_mode"
            root.add_module(name, leaf)
            with evaluation.inserting_before(next(n for n in evaluation.nodes if n.op != "placeholder")):
                switches[key] = evaluation.call_module(name)
            switches[key].meta.update(module="", source="")
        return switches[key]

    for node, args, kwargs in plan:
        if any(isinstance(leaf, functions.ByMode) for leaf in _leaves((args, kwargs))):
            node.args, node.kwargs = map_aggregate(args, read), map_aggregate(kwargs, read)
    return None


_DIFFERENT: Any = object()


def _same_constant(evaluation: fx.Node, train: fx.Node, root: nn.Module) -> bool:
    """Whether both traces read an equal tensor that the model makes in every call, such as ``torch.tensor(2.)``."""
    if evaluation.op != "get_attr" or train.op != "get_attr":
        return False
    first, second = (getattr(root, str(node.target), None) for node in (evaluation, train))
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or isinstance(first, nn.Parameter):
        return False
    return first.dtype == second.dtype and torch.equal(first, second)


def _switch(evaluation: Any, train: Any, twin: dict[fx.Node, fx.Node]) -> Any:
    """Return the arguments with a ByMode for each constant that differs, or _DIFFERENT."""
    if isinstance(evaluation, fx.Node) or isinstance(train, fx.Node):
        same = isinstance(train, fx.Node) and twin.get(train) is evaluation
        return evaluation if same else _DIFFERENT
    if isinstance(evaluation, tuple | list) and type(evaluation) is type(train) and len(evaluation) == len(train):
        items = [_switch(e, t, twin) for e, t in zip(evaluation, train, strict=True)]
        return _DIFFERENT if any(i is _DIFFERENT for i in items) else type(evaluation)(items)
    if isinstance(evaluation, dict) and isinstance(train, dict) and evaluation.keys() == train.keys():
        values = {k: _switch(evaluation[k], train[k], twin) for k in evaluation}
        return _DIFFERENT if any(v is _DIFFERENT for v in values.values()) else values
    if isinstance(evaluation, slice) and isinstance(train, slice):
        parts = [_switch(getattr(evaluation, p), getattr(train, p), twin) for p in ("start", "stop", "step")]
        return _DIFFERENT if any(part is _DIFFERENT for part in parts) else slice(*parts)
    if type(evaluation) is type(train) and evaluation == train:
        return evaluation
    if isinstance(evaluation, bool | int | float) and isinstance(train, bool | int | float):
        return functions.ByMode(train, evaluation)
    return _DIFFERENT


def _leaves(value: Any) -> list[Any]:
    leaves: list[Any] = []
    map_aggregate(value, leaves.append)
    return leaves
