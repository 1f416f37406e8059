"""One call in the graph, as a rule sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from upscale_fx.channels.positions import Axes, Flow, Positions, axes_of
from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.example_values import Pair


@dataclass(frozen=True)
class Operation:
    """One call in the graph, as a rule sees it.

    Attributes:
        node: the node whose result is described (for a tuple-valued call, the getitem that takes an element).
        call: the node that makes the call.
        item: which element of a tuple-valued call is meant, else None.
        values: example values of every node.
        module: the module called, for call_module nodes.
    """

    node: fx.Node
    call: fx.Node
    item: Any
    values: Mapping[fx.Node, Pair]
    module: nn.Module | None = None

    @property
    def axes(self) -> Axes:
        """Axes of the result."""
        found = axes_of(self.values[self.node])
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """Bare name of the function, method or module."""
        target = self.call.target
        if self.module is not None:
            return type(self.module).__name__
        return target_name(target)

    def argument(self, place: int, *names: str, default: Any = None) -> Any:
        """A positional or keyword argument."""
        if len(self.call.args) > place:
            return self.call.args[place]
        return next((self.call.kwargs[name] for name in names if name in self.call.kwargs), default)

    def axes_of(self, node: Any) -> Axes | None:
        """Axes of an argument; None unless it is a tensor value."""
        return axes_of(self.values[node]) if isinstance(node, fx.Node) else None

    def constant(self, argument: Any) -> Any:
        """An argument as a Python value on the small example."""
        return fx.node.map_arg(argument, lambda node: self.values[node][0])

    @property
    def tensors(self) -> list[fx.Node]:
        """All tensor arguments, nested ones included, each once."""
        return [node for node in self.call.all_input_nodes if self.axes_of(node) is not None]

    def aligned(self, source: fx.Node, axes: tuple[int | None, ...] | None = None) -> Flow | None:
        """The flow of an operand that broadcasts to the result, from the right unless ``axes`` says otherwise."""
        given, result = self.axes_of(source), self.axes
        if given is None:
            return None
        if axes is None:
            lead = len(result.shape) - len(given.shape)
            if lead < 0:
                return None
            axes = tuple(range(lead, len(result.shape)))
        shape = [1] * len(result.shape)
        for own, target in enumerate(axes):
            if target is not None:
                shape[target] = given.shape[own]
        try:
            index = np.broadcast_to(given.everything().reshape(shape), result.shape).reshape(-1)
        except ValueError:
            return None
        along = tuple(None if given.shape[own] == 1 else target for own, target in enumerate(axes))
        return Flow(source, np.ascontiguousarray(index), along)

    def run(self, replaced: Mapping[fx.Node, Tensor], side: int = 0) -> Any:
        """Run the call itself on one of the two examples with some arguments replaced."""
        pick = lambda node: replaced[node] if node in replaced else self.values[node][side]  # noqa: E731
        args, kwargs = fx.node.map_arg(self.call.args, pick), fx.node.map_arg(self.call.kwargs, pick)
        with torch.no_grad():
            if self.module is not None:
                result = self.module(*args, **kwargs)
            elif self.call.op == "call_method":
                result = getattr(args[0], str(self.call.target))(*args[1:], **kwargs)
            else:
                result = self.call.target(*args, **kwargs)  # type: ignore[operator]
        return result if self.item is None else result[self.item]

    def follow(self, sources: list[fx.Node]) -> list[Positions] | None:
        """For each source, which of its positions every result position holds (-1: none): the op runs on labels.

        None if a result position does not hold one and the same label in all rows.
        """
        if any(self._chooses_by_value(node) for node in self.tensors if node not in sources):
            return None
        found = self._labels(sources, 0)
        other = self._labels(sources, 1)
        if found is None or other is None or not np.array_equal(found, other):
            return None
        indices, first = [], 1
        for source in sources:
            count = self.axes_of(source).count  # type: ignore[union-attr]
            mine = (found >= first) & (found < first + count)
            indices.append(np.where(mine, found - first, -1))
            first += count
        if not np.all(np.sum([i >= 0 for i in indices], axis=0) == 1):
            return None
        return indices

    def _chooses_by_value(self, node: fx.Node) -> bool:
        """Whether an index tensor could choose channels by its values: it has no rows, and is not a constant."""
        axes = self.axes_of(node)
        return node.op != "get_attr" and axes is not None and None not in axes.sizes

    def _labels(self, sources: list[fx.Node], side: int) -> Positions | None:
        """The label each result position holds, sources numbered through from 1; None if rows disagree."""
        labels, start = {}, 1
        for source in sources:
            given = self.axes_of(source)
            assert given is not None
            label = torch.arange(start, start + given.count).reshape(given.shape)
            labels[source] = label.expand(self.values[source][side].shape).contiguous()
            start += given.count
        try:
            result = self.run(labels, side)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        held = self.held(result, side)
        return None if held is None else held.astype(np.int64)

    def held(self, result: Any, side: int) -> npt.NDArray[Any] | None:
        """The number each result position holds in all rows; None if rows disagree, or the result has another shape."""
        wide = self.values[self.node][side]
        if not isinstance(result, Tensor) or result.shape != wide.shape or not result.numel():
            return None
        held = result
        for axis, size in enumerate(self.axes.sizes):
            if size is None:
                held = held.narrow(axis, 0, 1)
        return held.reshape(-1).numpy() if torch.equal(held.expand(result.shape), result) else None
