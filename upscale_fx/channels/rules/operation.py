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
        axes = axes_of(self.values[self.node])
        assert axes is not None
        return axes

    @property
    def name(self) -> str:
        """Name of the function, method or module class."""
        target = self.call.target
        if self.module is not None:
            return type(self.module).__name__
        return target_name(target)

    def argument(self, place: int, *names: str, default: Any = None) -> Any:
        """Return an argument by its position or its keyword."""
        if len(self.call.args) > place:
            return self.call.args[place]
        return next((self.call.kwargs[name] for name in names if name in self.call.kwargs), default)

    def axes_of(self, node: Any) -> Axes | None:
        """Return the axes of an argument; None unless it is a tensor value."""
        return axes_of(self.values[node]) if isinstance(node, fx.Node) else None

    def constant(self, argument: Any) -> Any:
        """Return an argument as its value on the small example."""
        return fx.node.map_arg(argument, lambda node: self.values[node][0])

    @property
    def tensors(self) -> list[fx.Node]:
        """All tensor arguments, nested ones included, each once."""
        return [node for node in self.call.all_input_nodes if self.axes_of(node) is not None]

    def aligned(self, source: fx.Node, axes: tuple[int | None, ...] | None = None) -> Flow | None:
        """Return the flow of an operand that broadcasts to the result; ``axes`` default to alignment from the right."""
        operand, result = self.axes_of(source), self.axes
        if operand is None:
            return None
        if axes is None:
            lead = len(result.shape) - len(operand.shape)
            if lead < 0:
                return None
            axes = tuple(range(lead, len(result.shape)))
        shape = [1] * len(result.shape)
        for axis, target in enumerate(axes):
            if target is not None:
                shape[target] = operand.shape[axis]
        try:
            index = np.broadcast_to(operand.everything().reshape(shape), result.shape).reshape(-1)
        except ValueError:
            return None
        along = tuple(None if operand.shape[axis] == 1 else target for axis, target in enumerate(axes))
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
        """Run the operation on position labels, to find the source position that each result position holds.

        Returns one array per source, -1 where the result position does not come from it. None unless every result
        position holds one label, the same in all rows.
        """
        if any(self._chooses_by_value(node) for node in self.tensors if node not in sources):
            return None
        labels = self._labels(sources, 0)
        others = self._labels(sources, 1)
        if labels is None or others is None or not np.array_equal(labels, others):
            return None
        indices, first = [], 1
        for source in sources:
            count = self.axes_of(source).count  # type: ignore[union-attr]
            from_source = (labels >= first) & (labels < first + count)
            indices.append(np.where(from_source, labels - first, -1))
            first += count
        if not np.all(np.sum([i >= 0 for i in indices], axis=0) == 1):
            return None
        return indices

    def _chooses_by_value(self, node: fx.Node) -> bool:
        """Whether an index tensor could select channels by its values: it has no rows and is not a constant."""
        axes = self.axes_of(node)
        return node.op != "get_attr" and axes is not None and None not in axes.sizes

    def _labels(self, sources: list[fx.Node], side: int) -> Positions | None:
        """Return the label of each result position, labels counted from 1 over all sources; None if rows disagree."""
        labels, start = {}, 1
        for source in sources:
            operand = self.axes_of(source)
            assert operand is not None
            label = torch.arange(start, start + operand.count).reshape(operand.shape)
            labels[source] = label.expand(self.values[source][side].shape).contiguous()
            start += operand.count
        try:
            result = self.run(labels, side)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        values = self.common_values(result, side)
        return None if values is None else values.astype(np.int64)

    def common_values(self, result: Any, side: int) -> npt.NDArray[Any] | None:
        """Return the number that each result position holds in all rows; None if rows or shapes disagree."""
        expected = self.values[self.node][side]
        if not isinstance(result, Tensor) or result.shape != expected.shape or not result.numel():
            return None
        first_row = result
        for axis, size in enumerate(self.axes.sizes):
            if size is None:
                first_row = first_row.narrow(axis, 0, 1)
        return first_row.reshape(-1).numpy() if torch.equal(first_row.expand(result.shape), result) else None
