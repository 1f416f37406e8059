"""Fold constant channels into biases: where ``x[c]`` is always ``v``, ``W x + b`` is ``W' x + (b + W[:, c] v)``.

A channel whose weights are zero is no channel any more: what is left of it is what its bias, and the activations after
it, make of zero, the same number in every row. Its readers take that number into their own biases and put zeros where
they read it, so that compaction removes it.

Folded is what (1) is constant (see :mod:`upscale_fx.constants`) and not already provably zero, (2) meets a weight that
is a parameter of one layer, read once, and (3) leaves all numbers finite. A bias read elsewhere too stays as it is, and
with it the layer. A layer without a bias gets one, named ``bias_folded``; a matrix product an addition.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.channels import Mask
from upscale_fx.constants import constants, first_row
from upscale_fx.dataflow import Dataflow, analyse
from upscale_fx.module import CompiledGNN, make_module
from upscale_fx.relations import Contraction

#: What ``meta`` of a graph says that is right in ``eval()`` only, because running statistics were taken for constants.
FOR_INFERENCE = {
    "mode": "eval",
    "mode_reason": "it was optimized with inference=True, which takes dropout and running statistics as they are in "
    "eval(); optimize without it to train",
}


@dataclass(frozen=True)
class FoldConstants:
    """Fold constant channels into the biases of their readers; exact.

    Attributes:
        inference: also see through dropout and batch norm, as they are in ``eval()``; the result cannot be trained.
    """

    inference: bool = False

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        folds = find_folds(analyse(gm), self.inference or gm.meta.get("mode") == "eval")
        if not folds:
            return PassResult(gm, False)
        new = copy.deepcopy(gm)
        nodes = {node.name: node for node in new.graph.nodes}
        for fold in folds:
            apply(new, nodes[fold.node.name], fold)
        meta = {**gm.meta, **FOR_INFERENCE} if self.inference else gm.meta
        return PassResult(make_module(new, new.graph, meta, gm.training), True)


@dataclass(frozen=True)
class Fold:
    """A contraction as it is without its constant inputs: its weight ``[O, I]``, or as stored, and its bias ``[O]``."""

    node: fx.Node
    relation: Contraction
    weight: Tensor
    bias: Tensor


def find_folds(flow: Dataflow, inference: bool) -> list[Fold]:
    """All contractions that read constant channels and can take them into their biases."""
    constant = constants(flow, inference)
    folds = []
    for node, relation in flow.relations.items():
        if isinstance(relation, Contraction) and _may_change(flow, node, relation):
            fold = _folded(flow, node, relation, constant)
            folds += [fold] if fold is not None else []
    return folds


def _may_change(flow: Dataflow, node: fx.Node, relation: Contraction) -> bool:
    """Whether rows meet a weight and a bias that are parameters which only this contraction reads."""
    stored = [relation.weight] if relation.bias is None else [relation.weight, relation.bias]
    if None not in flow.axes[relation.x].sizes:
        return False  # no rows: what a model learns as the product of two parameters stays that
    return all(_is_own(flow, parameter, node) for parameter in stored)


def _is_own(flow: Dataflow, node: fx.Node, reader: fx.Node) -> bool:
    value = flow.values[node][0]
    if node.op != "get_attr" or not isinstance(value, nn.Parameter) or not value.is_floating_point():
        return False
    reads = [other for other in flow.nodes if other.op == "get_attr" and flow.values[other][0] is value]
    called = [flow.module.get_submodule(str(other.target)) for other in flow.nodes if other.op == "call_module"]
    tied = any(parameter is value for module in called for parameter in module.parameters())
    return reads == [node] and set(node.users) == {reader} and not tied


def _folded(flow: Dataflow, node: fx.Node, relation: Contraction, constant: Mapping[fx.Node, Mask]) -> Fold | None:
    """The fold of a contraction; None where it reads no constant that can be folded."""
    stored = _parameter(flow, relation.weight)
    weight = stored.t() if relation.transposed else stored
    held = first_row(flow, relation.x)
    if held is None:
        return None
    held = held.reshape(relation.batch, -1)
    always, present = (masks[relation.x].reshape(relation.batch, -1) for masks in (constant, flow.nonzero))
    chosen = torch.from_numpy(np.logical_and.reduce(always, axis=0) & np.logical_or.reduce(present, axis=0))
    if not chosen.any():
        return None
    columns = chosen.to(weight.device) & (held == held[0]).all(dim=0)
    columns &= weight.isfinite().all(dim=0) & (weight != 0).any(dim=0)
    shift = weight[:, columns].double() @ held[0, columns].double()
    bias = (shift if relation.bias is None else shift + _parameter(flow, relation.bias).double()).to(weight.dtype)
    if not columns.any() or not bias.isfinite().all():
        return None
    rest = weight.masked_fill(columns, 0)
    return Fold(node, relation, rest.t().contiguous() if relation.transposed else rest, bias)


def _parameter(flow: Dataflow, node: fx.Node) -> Tensor:
    value = flow.values[node][0]
    assert isinstance(value, Tensor)
    return value.detach()


def apply(gm: CompiledGNN, node: fx.Node, fold: Fold) -> None:
    """Put a fold into a copy of the graph it was found in, at the same node."""
    relation = fold.relation
    trains = _put(gm, str(relation.weight.target), fold.weight)
    if relation.bias is not None:
        _put(gm, str(relation.bias.target), fold.bias)
        return
    path, _, _ = str(relation.weight.target).rpartition(".")
    owner = gm.get_submodule(path)
    names = ("bias_folded" if not i else f"bias_{i}_folded" for i in count())
    name = next(name for name in names if not hasattr(owner, name))
    owner.register_parameter(name, nn.Parameter(fold.bias, requires_grad=trains))
    with gm.graph.inserting_before(node):
        bias = gm.graph.get_attr(f"{path}.{name}" if path else name)
    bias.meta = dict(relation.weight.meta)
    _add_bias(node, bias, relation.transposed)


def _put(gm: CompiledGNN, target: str, value: Tensor) -> bool:
    """Replace a parameter, frozen if it was; returns whether it trains."""
    path, _, name = target.rpartition(".")
    trains = gm.get_parameter(target).requires_grad
    gm.get_submodule(path).register_parameter(name, nn.Parameter(value, requires_grad=trains))
    return trains


def _add_bias(node: fx.Node, bias: fx.Node, is_product: bool) -> None:
    """Make a linear layer, or a matrix product, add a bias."""
    if not is_product:
        named = {name: value for name, value in node.kwargs.items() if name != "bias"}
        together = len(node.args) >= 2
        node.args, node.kwargs = ((*node.args[:2], bias), named) if together else (node.args, {**named, "bias": bias})
        return
    with node.graph.inserting_after(node):
        total = node.graph.call_function(operator.add, (node, bias))
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
