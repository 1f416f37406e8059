"""Merge the traces of ``train()`` and ``eval()`` into one graph; ByMode modules give the constants that differ.

Every module has a mode of its own, so a constant that differs belongs to the module whose ``training`` it was computed
from. Which one that is, shows in traces in which only some modules are in ``train()``: the constant has the value of
``train()`` iff its owner is. Of the owners that fit all traces, the one whose mode was read right before the call is
taken; if it was not read there, there are traces until one owner is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, count
from math import comb
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.compiled import functions
from upscale_fx.errors import TraceError
from upscale_fx.tracing.modules.watched_modes import READ_BEFORE

#: Traces the model with the modules of some paths in ``train()``; returns the graph and the paths whose mode was read.
Trace = Callable[[Collection[str]], tuple[fx.Graph, Collection[str]]]
#: A constant in a graph: the number of its node, and the way to it through the node's (args, kwargs).
Place = tuple[int, tuple[Any, ...]]


@dataclass(frozen=True)
class Modes:
    """What is known of a graph's modes.

    Attributes:
        reason: why the graph is right in ``eval()`` only; empty if it is right in both modes.
        eval_parts: paths of the modules that must stay in ``eval()``, if it is right in all modes of the others.
        switches: by path, the modules that the graph calls for constants.
    """

    reason: str = ""
    eval_parts: tuple[str, ...] = ()
    switches: Mapping[str, functions.ByMode] = field(default_factory=dict)


class DifferentGraphs(Exception):
    """Two traces do not differ in constants only; the message says in what."""


def merge_modes(evaluation: fx.Graph, read: Collection[str], root: nn.Module, trace: Trace) -> Modes:
    """Make the graph of ``eval()`` right for all modes of all modules, as far as this is possible.

    Args:
        evaluation: the graph of ``eval()``, which is changed.
        read: the paths of the modules whose mode it depends on.
        root: the model.
        trace: traces the model in other modes.
    """
    paths = [path for path, _ in root.named_modules()]
    merging = _Merging(evaluation, root, trace)
    reason = ""
    fixed: tuple[str, ...] = ()
    found: Mapping[Place, tuple[Any, Any]] = {}
    try:
        found, read_too = merging.differences(paths)
    except (TraceError, DifferentGraphs) as problem:
        reason = f"in train() {problem}" if isinstance(problem, TraceError) else str(problem)
        fixed = tuple(path for path in read if merging.is_other(path))
        if not fixed:
            return Modes(reason)
        try:
            found, read_too = merging.differences([path for path in paths if path not in fixed])
        except (TraceError, DifferentGraphs):
            return Modes(reason)
    try:
        owners = merging.owners(found, [path for path in dict.fromkeys([*read, *read_too]) if path not in fixed])
    except (TraceError, DifferentGraphs) as problem:
        return Modes(reason or f"where some of its modules are in train(), {problem}")
    return Modes(reason, fixed, _insert(evaluation, root, found, owners))


@dataclass
class _Merging:
    evaluation: fx.Graph
    root: nn.Module
    trace: Trace

    def differences(self, trained: Collection[str]) -> tuple[dict[Place, tuple[Any, Any]], Collection[str]]:
        """Return the constants that differ where some modules are in ``train()``, and whose modes were read.

        Raises:
            TraceError: the model cannot be traced so.
            DifferentGraphs: more than constants differ.
        """
        graph, read = self.trace(trained)
        return _differences(self.evaluation, graph, self.root), read

    def is_other(self, path: str) -> bool:
        """Whether one module in ``train()`` changes more than constants."""
        try:
            self.differences([path])
        except (TraceError, DifferentGraphs):
            return True
        return False

    def owners(self, found: Mapping[Place, tuple[Any, Any]], read: Sequence[str]) -> dict[Place, str]:
        """Return for every constant the path of the module that it depends on.

        Raises:
            TraceError: the model cannot be traced with some modules in ``train()``.
            DifferentGraphs: a constant depends on no single module.
        """
        if not found:
            return {}
        if len(read) == 1:
            return dict.fromkeys(found, read[0])
        nodes = list(self.evaluation.nodes)
        near = {place: nodes[place[0]].meta.get(READ_BEFORE, ()) for place in found}
        fitting = {place: list(read) for place in found}
        plain = all(near[place] == (nodes[place[0]].meta["module"],) for place in found)
        for number, trained in enumerate(_codes(read)):
            if number >= (1 if plain else 2) and all(any(near[p] == (path,) for path in fitting[p]) for p in found):
                break
            seen, _ = self.differences(trained)
            for place, (_, value) in found.items():
                # Another value than either of the two modes gives fits no single owner.
                switched = None if place in seen and not _equal(seen[place][1], value) else place in seen
                fitting[place] = [path for path in fitting[place] if (path in trained) is switched]
        owners = {}
        for place, paths in fitting.items():
            likely = [path for path in paths if near[place] == (path,)]
            left = likely or paths
            if len(left) != 1:
                node = nodes[place[0]]
                what = "several modules" if not left else "modules that cannot be told apart"
                raise DifferentGraphs(
                    f"an argument of {node.target} depends on the modes of {what} ({node.meta['source']})"
                )
            owners[place] = left[0]
        return owners


def _codes(paths: Sequence[str]) -> Iterator[list[str]]:
    """Sets of modules to put into ``train()``, one trace each, that tell any two modules apart.

    The first sets tell modules apart that are below each other, where modes are passed on, and every other module.
    Later ones hold each module in half of them, so that what depends on two modules fits none.
    """
    size = next(size for size in count(2, 2) if comb(size, size // 2) >= len(paths))
    words = list(combinations(range(size), size // 2))
    depths = {path: sum(_is_below(path, other) for other in paths) for path in paths}
    by_depth = [path for path in paths if depths[path] % 2 == 0]
    if len(by_depth) < len(paths):
        yield by_depth
    yield list(paths[::2])
    for bit in range(size):
        yield [path for path, word in zip(paths, words, strict=False) if bit in word]


def _is_below(path: str, other: str) -> bool:
    """Whether a module is inside another."""
    return path != other and (not other or path.startswith(f"{other}."))


def _differences(evaluation: fx.Graph, other: fx.Graph, root: nn.Module) -> dict[Place, tuple[Any, Any]]:
    """Return by place the constants in which two graphs differ, of the first and of the second.

    Raises:
        DifferentGraphs: they differ in more.
    """
    pairs = list(zip(evaluation.nodes, other.nodes, strict=False))
    if len(evaluation.nodes) != len(other.nodes):
        raise DifferentGraphs("forward() runs other operations in train() than in eval()")
    twin = {o: e for e, o in pairs}
    found: dict[Place, tuple[Any, Any]] = {}
    for number, (e, o) in enumerate(pairs):
        where = f"({e.meta.get('source', '')})"
        if (e.op, e.target) != (o.op, o.target) and not _same_constant(e, o, root):
            raise DifferentGraphs(f"forward() calls {o.target} in train() where it calls {e.target} in eval() {where}")
        for way, first, second in _leaf_pairs((e.args, dict(e.kwargs)), (o.args, dict(o.kwargs))):
            if _agree(first, second, twin):
                continue
            if not _is_number(first) or not _is_number(second):
                raise DifferentGraphs(f"arguments of {e.target} differ between train() and eval() {where}")
            found[number, way] = first, second
    return found


def _same_constant(evaluation: fx.Node, train: fx.Node, root: nn.Module) -> bool:
    """Whether both traces read an equal tensor that the model makes in every call, such as ``torch.tensor(2.)``."""
    if evaluation.op != "get_attr" or train.op != "get_attr":
        return False
    first, second = (getattr(root, str(node.target), None) for node in (evaluation, train))
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or isinstance(first, nn.Parameter):
        return False
    return first.dtype == second.dtype and torch.equal(first, second)


def _children(value: Any) -> dict[Any, Any] | None:
    """The items of nested arguments by key; None for a leaf."""
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if isinstance(value, slice):
        return {name: getattr(value, name) for name in ("start", "stop", "step")}
    return dict(value) if isinstance(value, dict) else None


def _leaf_pairs(first: Any, second: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """The leaves of two nested arguments that correspond; two that are built differently are a pair as they are."""
    items, others = _children(first), _children(second)
    if items is None or others is None or type(first) is not type(second) or items.keys() != others.keys():
        yield way, first, second
        return
    for key, item in items.items():
        yield from _leaf_pairs(item, others[key], (*way, key))


def _agree(first: Any, second: Any, twin: Mapping[fx.Node, fx.Node]) -> bool:
    if isinstance(first, fx.Node) or isinstance(second, fx.Node):
        return isinstance(second, fx.Node) and twin.get(second) is first
    return _equal(first, second)


def _equal(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _insert(
    graph: fx.Graph, root: nn.Module, found: Mapping[Place, tuple[Any, Any]], owners: Mapping[Place, str]
) -> dict[str, functions.ByMode]:
    """Make the graph read every constant that differs from a module below its owner; return these modules by path."""
    nodes = list(graph.nodes)
    first = next(node for node in nodes if node.op != "placeholder")
    calls: dict[tuple[str, str], fx.Node] = {}
    switches: dict[str, functions.ByMode] = {}
    for place, (evaluation, train) in found.items():
        owner = owners[place]
        switch = functions.ByMode(train, evaluation)
        key = owner, switch.extra_repr()
        if key not in calls:
            path = _free_path(root, owner, switches)
            switches[path] = switch.train(root.get_submodule(owner).training)
            with graph.inserting_before(first):
                calls[key] = graph.call_module(path)
            calls[key].meta.update(module=owner, source="")
        number, way = place
        node = nodes[number]
        node.args, node.kwargs = _replaced((node.args, dict(node.kwargs)), way, calls[key])
    return switches


def _free_path(root: nn.Module, owner: str, taken: Collection[str]) -> str:
    """A path below a module for one more switch: a name that nothing in the model has."""
    module = root.get_submodule(owner)
    names = ("by_mode" if number == 0 else f"by_mode_{number}" for number in count())
    paths = ((name, f"{owner}.{name}" if owner else name) for name in names)
    return next(path for name, path in paths if path not in taken and not hasattr(module, name))


def _replaced(value: Any, way: tuple[Any, ...], new: fx.Node) -> Any:
    """Nested arguments with one leaf replaced."""
    if not way:
        return new
    items = _children(value)
    assert items is not None
    items[way[0]] = _replaced(items[way[0]], way[1:], new)
    if isinstance(value, slice):
        return slice(*items.values())
    return items if isinstance(value, dict) else type(value)(items.values())
