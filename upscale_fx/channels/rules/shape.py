"""Rules for movements: views, permutations, slices, gathers, cat, stack. They run the operation on position labels."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from upscale_fx.channels.positions import Axes, Flow
from upscale_fx.channels.relations import Movement, Pointwise, Relation
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.products import lookup
from upscale_fx.channels.rules.registry import register
from upscale_fx.channels.rules.regrouping import gathered_rows, reshaped_rows
from upscale_fx.compiled import functions


def _single(op: Operation, how: Any) -> Relation | None:
    source = op.argument(0, "input", "self")
    if op.axes_of(source) is None:
        return None
    indices = op.follow([source])
    if indices is None:
        return None
    return Movement((Flow(source, indices[0]),), how)


@register(
    "view", "reshape", torch.reshape, "flatten", torch.flatten, "unflatten", torch.unflatten, "view_as", "reshape_as"
)
def reshape(op: Operation) -> Relation | None:
    """Rule for the same positions in the same order under another shape."""
    relation = _single(op, "reshape")
    if isinstance(relation, Movement) and relation.flows[0].is_identity:
        return relation
    return reshaped_rows(op, op.argument(0, "input", "self"))


@register("unsqueeze", torch.unsqueeze, "squeeze", torch.squeeze, "permute", torch.permute, "transpose",
          torch.transpose,
          "t", torch.t, "swapaxes", torch.swapaxes, "movedim", torch.movedim)  # fmt: skip
def axes_only(op: Operation) -> Relation | None:
    """Rule for operations whose arguments name axes, not sizes: the call fits any layout."""
    return _single(op, "same")


@register(functions.squeeze_rows)
def squeezed_rows(op: Operation) -> Relation | None:
    """Rule for dropping row axes where a graph has one row: channels stay as they are."""
    relation = _single(op, "rows")
    return relation if isinstance(relation, Movement) and relation.flows[0].is_identity else None


@register(functions.place_channels)
def placed(op: Operation) -> Relation | None:
    """Rule for channels put at places of the last axis; places of no channel are zero."""
    source = op.argument(0, "x")
    operand = op.axes_of(source)
    if operand is None or operand.sizes[-1] is None:
        return None
    index = np.asarray(op.argument(1, "index"), dtype=np.int64)
    lines = operand.everything()[..., np.maximum(index, 0)]
    return Movement((Flow(source, np.where(index >= 0, lines, -1).reshape(-1)),), "place")


# torch_geometric replaces torch.index_select and torch.select by functions that call torch's own.
_OWN = torch._C._VariableFunctions


@register("index_select", _OWN.index_select, "select", _OWN.select,
          functions.gather_channels, operator.getitem, "narrow", torch.narrow,
          "chunk", torch.chunk, "split", torch.split, "unbind", torch.unbind, "tensor_split",
          "expand", "expand_as", "repeat", "flip", torch.flip, "roll", torch.roll, "broadcast_to", torch.broadcast_to,
          "repeat_interleave", torch.repeat_interleave, "tile", torch.tile)  # fmt: skip
def gather(op: Operation) -> Relation | None:
    """Rule for slices, elements, repetitions, and gathers of rows by a tensor of indices."""
    source = op.argument(0, "input")
    operand = op.axes_of(source)
    if operand is None:
        return None
    if _chooses_channels_by_value(op, operand):
        axis = _indexed_axis(op, operand)
        return None if axis is None else lookup(op, source, axis)
    relation = _single(op, "pick")
    if not isinstance(relation, Movement):
        return None
    flow = relation.flows[0]
    same_channels = flow.is_identity and _same_channels(operand.shape, op.axes.shape)
    if same_channels and (operand.count == 1 or _takes_rows(op, operand)):
        return Movement(relation.flows, "rows")
    if _keeps_rows(op, flow):
        return relation
    return gathered_rows(op, flow) if _takes_rows(op, operand) else None


def _chooses_channels_by_value(op: Operation, operand: Axes) -> bool:
    """Whether a computed index selects along a channel axis, so that the channels depend on data."""
    if op.name == "getitem":
        return any(
            axis is not None and operand.shape[axis] > 1 and _is_computed(key) for axis, key in _keys(op, operand)
        )
    dims = _dims(op)
    on_channels = any(isinstance(dim, int) and operand.shape[dim] > 1 for dim in dims)
    return on_channels and any(_is_computed(argument) for argument in (*op.call.args[1:], *op.call.kwargs.values()))


def _indexed_axis(op: Operation, operand: Axes) -> int | None:
    """Return the axis that a computed index selects along if all other axes are taken whole; else None."""
    if op.name == "index_select":
        dim = _dims(op)[0]
        return dim % len(operand.sizes) if isinstance(dim, int) else None
    if op.name != "getitem":
        return None
    picked = [(axis, key) for axis, key in _keys(op, operand) if key is not Ellipsis and key != slice(None)]
    axis, key = picked[0]
    value = op.values[key][0] if isinstance(key, fx.Node) else None
    is_index = isinstance(value, Tensor) and value.dtype == torch.long
    return axis if len(picked) == 1 and is_index else None


def _is_computed(key: Any) -> bool:
    if isinstance(key, slice):
        return any(map(_is_computed, (key.start, key.stop, key.step)))
    if isinstance(key, list | tuple):
        return any(map(_is_computed, key))
    return isinstance(key, fx.Node) and key.op != "get_attr"


def _keys(op: Operation, operand: Axes) -> list[tuple[int | None, Any]]:
    """Return the keys of a getitem, once for each axis it takes (None: no axis)."""
    keys = op.argument(1)
    keys = keys if isinstance(keys, tuple) else (keys,)
    widths = [0 if key is None else _consumed(op, key) for key in keys]
    missing = len(operand.sizes) - sum(width for key, width in zip(keys, widths, strict=True) if key is not Ellipsis)
    axis = 0
    taken: list[tuple[int | None, Any]] = []
    for key, width in zip(keys, widths, strict=True):
        taken += [(axis + i, key) for i in range(missing if key is Ellipsis else width)] or [(None, key)]
        axis += missing if key is Ellipsis else width
    return taken


def _consumed(op: Operation, key: Any) -> int:
    """Return how many axes a key takes; a mask takes as many as it has."""
    value = op.values[key][0] if isinstance(key, fx.Node) else key
    return value.dim() if isinstance(value, Tensor) and value.dtype == torch.bool else 1


#: The position of the ``dim`` argument; operations that are not listed take sizes.
_DIM_PLACE = {"index_select": 1, "select": 1, "narrow": 1, "unbind": 1, "flip": 1, "chunk": 2, "split": 2,
              "tensor_split": 2, "roll": 2, "repeat_interleave": 2}  # fmt: skip


def _dims(op: Operation) -> list[Any]:
    """Return the axes in the ``dim`` argument of an operation other than getitem."""
    if op.name not in _DIM_PLACE:
        return []
    dims = op.argument(_DIM_PLACE[op.name], "dim", "dims", default=0)
    return list(dims) if isinstance(dims, list | tuple) else [dims]


def _keeps_rows(op: Operation, flow: Flow) -> bool:
    """Whether every row of the result comes from the same row of the source, so that the call only selects channels."""
    for side in (0, 1):
        x = op.values[flow.source][side]
        elements = torch.arange(x.numel()).reshape(x.shape)
        operand = op.axes_of(flow.source)
        assert operand is not None
        expected = _rows_first(elements, operand)[..., torch.from_numpy(flow.index)]
        actual = _rows_first(op.run({flow.source: elements}, side), op.axes)
        if expected.shape != actual.shape or not torch.equal(expected, actual):
            return False
    return True


def _rows_first(value: Tensor, axes: Axes) -> Tensor:
    """Return a value with its row axes first and its channel axes flattened."""
    rows = [axis for axis, size in enumerate(axes.sizes) if size is None]
    channels = [axis for axis, size in enumerate(axes.sizes) if size is not None]
    return value.permute((*rows, *channels)).reshape(*(value.shape[axis] for axis in rows), -1)


def _same_channels(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [s for s in a if s > 1] == [s for s in b if s > 1]


def _takes_rows(op: Operation, operand: Axes) -> bool:
    """Whether no argument is a size of a channel axis, so that the call fits any layout."""
    if op.name == "getitem":
        whole = slice(None)
        return all(
            axis is not None and key is not Ellipsis and (operand.shape[axis] == 1 or key == whole)
            for axis, key in _keys(op, operand)
        )
    dims = _dims(op)
    return bool(dims) and all(isinstance(dim, int) and operand.shape[dim] == 1 for dim in dims)


@register(torch.cat, torch.concat, torch.concatenate)
def cat(op: Operation) -> Relation | None:
    """Rule for concatenation along a channel axis; along a row axis, all parts share their channels."""
    dim = op.argument(1, "dim", "axis", default=0)
    if op.axes.sizes[dim % len(op.axes.sizes)] is not None:
        return _joined(op, "cat")
    flows = [op.aligned(part) for part in op.tensors]
    if any(f is None or not f.is_identity or len(f.index) != op.axes.count for f in flows):
        return None
    return Pointwise(tuple(f for f in flows if f is not None), "all")


@register(torch.stack)
def stack(op: Operation) -> Relation | None:
    """Rule for stacking along a new channel axis."""
    return _joined(op, "stack")


def _joined(op: Operation, how: Any) -> Relation | None:
    parts, dim = op.argument(0, "tensors"), op.argument(1, "dim", "axis", default=0)
    if not isinstance(parts, tuple | list) or len(set(parts)) != len(parts):
        return None  # the same tensor twice: its copies would have equal labels
    axis = dim % len(op.axes.sizes)
    if op.axes.sizes[axis] is None:
        return None
    indices = op.follow(list(parts))
    if indices is None:
        return None
    return Movement(tuple(Flow(p, i) for p, i in zip(parts, indices, strict=True)), how, axis)
