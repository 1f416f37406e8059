"""Movement: views, permutations, slices, gathers, cat, stack. Found by running the op itself on position labels."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from upscale_fx.channels import Flow
from upscale_fx.relations import Movement, Pointwise, Relation
from upscale_fx.rules.registry import Operation, register


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
    return found if isinstance(found, Movement) and found.flows[0].is_identity else None


@register("unsqueeze", torch.unsqueeze, "squeeze", torch.squeeze, "permute", torch.permute, "transpose",
          torch.transpose,
          "t", torch.t, "swapaxes", torch.swapaxes, "movedim", torch.movedim)  # fmt: skip
def axes_only(op: Operation) -> Relation | None:
    """Ops whose arguments name axes, not sizes: they stay as they are whatever the layout."""
    return _single(op, "same")


# torch_geometric replaces torch.index_select and torch.select; inside, it calls torch's own.
_OWN = torch._C._VariableFunctions


@register("index_select", torch.index_select, _OWN.index_select, "select", torch.select, _OWN.select,
          operator.getitem, "narrow", torch.narrow,
          "chunk", torch.chunk, "split", torch.split, "unbind", torch.unbind, "tensor_split",
          "expand", "expand_as", "repeat", "flip", torch.flip, "roll", torch.roll, "broadcast_to", torch.broadcast_to,
          "repeat_interleave", torch.repeat_interleave, "tile", torch.tile)  # fmt: skip
def gather(op: Operation) -> Relation | None:
    """Slices, elements, repetitions, and gathers of rows by a tensor of indices."""
    source = op.argument(0, "input")
    given = op.axes_of(source)
    if given is None:
        return None
    found = _single(op, "pick")
    if not isinstance(found, Movement):
        return None
    if found.flows[0].is_identity and _same_channels(given.shape, op.axes.shape) and _takes_rows(op, source):
        return Movement(found.flows, "rows")
    return found if _keeps_rows(op, found.flows[0]) else None


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
        before = elements.permute(*rows, *other).reshape(*(x.shape[a] for a in rows), -1)
        after = result.permute(*own_rows, *own_other).reshape(*(result.shape[a] for a in own_rows), -1)
        chosen = before[..., torch.from_numpy(flow.index)]
        if chosen.shape != after.shape or not torch.equal(chosen, after):
            return False
    return True


def _same_channels(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [s for s in a if s > 1] == [s for s in b if s > 1]


def _takes_rows(op: Operation, source: fx.Node) -> bool:
    """Whether no argument is a size of a channel axis: then the call fits any layout as it stands."""
    if op.name in ("expand", "expand_as", "repeat", "broadcast_to", "tile"):
        return False
    if op.name == "getitem":
        keys = op.argument(1)
        axes = op.axes_of(source)
        assert axes is not None
        keys = keys if isinstance(keys, tuple) else (keys,)
        if any(key is Ellipsis or key is None for key in keys):
            return False
        return all(axes.shape[i] == 1 or key == slice(None) for i, key in enumerate(keys))
    dims = op.argument(2, "dims") if op.name == "roll" else op.argument(1, "dim", "dims", default=0)
    axes = op.axes_of(source)
    dims = [dims] if isinstance(dims, int) else dims
    return axes is not None and isinstance(dims, list | tuple) and all(axes.shape[dim] == 1 for dim in dims)


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
