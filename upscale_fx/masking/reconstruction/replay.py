"""Runs the dense and the pruned model side by side, node by node, on one batch.

Both run the same traced graph and differ only in their parameters, so values that no changed parameter affects are
computed once for both. A value is dropped after its last reader. A run can stop at a node and continue later, with
parameters that changed in between.

The dense model makes choices of rows that depend on values (top-k pooling, nearest neighbours) for both, so that their
rows correspond: integer values are those of the dense model. Message passing runs as one operator where nothing else
reads its values per edge (:mod:`propagations`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from upscale_fx.analysis.propagations import Propagation, SortedTargets
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.undisturbed import in_mode, preserved_rng
from upscale_fx.errors import InputError

Values = dict[fx.Node, Any]


class Replay:
    """A run of one batch through the graph.

    Args:
        dense: the traced model.
        pruned: a copy of it with other parameters; its graph is not read.
        changed: the calls whose parameters differ, now or later.
        arguments: the arguments of the call, by name.
        propagations: message passing to run as one operator, by its aggregate.
        wanted: values that are held until they are released; only nodes that they depend on are computed. None: all
            values are computed, and none is held.
    """

    def __init__(
        self,
        dense: CompiledGNN,
        pruned: CompiledGNN,
        changed: Collection[fx.Node],
        arguments: Mapping[str, Any],
        propagations: Mapping[fx.Node, Propagation] | None = None,
        wanted: Collection[fx.Node] | None = None,
    ) -> None:
        nodes = list(dense.graph.nodes)
        self._held: set[fx.Node] = set(wanted or ())
        self._whole = {
            end: one for end, one in (propagations or {}).items() if self._held.isdisjoint(one.inner)
        }  # fmt: skip
        inner = {node for one in self._whole.values() for node in one.inner}
        needed = set(nodes) if wanted is None else ancestors(nodes, wanted)
        self.nodes = [node for node in nodes if node in needed and node not in inner]
        self.dense: Values = {}
        self.pruned: Values = {}
        self._structure: SortedTargets = {}
        self._order = {node: place for place, node in enumerate(nodes)}
        self._roots = (dense, pruned)
        self._interpreters = [fx.Interpreter(root, graph=dense.graph) for root in self._roots]
        self._arguments = arguments
        self._affected = descendants(nodes, changed)
        self._place = 0
        self._left = Counter(source for node in self.nodes for source in self._sources(node))

    def hold(self, nodes: Iterable[fx.Node]) -> None:
        """Keep these values until :meth:`release`."""
        self._held.update(nodes)

    def release(self, nodes: Iterable[fx.Node]) -> None:
        """Release values; those that no later call reads are dropped."""
        for node in nodes:
            self._held.discard(node)
            if not self._left[node]:
                self._drop(node)

    def advance(self, until: fx.Node) -> None:
        """Run up to a node and including it.

        Raises:
            InputError: the model fails on this batch.
        """
        dense, pruned = self._roots
        last = self._order[until]
        with in_mode(dense, False), in_mode(pruned, False), torch.no_grad(), preserved_rng(dense):
            while self._place < len(self.nodes) and self._order[self.nodes[self._place]] <= last:
                self._step(self.nodes[self._place])
                self._place += 1

    def along(self, path: Sequence[tuple[fx.Node, fx.Node]], value: Tensor, pruned: bool) -> Tensor:
        """Take another value through the calls of a path, each given with the operand to replace."""
        values = self.pruned if pruned else self.dense
        ends = {one.inner[0]: one for one in self._whole.values()}
        steps = [step for step, _ in path]
        place = 0
        while place < len(path):
            step, operand = path[place]
            whole = ends.get(step)
            place += 1
            if whole is not None and steps[place - 1 :][: len(whole.inner) + 1] == [*whole.inner, whole.aggregate]:
                with torch.no_grad():
                    value = whole.run(value, values, self._structure)
                place += len(whole.inner)
            else:
                value = self._again(step, {operand: value}, pruned)
        return value

    def _again(self, node: fx.Node, replaced: Mapping[fx.Node, Tensor], pruned: bool) -> Tensor:
        """The result of a call with some operands replaced."""
        values = self.pruned if pruned else self.dense
        pick = lambda source: replaced[source] if source in replaced else values[source]  # noqa: E731
        args, kwargs = map_arg(node.args, pick), map_arg(node.kwargs, pick)
        with in_mode(self._roots[0], False), torch.no_grad():
            result: Tensor = getattr(self._interpreters[int(pruned)], node.op)(node.target, args, kwargs)
        return result

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that a call reads, each once."""
        if node not in self._whole:
            return list(node.all_input_nodes)
        one = self._whole[node]
        read = (one.x, one.source, one.weight, one.target, one.count)
        return list(dict.fromkeys(source for source in read if isinstance(source, fx.Node)))

    def _step(self, node: fx.Node) -> None:
        value = self.dense[node] = self._run(node, 0, self.dense)
        chosen = isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
        same = node not in self._affected or (chosen and value.dtype != torch.bool)
        self.pruned[node] = value if same else self._run(node, 1, self.pruned)
        for source in self._sources(node):
            self._left[source] -= 1
            if not self._left[source] and source not in self._held:
                self._drop(source)

    def _run(self, node: fx.Node, side: int, values: Values) -> Any:
        if node.op == "placeholder":
            return self._arguments.get(str(node.target))
        if node.op == "output":
            return None
        try:
            if node in self._whole:
                whole = self._whole[node]
                return whole.run(values[whole.x], values, self._structure)
            args, kwargs = map_arg(node.args, values.__getitem__), map_arg(node.kwargs, values.__getitem__)
            return getattr(self._interpreters[side], node.op)(node.target, args, kwargs)
        except InputError:
            raise
        except Exception as error:
            where = node.meta.get("module") or node.name
            raise InputError(
                f"the model fails on a calibration batch, in {where} ({node.name}): {error}. A batch must hold "
                f"arguments of the model"
            ) from error

    def _drop(self, node: fx.Node) -> None:
        self.dense.pop(node, None)
        self.pruned.pop(node, None)


def descendants(nodes: Iterable[fx.Node], sources: Collection[fx.Node]) -> set[fx.Node]:
    """Nodes whose value depends on one of the sources, these included."""
    reached = set(sources)
    for node in nodes:
        if node not in reached and any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    return reached


def ancestors(nodes: Iterable[fx.Node], wanted: Collection[fx.Node]) -> set[fx.Node]:
    """Nodes that one of the wanted values depends on, these included."""
    needed = set(wanted)
    for node in reversed(list(nodes)):
        if node in needed:
            needed.update(node.all_input_nodes)
    return needed
