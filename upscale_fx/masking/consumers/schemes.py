"""Pruning schemes: which channels of each consumer are eligible, depending on the kind of inference.

From Zhou et al., "Accelerating Large Scale Real-Time GNN Inference using Channel Pruning" (VLDB 2021,
arXiv:2105.04528), whose layers have a self branch ``x W_self`` and a neighbour branch ``(A x) W_neigh``:

``"full"``
    for inference over the whole graph, where every layer costs about the same: all hidden channels, with those of
    the classifier; raw inputs are kept.
``"batched"``
    for inference of a few nodes with sampled neighbours, where the raw features of the farthest neighbours are nearly
    all of the work: raw inputs of the neighbour branch; the self branch and all hidden channels are kept. The
    authors' configurations prune these on Flickr, Arxiv, Reddit and Yelp. To prune hidden layers too, join the masks
    of both schemes.
"""

from __future__ import annotations

import numpy as np
from torch import fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.hops import Edges, data, find_edges
from upscale_fx.analysis.identity import channel_ids
from upscale_fx.analysis.row_symbols import LOOPS, row_symbols
from upscale_fx.analysis.stored import made_of_parameters
from upscale_fx.channels.positions import Mask
from upscale_fx.channels.relations import Barrier, Contraction, Movement, Pointwise, Relation
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.channels.relations.regrouping import Regrouping
from upscale_fx.errors import NothingToPruneError, PatternError
from upscale_fx.masking.consumers.readings import Operand, operands_of
from upscale_fx.masking.consumers.survey import Survey

SCHEMES = ("full", "batched")


def eligible_channels(flow: Dataflow, survey: Survey, scheme: str) -> dict[str, Mask]:
    """For every consumer by name, which of its input channels ``[I]`` a scheme can prune.

    With ``"batched"`` a raw input channel is in the neighbour branch (1) if a neighbour's row of it reaches the
    consumer (SAGE's ``lin_l``, GIN's network, the ``x_j`` of an edge convolution), or (2) if the layer comes before the
    aggregation: all its outputs are read along edges, some of them at the neighbours' end, before the next product (GCN
    and GAT, keys and values of a graph transformer, since ``A (x W)`` is ``(A x) W``). A layer whose outputs a node
    reads for itself is a self branch (SAGE's ``lin_r``, GATv2's ``lin_r``, queries, an encoder before the first
    convolution) and keeps its channels. Where own and neighbours' features are added before one linear layer (GCN with
    self loops, GIN) there is no self branch. Neighbours are found along one type of edges between nodes of one type, or
    in a dense adjacency, but not in heterogeneous and bipartite graphs.

    Args:
        flow: the analysed graph, as traced and not fused.
        survey: its consumers.
        scheme: ``"full"`` or ``"batched"``.

    Raises:
        PatternError: unknown scheme.
        NothingToPruneError: no consumer has channels that the scheme prunes.
    """
    if scheme not in SCHEMES:
        raise PatternError(f"unknown scheme {scheme!r}: choose {' or '.join(map(repr, SCHEMES))}")
    if scheme == "full":
        masks = {consumer.name: consumer.hidden.copy() for consumer in survey.consumers}
    else:
        masks = _raw_of_neighbours(flow, survey)
    if not any(mask.any() for mask in masks.values()):
        raise NothingToPruneError(_nothing(survey, scheme))
    return masks


def _nothing(survey: Survey, scheme: str) -> str:
    names = ", ".join(consumer.name for consumer in survey.consumers) or "none"
    if scheme == "full":
        return f"nothing to prune: scheme 'full' prunes hidden channels, and no consumer reads any (consumers: {names})"
    return (
        "nothing to prune: scheme 'batched' prunes raw features that come from neighbours, and no consumer reads any "
        f"(consumers: {names}). Where a layer on the nodes themselves comes before the first aggregation, scheme "
        "'full' prunes what the convolutions read of it; in heterogeneous and bipartite graphs neighbours are not "
        "found, and inputs=True with amounts by name prunes raw features"
    )


def _raw_of_neighbours(flow: Dataflow, survey: Survey) -> dict[str, Mask]:
    """Raw channels in the neighbour branch, for every consumer."""
    edges = find_edges(flow)
    received, weights = _received(flow, edges), made_of_parameters(flow)
    ids = channel_ids(flow, through_cat=True)
    masks: dict[str, Mask] = {}
    for consumer in survey.consumers:
        masks[consumer.name] = np.zeros(consumer.count, dtype=bool)
        for site in consumer.sites:
            before = _is_before_aggregation(flow, edges, site)
            for operand in _without_weights(operands_of(flow, site), weights):
                mask = np.logical_or.reduce(received[operand.value][operand.columns] | before, axis=0)
                if len(mask) == consumer.count:
                    masks[consumer.name] |= mask
                else:  # one of several calls, which reads only some of the channels
                    read = ids[operand.value][operand.columns[0]]
                    masks[consumer.name] |= np.isin(consumer.channels, read[mask])
        masks[consumer.name] &= ~consumer.hidden
    return masks


def _without_weights(operands: tuple[Operand, ...], weights: set[fx.Node]) -> list[Operand]:
    """The sides of a product that are not weights; the operand of a layer in any case."""
    return [operand for operand in operands if len(operands) == 1 or operand.value not in weights]


def _received(flow: Dataflow, edges: Edges) -> dict[fx.Node, Mask]:
    """Which positions of every value hold values of neighbours that no layer has mixed with other channels."""
    learned = data(flow)
    received: dict[fx.Node, Mask] = {}
    for node in flow.nodes:
        axes, relation = flow.axes.get(node), flow.relations.get(node)
        if axes is None or relation is None:
            continue
        mask = received[node] = np.zeros(axes.count, dtype=bool)
        if node not in learned:
            continue
        if "far" in edges.gathers.get(node, ()) or _sums_rows(relation):
            mask[:] = True
        elif isinstance(relation, Pointwise | Movement):
            for flow_in in relation.flows:
                here = np.flatnonzero(flow_in.index >= 0)
                if isinstance(relation, Movement) or len(here) == flow.axes[flow_in.source].count:
                    mask[here] |= received[flow_in.source][flow_in.index[here]]
        elif isinstance(relation, Regrouping):
            mask |= np.logical_or.reduce(received[relation.source][relation.index], axis=0)
        elif isinstance(relation, Barrier):
            mask[:] = any(received[source].any() for source in relation.sources)
    return received


def _sums_rows(relation: Relation | None) -> bool:
    """Whether an operation is a product that sums over rows: with a dense adjacency matrix."""
    return isinstance(relation, Product) and relation.positions[0].shape[-1] == 1


def _is_before_aggregation(flow: Dataflow, edges: Edges, site: fx.Node) -> bool:
    """Whether all outputs of a layer on nodes are read along edges next, some of them at the neighbours' end."""
    if row_symbols(flow, site) in LOOPS:
        return False
    far, seen, waiting = False, {site}, [site]
    while waiting:
        for user in waiting.pop().users:
            relation = flow.relations.get(user)
            if user in edges.gathers:
                far |= "far" in edges.gathers[user]
            elif _sums_rows(relation):
                far = True
            elif user.op == "output" or isinstance(relation, Contraction | Convolution | Product | Recurrence):
                return False
            elif user not in seen and row_symbols(flow, user):
                seen.add(user)
                waiting.append(user)
    return far
