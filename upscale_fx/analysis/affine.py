"""Find the parameters to change so that a value is scaled and shifted, channel by channel.

A value can *take* a scale and a shift iff only one call reads it and it is

1. a parameter that only this call reads: ``p * scale + shift``;
2. the result of a linear layer whose weight takes the scale, row by row, and whose bias takes both;
3. moved from values that take both: views, slices, concatenations, gathers of rows, means over channels;
4. a sum or difference: every term takes the scale, one term takes the shift;
5. linear in a value that takes the scale: a product, a quotient, a sum over channels, a sum or mean of rows by target.
   This holds only without a shift, because these operations would scale the shift too.

Nothing else can. A position that is read twice and would need two different scales cannot either.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_geometric.utils as pyg
from torch import Tensor, fx
from torch.fx.node import map_arg

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.own_parameters import is_own, parameter
from upscale_fx.channels.positions import Flow, Numbers
from upscale_fx.channels.relations import Contraction, Movement, Pointwise, Reduction
from upscale_fx.compiled.calls import DIFFERENCES, PRODUCTS, SUMS

#: New values of parameters, by their node, and new biases, by the contraction that has none.
Changes = dict[fx.Node, Tensor]

_OF_THE_FIRST = {torch.div, operator.truediv, "div", torch.neg, operator.neg, "neg"}
_MOVES = {torch.cat, torch.clone, "clone", "contiguous"}
_AGGREGATIONS = {pyg.scatter: ("src", "index", "dim", "dim_size", "reduce"), pyg.segment: ("src", "ptr", "reduce")}


@dataclass(frozen=True)
class Affine:
    """``scale * x + shift``, one number of each for every position of ``x``."""

    scale: Numbers
    shift: Numbers

    @property
    def only_scales(self) -> Affine:
        """The scale without the shift."""
        return Affine(self.scale, np.zeros_like(self.shift))

    def pulled(self, flow: Flow, count: int) -> Affine | None:
        """Return the scale and shift that a source with ``count`` positions must take; None if a position needs two."""
        filled = flow.index >= 0
        scale, shift = np.ones(count), np.zeros(count)
        scale[flow.index[filled]], shift[flow.index[filled]] = self.scale[filled], self.shift[filled]
        same = (scale[flow.index[filled]] == self.scale[filled]) & (shift[flow.index[filled]] == self.shift[filled])
        return Affine(scale, shift) if same.all() else None

    def shared(self, batch: int) -> Affine | None:
        """Return the scale and shift per channel of the last axis; None if they differ between ``batch`` positions."""
        scale, shift = self.scale.reshape(batch, -1), self.shift.reshape(batch, -1)
        same = (scale == scale[0]).all() and (shift == shift[0]).all()
        return Affine(scale[0], shift[0]) if same else None


def taken_by(flow: Dataflow, node: fx.Node, reader: fx.Node, wanted: Affine) -> Changes | None:
    """Return the changes that scale and shift ``node``, which ``reader`` reads, as wanted; None if it cannot take them.

    Existing biases are preferred to new ones.
    """
    for adds_biases in (False, True):
        changes = _AffineSearch(flow, adds_biases).take(node, reader, wanted)
        if changes is not None:
            return changes
    return None


def taken_by_readers(flow: Dataflow, node: fx.Node, wanted: Affine) -> Changes | None:
    """Return changes by which the linear layers that read ``node`` read it scaled and shifted; None if impossible."""
    readers = [reader for reader in node.users if not _reads_shape(reader)]
    search = _AffineSearch(flow, adds_biases=True)
    return _merged(search.read(node, reader, wanted) for reader in readers) if readers else None


@dataclass(frozen=True)
class _AffineSearch:
    """The recursive search for changes. Numbers in comments are those of the module's docstring."""

    flow: Dataflow
    adds_biases: bool

    def take(self, node: fx.Node, reader: fx.Node, wanted: Affine) -> Changes | None:
        """Return the changes by which a value takes a scale and a shift."""
        readers = {user for user in node.users if not _reads_shape(user)}
        if node not in self.flow.axes or readers != {reader} or not _reads_once(reader, node):
            return None
        relation = self.flow.relations[node]
        if node.op == "get_attr":
            return self._parameter(node, reader, wanted)  # (1)
        if isinstance(relation, Contraction):
            return self._contraction(node, relation, wanted)  # (2)
        if isinstance(relation, Movement):
            filled = np.logical_or.reduce([flow.index >= 0 for flow in relation.flows])
            return None if wanted.shift[~filled].any() else self._all(relation.flows, node, wanted)  # (3)
        if isinstance(relation, Reduction):
            flow = Flow(relation.source, np.arange(len(wanted.scale)))
            spread = Affine(wanted.scale[relation.index], wanted.shift[relation.index])
            linear = relation.how == "mean" or (relation.how == "sum" and not wanted.shift.any())
            return self.take(flow.source, node, spread) if linear else None  # (3), (5)
        return self._pointwise(node, relation, wanted) if isinstance(relation, Pointwise) else None

    def _parameter(self, node: fx.Node, reader: fx.Node, wanted: Affine) -> Changes | None:
        if not is_own(self.flow, node, reader):
            return None
        value = parameter(self.flow, node)
        scale, shift = (_tensor(numbers, value).reshape(value.shape) for numbers in (wanted.scale, wanted.shift))
        changed = (value.double() * scale + shift).to(value.dtype)
        return {node: changed} if bool(changed.isfinite().all()) else None

    def _contraction(self, node: fx.Node, relation: Contraction, wanted: Affine) -> Changes | None:
        rows = wanted.shared(relation.batch)
        return None if rows is None else self._layer(node, relation, rows.scale[:, None], rows.scale, rows.shift)

    def read(self, x: fx.Node, node: fx.Node, wanted: Affine) -> Changes | None:
        """Return the changes by which a linear layer reads ``x`` as if ``x`` were scaled and shifted."""
        relation = self.flow.relations.get(node)
        if not isinstance(relation, Contraction) or relation.x is not x or not _reads_once(node, x):
            return None
        columns = wanted.shared(relation.batch)
        if columns is None:
            return None
        weight = parameter(self.flow, relation.weight).double().cpu().numpy()
        shift = (weight.T if relation.transposed else weight) @ columns.shift
        return self._layer(node, relation, columns.scale[None], np.ones_like(shift), shift)

    def _layer(
        self, node: fx.Node, relation: Contraction, weights: Numbers, scale: Numbers, shift: Numbers
    ) -> Changes | None:
        """Multiply the weight ``[O, I]`` by ``weights``, and the bias by ``scale`` plus ``shift``."""
        if None not in self.flow.axes[relation.x].sizes:
            return None  # no rows: a model that learns a product of two parameters must keep both
        factors = np.broadcast_to(weights.T if relation.transposed else weights, self.flow.axes[relation.weight].shape)
        flat = factors.reshape(-1)
        changes = self.take(relation.weight, node, Affine(flat, np.zeros_like(flat)))
        if relation.bias is not None:
            return _merged([changes, self.take(relation.bias, node, Affine(scale, shift))])
        if changes is None or not shift.any():
            return changes
        like = parameter(self.flow, relation.weight)
        bias = _tensor(shift, like).to(like.dtype)
        can_add = self.adds_biases and relation.weight.op == "get_attr" and bool(bias.isfinite().all())
        return changes | {node: bias} if can_add else None

    def _pointwise(self, node: fx.Node, relation: Pointwise, wanted: Affine) -> Changes | None:
        target: Any = node.target
        if target in _MOVES:
            return self._all(relation.flows, node, wanted)  # (3)
        if target in (*SUMS, *DIFFERENCES):
            return self._sum(node, relation, wanted)  # (4)
        if wanted.shift.any():
            return None
        if target in _AGGREGATIONS:
            arguments = dict(zip(_AGGREGATIONS[target], node.args, strict=False)) | node.kwargs
            adds = arguments.get("reduce", "sum") in ("sum", "add", "mean")
            return self._all(relation.flows, node, wanted) if adds else None  # (5)
        carriers = node.args if target in PRODUCTS else node.args[:1] if target in _OF_THE_FIRST else ()
        if node.kwargs:
            return None
        candidates = (self._all([flow], node, wanted) for flow in relation.flows if flow.source in carriers)
        return next((changes for changes in candidates if changes is not None), None)  # (5)

    def _sum(self, node: fx.Node, relation: Pointwise, wanted: Affine) -> Changes | None:
        flows = {flow.source: flow for flow in relation.flows}
        if node.kwargs or len(node.args) != 2 or set(node.args) != set(flows):
            return None  # a term is a number, or both terms are the same node
        terms = [flows[term] for term in node.args]  # type: ignore[index]
        sign = -1 if node.target in DIFFERENCES else 1
        shifted = (wanted, Affine(wanted.scale, sign * wanted.shift))
        for place in (0, 1):
            parts = [shifted[i] if i == place else wanted.only_scales for i in (0, 1)]
            changes = _merged(self._all([term], node, part) for term, part in zip(terms, parts, strict=True))
            if changes is not None:
                return changes
        return None

    def _all(self, flows: Sequence[Flow], node: fx.Node, wanted: Affine) -> Changes | None:
        """Return the changes by which all sources of a node take their scale and shift."""
        pairs = [(flow, wanted.pulled(flow, self.flow.axes[flow.source].count)) for flow in flows]
        return _merged(None if part is None else self.take(flow.source, node, part) for flow, part in pairs)


def _merged(parts: Iterable[Changes | None]) -> Changes | None:
    """Return all changes together; None if any is impossible."""
    changes: Changes = {}
    for part in parts:
        if part is None:
            return None
        changes |= part
    return changes


def _reads_once(reader: fx.Node, node: fx.Node) -> bool:
    """Whether a value is exactly one argument of a call."""
    arguments: list[fx.Node] = []
    map_arg((reader.args, reader.kwargs), arguments.append)
    return arguments.count(node) == 1


def _reads_shape(node: fx.Node) -> bool:
    """Whether a node reads only the shape, dtype or device of a value, and no numbers."""
    if node.target is getattr:
        return node.args[1] in ("dtype", "device", "shape", "ndim")
    return node.op == "call_method" and node.target in ("size", "dim", "numel")


def _tensor(numbers: Numbers, like: Tensor) -> Tensor:
    return torch.from_numpy(numbers.copy()).to(like.device)
