"""Find the parameter entries behind the channels of a weight.

A weight may be a parameter, or a view or slice of one, looked up by relation, a combination of bases, or scaled. In all
cases, setting certain parameter entries to zero makes a channel of the weight zero. To find them, every position of the
weight gets a label (its channel), and the labels are traced back through the operations that compute the weight. If an
entry would get two labels, channels cannot be masked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations import Contraction, Movement, Pointwise, Reduction
from upscale_fx.channels.relations.products import Lookup, Product
from upscale_fx.compiled.calls import target_name

_NONE = -1


class NotStored(Exception):
    """The channels of a weight have no parameter entries of their own; the message says why."""


@dataclass(frozen=True)
class Cut:
    """The flat entries of a parameter that masking sets to zero: ``entries[c]`` for channel ``c``, padded with -1."""

    target: str
    entries: Positions
    shape: tuple[int, ...]

    def lines(self) -> Positions:
        """Return for each channel and axis of the parameter the index that all its entries share, -1 if they differ.

        ``(-1, 3)`` is column 3 of a matrix. A channel without entries has -1.
        """
        first, exists = np.maximum(self.entries[:, :1], 0), self.entries >= 0
        filled = np.where(exists, self.entries, first)
        places, starts = np.unravel_index(filled, self.shape), np.unravel_index(first, self.shape)
        shared = [
            np.where((along == start).all(axis=1) & exists[:, 0], start[:, 0], -1)
            for along, start in zip(places, starts, strict=True)
        ]
        return np.stack(shared, axis=1).astype(np.int64)


def made_of_parameters(flow: Dataflow) -> set[fx.Node]:
    """Return the values computed from parameters only, lookups included: they can be weights."""
    weights: set[fx.Node] = set()
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if node.op == "get_attr" or (relation is not None and relation.reads and weights.issuperset(relation.reads)):
            weights.add(node)
    return weights


def weight_cuts(flow: Dataflow, node: fx.Node, labels: Positions, count: int) -> list[Cut]:
    """Return the parameter entries behind a weight whose positions are labelled ``0 .. count - 1`` (-1: none).

    Raises:
        NotStored: the computation of the weight mixes channels.
    """
    by_parameter: dict[str, Positions] = {}
    _trace_back(flow, node, labels, by_parameter)
    return [
        Cut(target, _by_label(parameter_labels, count), _shape(flow, target))
        for target, parameter_labels in by_parameter.items()
    ]


def _trace_back(flow: Dataflow, node: fx.Node, labels: Positions, by_parameter: dict[str, Positions]) -> None:
    if node.op == "get_attr":
        target = str(node.target)
        if not is_parameter(flow, target):
            raise NotStored(_why_no_parameter(node))
        by_parameter[target] = _merged(by_parameter[target], labels, target) if target in by_parameter else labels
        return
    for source, source_labels in _sources(flow, node, labels):
        _trace_back(flow, source, source_labels, by_parameter)


def _why_no_parameter(node: fx.Node) -> str:
    """Why a stored tensor has no channels to mask; one that forward() makes has a name that FX gave it."""
    if str(node.target).startswith("_tensor_constant"):
        return (
            f"its weight is a constant that forward() makes ({node.meta.get('source') or 'of a tensor'}), no parameter"
        )
    return f"its weight '{node.target}' is a buffer"


def _sources(flow: Dataflow, node: fx.Node, labels: Positions) -> list[tuple[fx.Node, Positions]]:
    """Return the operands that must be zero for the labelled positions to be zero, with their labels."""
    relation = flow.relations[node]
    if isinstance(relation, Movement):
        return [(f.source, _scattered(flow, f.source, f.index, labels)) for f in relation.flows]
    if isinstance(relation, Lookup):
        rows = np.broadcast_to(labels, relation.index.shape)
        return [(relation.source, _scattered(flow, relation.source, relation.index.reshape(-1), rows.reshape(-1)))]
    if isinstance(relation, Reduction):
        return [(relation.source, labels[relation.index])]
    if isinstance(relation, Pointwise) and relation.module is None:
        if relation.zero == "all":
            return [(f.source, _scattered(flow, f.source, f.index, labels)) for f in relation.flows]
        if relation.zero in ("any", "first"):
            return [_one_factor(flow, node, relation, labels)]
    if isinstance(relation, Contraction | Product):
        return [_one_operand(flow, node, relation, labels)]
    raise NotStored(f"its weight is computed by {target_name(node.target)}, which does not keep its channels apart")


def _one_factor(flow: Dataflow, node: fx.Node, relation: Pointwise, labels: Positions) -> tuple[fx.Node, Positions]:
    """Return a factor that keeps channels apart, with its labels; its zeros make the product zero."""
    for f in relation.flows if relation.zero == "any" else relation.flows[:1]:
        try:
            source_labels = _scattered(flow, f.source, f.index, labels)
            _trace_back(flow, f.source, source_labels, {})
        except NotStored:
            continue
        return f.source, source_labels
    raise NotStored(f"no factor of {node.name} keeps its channels apart")


def _one_operand(
    flow: Dataflow, node: fx.Node, relation: Contraction | Product, labels: Positions
) -> tuple[fx.Node, Positions]:
    """Return the operand of a product of parameters (a combination of bases) whose entries have one label each."""
    if isinstance(relation, Contraction):
        outputs, inputs = flow.axes[node].shape[-1], flow.axes[relation.x].shape[-1]
        x = np.arange(relation.batch * inputs).reshape(1, relation.batch, inputs)
        grid = np.arange(outputs * inputs)
        weight = grid.reshape(1, inputs, outputs) if relation.transposed else grid.reshape(1, outputs, inputs)
        weight = weight if relation.transposed else weight.transpose(0, 2, 1)
        result = np.arange(relation.batch * outputs).reshape(1, relation.batch, outputs)
        operands = ((relation.weight, weight), (relation.x, x))
        if relation.bias is not None:
            raise NotStored(f"its weight is computed by {node.name}, which adds a bias")
    else:
        x, weight, result = relation.positions
        operands = ((relation.right, weight), (relation.left, x))
    shown = labels[result]
    for (operand, positions), axis in zip(operands, (1, 2), strict=True):
        label = shown.max(axis=axis, keepdims=True)
        if np.all((shown == label) | (shown < 0)):
            operand_labels = np.full(flow.axes[operand].count, _NONE, dtype=np.int64)
            operand_labels[positions] = label
            try:
                _trace_back(flow, operand, operand_labels, {})
            except NotStored:
                continue
            return operand, operand_labels
    raise NotStored(f"its weight is computed by {node.name}, a product that mixes its channels")


def _scattered(flow: Dataflow, source: fx.Node, index: Positions, labels: Positions) -> Positions:
    """Return the labels of source positions; raises NotStored if a position would get two."""
    labelled = (index >= 0) & (labels >= 0)
    source_labels = np.full(flow.axes[source].count, _NONE, dtype=np.int64)
    source_labels[index[labelled]] = labels[labelled]
    if np.any(source_labels[index[labelled]] != labels[labelled]):
        raise NotStored(f"entries of {source.name} serve several channels")
    return source_labels


def _merged(first: Positions, second: Positions, target: str) -> Positions:
    both = (first >= 0) & (second >= 0)
    if np.any(first[both] != second[both]):
        raise NotStored(f"entries of '{target}' serve several channels")
    return np.maximum(first, second)


def _by_label(labels: Positions, count: int) -> Positions:
    """Return the entries of each label as rows of equal length, padded with -1."""
    places = np.flatnonzero(labels >= 0)
    places = places[np.argsort(labels[places], kind="stable")]
    counts = np.bincount(labels[places], minlength=count)
    rows = np.full((count, int(counts.max(initial=0))), _NONE, dtype=np.int64)
    rows[np.arange(rows.shape[1])[None] < counts[:, None]] = places
    return rows


def _shape(flow: Dataflow, target: str) -> tuple[int, ...]:
    return tuple(flow.module.get_parameter(target).shape)


def is_parameter(flow: Dataflow, target: str) -> bool:
    """Whether a dotted name is a parameter, not a buffer."""
    path, _, name = target.rpartition(".")
    owner: nn.Module = flow.module.get_submodule(path)
    return name in owner._parameters


def merged_cuts(calls: Sequence[tuple[Sequence[Cut], Positions]], total: int) -> list[Cut]:
    """Merge the cuts of several calls, each entry once; channel ``c`` of a call becomes ``place[c]`` of ``total``."""
    by_parameter: dict[str, list[Positions]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for cuts, place in calls:
        for cut in cuts:
            entries = np.full((total, cut.entries.shape[1]), -1, dtype=np.int64)
            entries[place] = cut.entries
            by_parameter.setdefault(cut.target, []).append(entries)
            shapes.setdefault(cut.target, cut.shape)
    result = []
    for target, parts in by_parameter.items():
        joined = np.sort(np.concatenate(parts, axis=1), axis=1)
        joined[:, 1:][joined[:, 1:] == joined[:, :-1]] = -1
        joined = -np.sort(-joined, axis=1)
        result.append(Cut(target, joined[:, : max(1, int((joined >= 0).sum(axis=1).max(initial=0)))], shapes[target]))
    return result
