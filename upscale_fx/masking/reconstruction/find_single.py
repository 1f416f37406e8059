"""Makes least-squares problems of single consumers, with the parameters that hold their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from upscale_fx.analysis.attention import own_layers, row_cuts
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import Cut
from upscale_fx.channels.positions import Flow, Positions
from upscale_fx.channels.relations import Contraction
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.readings import multiplications
from upscale_fx.masking.reconstruction.single import SingleProblem
from upscale_fx.masking.reconstruction.softmax_rows import softmax_of
from upscale_fx.masking.reconstruction.stored_entries import ReadCounts, stored_entries


def single_problems(flow: Dataflow, consumers: Sequence[Consumer], joint: Collection[int]) -> Iterator[SingleProblem]:
    """One problem for each consumer that is not in ``joint``, the numbers of consumers in joint problems."""
    counts = ReadCounts(flow)
    for number, consumer in enumerate(consumers):
        if number not in joint and consumer.readings:
            one = consumer.kind in ("vector", "product") and len(consumer.sites) == 1
            softmax = softmax_of(flow, consumer.sites[0]) if one else None
            yield replace(_single(flow, number, consumer, counts), softmax=softmax)


def _single(flow: Dataflow, number: int, consumer: Consumer, counts: ReadCounts) -> SingleProblem:
    problem = SingleProblem(consumer, number, _blocks(flow, consumer), reason=consumer.unfitted)
    if consumer.unfitted:
        return problem
    if consumer.kind == "product":
        scaled = _layers_of_one_operand(flow, consumer)
        return replace(problem, scaled=scaled, reason="" if scaled else "several calls read its layers")
    if not all((cut.entries >= 0).all() for cut in consumer.cuts) or not _stored(flow, consumer):
        return replace(problem, reason="its weights are not entries of one parameter, one by one")
    calls = len(consumer.sites)
    if any((counts.of(cut.target)[cut.entries] != calls).any() for cut in consumer.cuts if _seen(flow, consumer)):
        return replace(problem, reason="something else reads its weights too")
    stored = tuple((cut.target, _in_order(cut)[problem.channels]) for cut in consumer.cuts)
    return replace(problem, stored=stored, biases=_biases(flow, consumer, counts) if len(problem.channels) == 1 else ())


def _in_order(cut: Cut) -> Positions:
    """``[C, O]``: the entries of each channel in the order of the outputs, which is the order in memory."""
    return np.sort(cut.entries, axis=1)


def _layers_of_one_operand(flow: Dataflow, consumer: Consumer) -> tuple[Cut, ...]:
    """The rows of the layers that make one operand of a product, if no other call reads them; else empty."""
    if len(consumer.readings) != 1:
        return ()
    reading = consumer.readings[0]
    for operand in reading.operands:
        readers = {reading.node, *multiplications(operand.value, reading.node)}
        origins = list(own_layers(flow, Flow(operand.value, operand.columns.reshape(-1)), readers))
        if origins and all(origin is not None for origin in origins):
            return tuple(cut for origin in origins if origin is not None for cut in row_cuts(flow, origin))
    return ()


def _blocks(flow: Dataflow, consumer: Consumer) -> Positions:
    """The channels of each block ``[B, C]``: one block per head where a head's outputs come only from its channels."""
    relation = flow.relations[consumer.sites[0]]
    apart = consumer.kind in ("vector", "product") or isinstance(relation, Product)
    heads = consumer.blocks
    if apart and heads is not None and len(set(np.bincount(heads)[np.unique(heads)].tolist())) == 1:
        return np.stack([np.flatnonzero(heads == head) for head in np.unique(heads)])
    return np.arange(consumer.count, dtype=np.int64)[None]


def _seen(flow: Dataflow, consumer: Consumer) -> bool:
    """Whether the graph shows all reads of the weights; those of a recurrent module are inside the module."""
    return not any(isinstance(flow.relations[site], Recurrence) for site in consumer.sites)


def _stored(flow: Dataflow, consumer: Consumer) -> bool:
    """Whether entries of one parameter are the weight of every call, the same for all calls."""
    relations = [flow.relations[site] for site in consumer.sites]
    if all(isinstance(relation, Recurrence) for relation in relations):
        return True
    if len(consumer.cuts) != 1:
        return False
    if consumer.kind == "vector":
        return len(relations) == 1
    weights = {relation.weight if isinstance(relation, Contraction) else None for relation in relations}
    if None not in weights:
        return len(weights) == 1 and all(_held(flow, weight) for weight in weights if weight is not None)
    if len(relations) == 1 and isinstance(relations[0], Product):
        product, read = relations[0], consumer.readings[0].operands[0].value
        return _held(flow, product.right if product.left is read else product.left)
    return False


def _held(flow: Dataflow, weight: fx.Node) -> bool:
    return stored_entries(flow, weight) is not None


def _biases(flow: Dataflow, consumer: Consumer, counts: ReadCounts) -> tuple[tuple[str, Positions], ...]:
    """The biases that all calls add, one for each parameter of weights; empty if there are none."""
    relations = [flow.relations[site] for site in consumer.sites]
    outputs = [cut.entries.shape[1] for cut in consumer.cuts]
    if all(isinstance(relation, Recurrence) for relation in relations):
        names = [cut.target.replace("weight_ih", "bias_ih") for cut in consumer.cuts]
        known = dict(flow.module.named_parameters())
        fits = all(name in known and known[name].numel() == size for name, size in zip(names, outputs, strict=True))
        return tuple((name, np.arange(size)) for name, size in zip(names, outputs, strict=True)) if fits else ()
    first = relations[0]
    if not isinstance(first, Contraction) or first.bias is None:
        return ()
    if any(not isinstance(relation, Contraction) or relation.bias is not first.bias for relation in relations):
        return ()
    own, held = stored_entries(flow, first.bias), stored_entries(flow, first.weight)
    if own is None or held is None or (counts.of(own[0])[own[1]] != len(relations)).any():
        return ()
    grid = held[1].reshape(flow.axes[first.weight].shape)
    return (own,) if np.array_equal(grid if first.transposed else grid.T, _in_order(consumer.cuts[0])) else ()
