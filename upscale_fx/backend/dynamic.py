"""One graph for all sizes, also without ``dynamic=True``.

A graph in which the number of nodes is a constant does not show which axes are nodes. By default Dynamo captures such a
graph on the first call. So the axes with rows are marked as dynamic, and Dynamo restarts its analysis.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor
from torch._dynamo.exc import TensorifyScalarRestartAnalysis

from upscale_fx.errors import InputError


class FixedSizeError(InputError):
    """Dynamo made constants of the sizes of these axes: ``(argument, axis)``."""

    def __init__(self, axes: Sequence[tuple[str, int]], sizes: Sequence[int]) -> None:
        name, axis = axes[0]
        super().__init__(
            f"torch.compile fixed axis {axis} of '{name}' at {sizes[0]}, so its graph is for this size only: a "
            f"layer caches its graph (cached=True), a parameter has one entry per row, or the model compares the size "
            f"with a number. upscale_fx.prune(model, amount, example_inputs=...) also makes graphs for one size"
        )
        self.axes = tuple(axes)


#: Axes that are marked until Dynamo has restarted.
_marked: list[tuple[weakref.ref[Tensor], int]] = []


def restart(error: FixedSizeError, arguments: Mapping[str, Tensor], tried: Set[tuple[int, int]]) -> None:
    """Make Dynamo restart with these axes dynamic; if that was tried before, raise the error.

    Raises:
        FixedSizeError: the model itself fixes a size.
    """
    if any((id(arguments[name]), axis) in tried for name, axis in error.axes):
        raise error
    for name, axis in error.axes:
        torch._dynamo.maybe_mark_dynamic(arguments[name], axis)
        _marked.append((weakref.ref(arguments[name]), axis))
    raise TensorifyScalarRestartAnalysis(restart_reason="backend='upscale' needs sizes that are not constants")


def unmark() -> set[tuple[int, int]]:
    """Remove all marks, so that the user's tensors stay as they were; returns them by tensor id and axis."""
    unmarked: set[tuple[int, int]] = set()
    while _marked:
        reference, axis = _marked.pop()
        tensor = reference()
        if tensor is None:
            continue
        unmarked.add((id(tensor), axis))
        marks: set[int] = getattr(tensor, "_dynamo_weak_dynamic_indices", set())
        marks.discard(axis)
        if not marks:
            vars(tensor).pop("_dynamo_weak_dynamic_indices", None)
        if not any(name.startswith("_dynamo_") for name in vars(tensor)):
            vars(tensor).pop("_has_dynamo_dim_marking", None)
    return unmarked
