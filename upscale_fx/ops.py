"""Functions and modules of our own that appear in traced graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import has_side_effect

from upscale_fx.errors import InputError


class ByMode(nn.Module):
    """A constant that depends on the mode: ``train`` after ``train()``, ``eval`` after ``eval()``.

    Tracing bakes ``self.training`` in; what differed between the two modes is read from here instead.
    """

    def __init__(self, train: Any, evaluation: Any) -> None:
        super().__init__()
        self.in_train, self.in_eval = train, evaluation

    def forward(self) -> Any:
        """Return the constant of the current mode."""
        return self.in_train if self.training else self.in_eval

    def extra_repr(self) -> str:
        """Show both constants."""
        return f"train={self.in_train!r}, eval={self.in_eval!r}"


def set_item(x: Tensor, key: Any, value: Any) -> Tensor:
    """``x[key] = value`` without touching ``x``: the functional form of item assignment."""
    out = x.clone()
    out[key] = value
    return out


def entry(x: Tensor) -> Tensor:
    """The raw input itself: the place where compaction may gather only the features that are read."""
    return x


def gather_channels(x: Tensor, index: Tensor, start: int, shape: Sequence[int]) -> Tensor:
    """Choose channels across heads: those at ``index`` of the axes from ``start`` on, flattened, in a new shape."""
    return torch.unflatten(x.flatten(start).index_select(start, index), start, shape)


def check_inputs(values: Sequence[Any], names: Sequence[str], shapes: Sequence[tuple[int | None, ...] | None]) -> None:
    """Raise an InputError unless every value has the kind and widths its argument was traced with.

    Args:
        values: the arguments of this call.
        names: their names.
        shapes: per argument the sizes it must have (None: any size), or None where the traced argument was None.
    """
    for value, name, shape in zip(values, names, shapes, strict=True):
        if shape is None:
            if value is not None:
                raise InputError(
                    f"argument '{name}' was None when this graph was traced and cannot be given now; "
                    f"trace again with example inputs that contain '{name}'"
                )
            continue
        if not isinstance(value, Tensor):
            raise InputError(
                f"argument '{name}' must be a dense torch.Tensor of shape {_shape_text(shape)}, got "
                f"{type(value).__name__}; a sparse adj_t is not what this graph was traced with, pass edge_index"
            )
        if value.layout != torch.strided:
            raise InputError(
                f"argument '{name}' is a sparse tensor ({value.layout}), but the graph was traced with a dense one of "
                f"shape {_shape_text(shape)}; pass edge_index (torch_geometric.utils.to_edge_index converts adj_t.t())"
            )
        if value.dim() != len(shape):
            raise InputError(
                f"argument '{name}' must have {len(shape)} dimensions {_shape_text(shape)}, got {list(value.shape)}"
            )
        for given, expected in zip(value.shape, shape, strict=True):
            if expected is not None and given != expected:
                raise InputError(
                    f"argument '{name}' has shape {list(value.shape)}, expected {_shape_text(shape)} "
                    f"(width {expected}, got {given})"
                )


def _shape_text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


# The check has no users in the graph; without this dead code elimination would drop it.
has_side_effect(check_inputs)
