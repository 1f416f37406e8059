"""Fold constant channels into biases: where ``x[c]`` is always ``v``, ``W x + b`` is ``W' x + (b + W[:, c] v)``.

A channel whose weights are zero has the same value in every row: what its bias, and the activations after it, make
of zero. Its readers add that value to their own biases and zero the weights that read it, so that compaction removes
the channel.

A channel is folded iff (1) it is constant (see ``analysis.constants``) and not provably zero, (2) the weight that
reads it is a parameter of one layer, read once, and (3) all numbers stay finite. A layer whose bias is read elsewhere
too stays as it is. A layer without a bias gets one, named ``bias_folded``; a matrix product gets an addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.analysis.constants import constants, first_row
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.own_parameters import add_bias, owns_parameters, parameter, put
from upscale_fx.channels.positions import Mask
from upscale_fx.channels.relations import Contraction
from upscale_fx.compiled.module import CompiledGNN, note, record_of
from upscale_fx.compiled.record import EVAL_ONLY_INFERENCE
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class FoldConstants:
    """Fold constant channels into the biases of their readers; exact.

    Attributes:
        inference: treat dropout and batch norm as they are in ``eval()``; the result cannot be trained.
    """

    inference: bool = False

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, lambda new: fold_constants(new, self.inference))


def fold_constants(gm: CompiledGNN, inference: bool) -> int:
    """Fold constant channels in place; returns how many contractions changed."""
    folds = find_folds(analyse(gm), inference or record_of(gm).is_inference)
    for fold in folds:
        apply(gm, fold)
    if inference and folds:
        note(gm, eval_only=EVAL_ONLY_INFERENCE)
    return len(folds)


@dataclass(frozen=True)
class Fold:
    """A contraction without its constant inputs: its weight as stored (``[O, I]`` or transposed), its bias ``[O]``."""

    node: fx.Node
    relation: Contraction
    weight: Tensor
    bias: Tensor


def find_folds(flow: Dataflow, inference: bool) -> list[Fold]:
    """All contractions that read constant channels and can take them into their biases."""
    constant = constants(flow, inference)
    folds = []
    for node, relation in flow.relations.items():
        if isinstance(relation, Contraction) and owns_parameters(flow, node, relation):
            fold = _folded(flow, node, relation, constant)
            folds += [fold] if fold is not None else []
    return folds


def _folded(flow: Dataflow, node: fx.Node, relation: Contraction, constant: Mapping[fx.Node, Mask]) -> Fold | None:
    """The fold of a contraction; None where it reads no constant that can be folded."""
    stored = parameter(flow, relation.weight)
    weight = stored.t() if relation.transposed else stored
    values = first_row(flow, relation.x)
    if values is None:
        return None
    values = values.reshape(relation.batch, -1)
    always, present = (masks[relation.x].reshape(relation.batch, -1) for masks in (constant, flow.nonzero))
    candidates = torch.from_numpy(np.logical_and.reduce(always, axis=0) & np.logical_or.reduce(present, axis=0))
    if not candidates.any():
        return None
    columns = candidates.to(weight.device) & (values == values[0]).all(dim=0)
    columns &= weight.isfinite().all(dim=0) & (weight != 0).any(dim=0)
    shift = weight[:, columns].double() @ values[0, columns].double()
    bias = (shift if relation.bias is None else shift + parameter(flow, relation.bias).double()).to(weight.dtype)
    if not columns.any() or not bias.isfinite().all():
        return None
    rest = weight.masked_fill(columns, 0)
    return Fold(node, relation, rest.t().contiguous() if relation.transposed else rest, bias)


def apply(gm: CompiledGNN, fold: Fold) -> None:
    """Write a fold into its graph."""
    relation = fold.relation
    put(gm, str(relation.weight.target), fold.weight)
    if relation.bias is not None:
        put(gm, str(relation.bias.target), fold.bias)
    else:
        add_bias(gm, fold.node, relation, fold.bias)
