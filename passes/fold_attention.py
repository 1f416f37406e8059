"""Fold attention vectors into the linear layer before them: ``(x W) . a = x (W a)``.

GAT's logits read every channel of ``x W`` and so keep all of them alive. Folded, logits and values read ``x`` side by
side and are pruned independently; the vector and the weight become one small parameter ``[H, in]``, named after the
vector with ``_folded`` behind. Done only where it removes multiplications.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn import functional as F

from upscale_fx.analysis.attention import AttentionProduct, LinearOrigin, attention_products, foldable
from upscale_fx.analysis.dataflow import Dataflow, analyse, needed
from upscale_fx.analysis.heads import head_blocks
from upscale_fx.channels.rules import reduce
from upscale_fx.channels.rules.registry import rule_of
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.module import CompiledGNN, make_module


@dataclass(frozen=True)
class FoldAttention:
    """Fold attention vectors where that saves multiplications; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        if not may_reduce(gm):
            return PassResult(gm, False)
        flow = analyse(gm)
        names = {product.logits.name for product, _ in candidates(flow)}
        if not names:
            return PassResult(gm, False)
        paying = _paying(gm, flow, names)
        return PassResult(fold(gm, paying), True) if paying else PassResult(gm, False)


def may_reduce(gm: CompiledGNN) -> bool:
    """Whether any call may be a sum over channels: by a rule for reductions, or one of the user's."""
    rules = {rule for node in gm.graph.nodes if (rule := rule_of(node, gm)) is not None}
    places = {getattr(rule, "__module__", "") for rule in rules}
    return any(place == reduce.__name__ or not place.startswith("upscale_fx.channels.rules.") for place in places)


def candidates(flow: Dataflow) -> list[tuple[AttentionProduct, LinearOrigin]]:
    """Products that can be folded, with the linear layer each folds into."""
    found = [(product, foldable(flow, product)) for product in attention_products(flow)]
    return [(product, origin) for product, origin in found if origin is not None]


def _paying(gm: CompiledGNN, flow: Dataflow, names: set[str]) -> set[str]:
    """Which folds save multiplications, judged per linear layer by what stays live with and without them."""
    kept = needed(flow, {}, head_blocks(flow))
    folded = analyse(fold(gm, names))
    kept_folded = {node.name: mask for node, mask in needed(folded, {}, head_blocks(folded)).items()}
    paying: set[str] = set()
    by_linear: dict[fx.Node, list[AttentionProduct]] = {}
    for product, origin in candidates(flow):
        if origin.node in kept and product.logits in kept:
            by_linear.setdefault(origin.node, []).append(product)
    for linear, products in by_linear.items():
        inputs = int(kept[flow.relations[linear].reads[0]].sum())
        before = int(kept[linear].sum()) * (inputs + len(products))
        after = int(kept_folded[linear.name].sum()) * inputs if linear.name in kept_folded else 0
        after += sum(int(kept[product.logits].sum()) for product in products) * inputs
        if after < before:
            paying.update(product.logits.name for product in products)
    return paying


def fold(gm: CompiledGNN, names: Sequence[str] | set[str]) -> CompiledGNN:
    """A copy of the graph with these logits computed as ``linear(x, W a)``."""
    new = copy.deepcopy(gm)
    flow = analyse(new)
    for product, origin in candidates(flow):
        if product.logits.name not in names:
            continue
        assert product.vector is not None
        target = f"{product.vector.source.target}_folded"
        weight, bias = _folded_parameters(flow, product, origin)
        with new.graph.inserting_before(product.logits):
            trains = any(_trains(flow, node) for node in (product.vector.source, origin.relation.weight))
            nodes = [_add_parameter(new, target, weight, trains, product.logits)]
            if bias is not None:
                target = f"{product.vector.source.target}_bias_folded"
                nodes.append(_add_parameter(new, target, bias, trains, product.logits))
            args = (origin.relation.x, *nodes)
            logits = new.graph.create_node("call_function", F.linear, args, {}, f"{product.logits.name}_folded")
        logits.meta = dict(product.logits.meta)
        product.logits.replace_all_uses_with(logits)
    drop_dead_nodes(new.graph)
    return make_module(new, new.graph, gm.meta, gm.training)


def _folded_parameters(flow: Dataflow, product: AttentionProduct, origin: LinearOrigin) -> tuple[Tensor, Tensor | None]:
    """``A[h, i] = sum over c of a[h, c] W[(h, c), i]`` and the same of the bias."""
    assert product.vector is not None
    vector, weight = _value(flow, product.vector.source), _value(flow, origin.relation.weight)
    weight = weight.t() if origin.relation.transposed else weight
    rows = torch.from_numpy(origin.outputs.copy()).to(weight.device)
    scale = vector.reshape(-1)[torch.from_numpy(product.vector.index.copy()).to(weight.device)]
    heads = torch.from_numpy(product.relation.index.copy()).to(weight.device)
    count = int(np.max(product.relation.index)) + 1
    folded = weight.new_zeros(count, weight.shape[1]).index_add_(0, heads, weight[rows] * scale[:, None])
    if origin.relation.bias is None:
        return folded, None
    bias = _value(flow, origin.relation.bias)
    return folded, bias.new_zeros(count).index_add_(0, heads, bias[rows] * scale)


def _value(flow: Dataflow, node: fx.Node) -> Tensor:
    value = flow.values[node][0]
    assert isinstance(value, Tensor)
    return value.detach()


def _trains(flow: Dataflow, node: fx.Node) -> bool:
    path, _, name = str(node.target).rpartition(".")
    return bool(getattr(flow.module.get_submodule(path), name).requires_grad)


def _add_parameter(gm: CompiledGNN, target: str, value: Tensor, trains: bool, like: fx.Node) -> fx.Node:
    path, _, name = target.rpartition(".")
    owner = gm.get_submodule(path)
    owner.register_parameter(name, nn.Parameter(value.clone(), requires_grad=trains))
    node = gm.graph.get_attr(target)
    node.meta = dict(like.meta)
    return node
