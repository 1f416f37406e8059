"""Movement: views, permutations, slices, gathers, cat, stack. Found by running the op itself on position labels."""

from __future__ import annotations

import operator
from typing import Any

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
    """Same positions in the same order under another shape."""
    found = _single(op, "reshape")
    if isinstance(found, Movement) and found.flows[0].is_identity:
        return found
    return reshaped_rows(op, op.argument(0, "input", "self"))


@register("unsqueeze", torch.unsqueeze, "squeeze", torch.squeeze, "permute", torch.permute, "transpose",
          torch.transpose,
          "t", torch.t, "swapaxes", torch.swapaxes, "movedim", torch.movedim)  # fmt: skip
def axes_only(op: Operation) -> Relation | None:
    """Ops whose arguments name axes, not sizes: they stay as they are whatever the layout."""
    return _single(op, "same")


# torch_geometric replaces torch.index_select and torch.select by functions that call torch's own.
_OWN = torch._C._VariableFunctions


@register("index_select", _OWN.index_select, "select", _OWN.select,
          functions.gather_channels, operator.getitem, "narrow", torch.narrow,
          "chunk", torch.chunk, "split", torch.split, "unbind", torch.unbind, "tensor_split",
          "expand", "expand_as", "repeat", "flip", torch.flip, "roll", torch.roll, "broadcast_to", torch.broadcast_to,
          "repeat_interleave", torch.repeat_interleave, "tile", torch.tile)  # fmt: skip
def gather(op: Operation) -> Relation | None:
    """Slices, elements, repetitions, and gathers of rows by a tensor of indices."""
    source = op.argument(0, "input")
    given = op.axes_of(source)
    if given is None:
        return None
    if _chooses_channels_by_value(op, given):
        axis = _indexed_axis(op, given)
        return None if axis is None else lookup(op, source, axis)
    found = _single(op, "pick")
    if not isinstance(found, Movement):
        return None
    flow = found.flows[0]
    if flow.is_identity and _same_channels(given.shape, op.axes.shape) and (given.count == 1 or _takes_rows(op, given)):
        return Movement(found.flows, "rows")
    if _keeps_rows(op, flow):
        return found
    return gathered_rows(op, flow) if _takes_rows(op, given) else None


def _chooses_channels_by_value(op: Operation, given: Axes) -> bool:
    """Whether an index that is computed, not a constant, picks along a channel axis: data decides which channel."""
    if op.name == "getitem":
        return any(axis is not None and given.shape[axis] > 1 and _is_computed(key) for axis, key in _keys(op, given))
    dims = _dims(op)
    on_channels = any(isinstance(dim, int) and given.shape[dim] > 1 for dim in dims)
    return on_channels and any(_is_computed(argument) for argument in (*op.call.args[1:], *op.call.kwargs.values()))


def _indexed_axis(op: Operation, given: Axes) -> int | None:
    """The one axis a computed tensor of indices picks along, all others being taken whole; None if there are more."""
    if op.name == "index_select":
        dim = _dims(op)[0]
        return dim % len(given.sizes) if isinstance(dim, int) else None
    if op.name != "getitem":
        return None
    picked = [(axis, key) for axis, key in _keys(op, given) if key is not Ellipsis and key != slice(None)]
    axis, key = picked[0]
    plain = isinstance(key, fx.Node) and isinstance(op.values[key][0], Tensor) and op.values[key][0].dtype == torch.long
    return axis if len(picked) == 1 and plain else None


def _is_computed(key: Any) -> bool:
    if isinstance(key, slice):
        return any(map(_is_computed, (key.start, key.stop, key.step)))
    if isinstance(key, list | tuple):
        return any(map(_is_computed, key))
    return isinstance(key, fx.Node) and key.op != "get_attr"


def _keys(op: Operation, given: Axes) -> list[tuple[int | None, Any]]:
    """The keys of a getitem with the first axis each one takes."""
    keys = op.argument(1)
    keys = keys if isinstance(keys, tuple) else (keys,)
    widths = [0 if key is None else _consumed(op, key) for key in keys]
    missing = len(given.sizes) - sum(width for key, width in zip(keys, widths, strict=True) if key is not Ellipsis)
    axis = 0
    found: list[tuple[int | None, Any]] = []
    for key, width in zip(keys, widths, strict=True):
        found += [(axis + i, key) for i in range(missing if key is Ellipsis else width)] or [(None, key)]
        axis += missing if key is Ellipsis else width
    return found


def _consumed(op: Operation, key: Any) -> int:
    """How many axes a key takes: a mask takes as many as it has."""
    value = op.values[key][0] if isinstance(key, fx.Node) else key
    return value.dim() if isinstance(value, Tensor) and value.dtype == torch.bool else 1


#: Where an operation takes the axis it works along; the others take sizes.
_DIM_PLACE = {"index_select": 1, "select": 1, "narrow": 1, "unbind": 1, "flip": 1, "chunk": 2, "split": 2,
              "tensor_split": 2, "roll": 2, "repeat_interleave": 2}  # fmt: skip


def _dims(op: Operation) -> list[Any]:
    """The axes an operation other than getitem works along."""
    if op.name not in _DIM_PLACE:
        return []
    dims = op.argument(_DIM_PLACE[op.name], "dim", "dims", default=0)
    return list(dims) if isinstance(dims, list | tuple) else [dims]


def _keeps_rows(op: Operation, flow: Flow) -> bool:
    """Whether every row of the result comes from the same row of the source: the call only chooses channels."""
    for side in (0, 1):
        x = op.values[flow.source][side]
        elements = torch.arange(x.numel()).reshape(x.shape)
        given, own = op.axes_of(flow.source), op.axes
        assert given is not None
        rows = [a for a, size in enumerate(given.sizes) if size is None]
        other = [a for a, size in enumerate(given.sizes) if size is not None]
        own_rows = [a for a, size in enumerate(own.sizes) if size is None]
        own_other = [a for a, size in enumerate(own.sizes) if size is not None]
        result = op.run({flow.source: elements}, side)
        before = elements.permute((*rows, *other)).reshape(*(x.shape[a] for a in rows), -1)
        after = result.permute((*own_rows, *own_other)).reshape(*(result.shape[a] for a in own_rows), -1)
        chosen = before[..., torch.from_numpy(flow.index)]
        if chosen.shape != after.shape or not torch.equal(chosen, after):
            return False
    return True


def _same_channels(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [s for s in a if s > 1] == [s for s in b if s > 1]


def _takes_rows(op: Operation, given: Axes) -> bool:
    """Whether no argument is a size of a channel axis: then the call fits any layout as it stands."""
    if op.name == "getitem":
        whole = slice(None)
        return all(
            axis is not None and key is not Ellipsis and (given.shape[axis] == 1 or key == whole)
            for axis, key in _keys(op, given)
        )
    dims = _dims(op)
    return bool(dims) and all(isinstance(dim, int) and given.shape[dim] == 1 for dim in dims)


@register(torch.cat, torch.concat, torch.concatenate)
def cat(op: Operation) -> Relation | None:
    """Concatenation along a channel axis; along a row axis all parts share their channels."""
    dim = op.argument(1, "dim", "axis", default=0)
    if op.axes.sizes[dim % len(op.axes.sizes)] is not None:
        return _joined(op, "cat")
    flows = [op.aligned(part) for part in op.tensors]
    if any(f is None or not f.is_identity or len(f.index) != op.axes.count for f in flows):
        return None
    return Pointwise(tuple(f for f in flows if f is not None), "all")


@register(torch.stack)
def stack(op: Operation) -> Relation | None:
    """Stacking along a new channel axis."""
    return _joined(op, "stack")


def _joined(op: Operation, how: Any) -> Relation | None:
    parts, dim = op.argument(0, "tensors"), op.argument(1, "dim", "axis", default=0)
    if not isinstance(parts, tuple | list) or len(set(parts)) != len(parts):
        return None  # the same tensor twice: labels could not tell the copies apart
    axis = dim % len(op.axes.sizes)
    if op.axes.sizes[axis] is None:
        return None
    indices = op.follow(list(parts))
    if indices is None:
        return None
    return Movement(tuple(Flow(p, i) for p, i in zip(parts, indices, strict=True)), how, axis)
