"""A program under construction, and the table of operations that it may grow by."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

#: A size, or the name of an axis of rows: N nodes, E edges, B graphs, U nodes of the second type, L nodes of the graph
#: that has most, S seeds, P pairs, M nodes of the second graph.
Shape = tuple[Any, ...]
Value = tuple[str, Shape]
Fits = Callable[[Shape], bool]

FEATURES, EDGE_FEATURES, RELATIONS, OTHER_FEATURES, STEPS, SERIES = 5, 3, 3, 4, 3, 2
WIDTHS = (6, 4, 8, 3, 2, 1)
#: Whether one batch norm may be called on several values: one module, whose calls may want other layouts.
SHARED_BATCH_NORMS = os.environ.get("UPSCALE_FX_SHARED_BATCH_NORMS", "1") == "1"
OPS: list[Callable[[Builder], None]] = []


class Builder:
    """Values are (expression, shape); ``choose`` makes every decision, so that what makes it can be replayed or shrunk.

    Attributes:
        values: what has been computed so far, arguments included.
        parts: attribute of the module -> constructor.
        lines: of forward().
        calls: modules that take ``[.., in]`` to ``[.., out]``, to be called again on something else.
        norms: those of them that take rows of channels only.
        again: calls of convolutions, as format strings of the node features, to be repeated.
        raw: parameters by their sizes.
        taken: values that something reads.
        hetero: whether there is a second type of nodes.
    """

    def __init__(self, choose: Callable[[Sequence[Any]], Any], hetero: bool):
        self.choose = choose
        self.hetero = hetero
        self.values: list[Value] = [("edge_attr", ("E", EDGE_FEATURES)), ("x", ("N", FEATURES))]
        self.parts: dict[str, str] = {}
        self.lines: list[str] = []
        self.calls: list[tuple[str, int, int]] = []
        self.norms: set[str] = set()
        self.again: list[tuple[str, int, int]] = []
        self.raw: dict[tuple[int, ...], list[str]] = {}
        self.taken: set[str] = set()
        if hetero:
            self.values.insert(0, ("y", ("U", OTHER_FEATURES)))
        else:
            self.values.insert(0, ("x_t", ("M", OTHER_FEATURES)))
        self.values.insert(0, ("series.transpose(0, 1)", ("N", STEPS, SERIES)))

    def take(self, fits: Fits = lambda shape: True) -> Value | None:
        """A value that fits, most likely a late one or one that nothing reads yet; None if there is none."""
        found = [value for value in reversed(self.values) if fits(value[1])]
        if not found:
            return None
        loose = [value for value in found if value[0] not in self.taken]
        value = self.choose([*found[:2], *loose, *loose, *found])
        self.taken.add(value[0])
        return value

    def emit(self, expression: str, shape: Sequence[Any]) -> Value:
        """Append a line; its value and shape."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        self.values.append((name, tuple(shape)))
        return self.values[-1]

    def part(self, code: str) -> str:
        """A module, parameter or buffer of the model, as an expression."""
        name = f"p{len(self.parts)}"
        self.parts[name] = code
        return f"self.{name}"

    def parameter(self, *sizes: int) -> str:
        """A parameter, as an expression; now and then one that is in use already, be it a layer's."""
        known = self.raw.setdefault(sizes, [])
        if known and self.choose([False, False, False, True]):
            return self.choose(known)
        known.append(self.part(f"nn.Parameter(torch.randn({', '.join(map(str, sizes))}) * 0.5)"))
        return known[-1]

    def linear(self, source: int, target: int, code: str = "nn.Linear({0}, {1})") -> str:
        """A linear layer that may be called again, and whose weight may be read by others."""
        name = self.part(code.format(source, target))
        self.calls.append((name, source, target))
        self.raw.setdefault((target, source), []).append(f"{name}.weight")
        return name

    def callable_again(self, name: str, source: int, target: int) -> None:
        """Offer a module to be called on something else."""
        if SHARED_BATCH_NORMS or "Batch" not in self.parts[name.removeprefix("self.")]:
            self.calls.append((name, source, target))

    def width(self) -> int:
        """A number of channels."""
        return self.choose(WIDTHS)


def op(fits: Fits = lambda shape: True, weight: int = 1) -> Callable[[Any], Any]:
    """Register an operation on one value (expression and shape) whose shape fits."""

    def add(function):
        @functools.wraps(function)
        def apply(b):
            value = b.take(fits)
            if value is not None:
                function(b, *value)

        OPS.extend([apply] * weight)
        return function

    return add


# What a shape must be --------------------------------------------------------------------------------------------


def flat(shape: Shape) -> bool:
    """Rows of channels."""
    return len(shape) == 2 and isinstance(shape[0], str) and isinstance(shape[1], int)


def has_rows(shape: Shape) -> bool:
    """One axis of rows, in front."""
    return isinstance(shape[0], str) and all(isinstance(size, int) for size in shape[1:])


def nodes(shape: Shape) -> bool:
    """``[N, C]``."""
    return flat(shape) and shape[0] == "N"


def edges(shape: Shape) -> bool:
    """``[E, C]``."""
    return flat(shape) and shape[0] == "E"


def heads(shape: Shape) -> bool:
    """Rows of ``[H, C]``."""
    return len(shape) == 3 and has_rows(shape)


def channelled(shape: Shape) -> bool:
    """Channels in the last axis."""
    return isinstance(shape[-1], int)


def wide(shape: Shape) -> bool:
    """More than one channel in the last axis."""
    return isinstance(shape[-1], int) and shape[-1] > 1
