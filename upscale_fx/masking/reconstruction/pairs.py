"""Moments of products over all pairs of rows (q·k between every two nodes of a graph), without a row for each pair.

For ``z_c(i, j) = q_ic k_jc`` the sum over all pairs is ``sum of z_c z_d = (Q'Q)_cd (K'K)_cd``: the Gram matrix of a
product is the product of Gram matrices, element by element. The same holds between two models, with ``z`` in one and
``y`` in the other: ``sum of z_c y_d = (Qz'Qy)_cd (Kz'Ky)_cd``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.channels.relations.products import Product
from upscale_fx.masking.consumers.readings import Reading
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.solve import NotFittedError

Values = dict[fx.Node, Tensor]


def makes_pairs(reading: Reading, flow: Dataflow) -> bool:
    """Whether a call multiplies each row of one operand with other rows of the other: all pairs of nodes, say."""
    relation = flow.relations[reading.node]
    if not isinstance(relation, Product) or len(reading.operands) != 2:
        return False
    first, second = (_row_letters(flow, relation, place) for place in (0, 1))
    return first != second


def pair_moments(
    reading: Reading, channels: Positions, dense: Values, pruned: Values | None, flow: Dataflow, weight: Tensor
) -> Moments:
    """The moments of one batch over all pairs of the product; ``pruned`` is None for the dense model alone.

    Args:
        reading: the call and its two operands.
        channels: ``[B, C]``, the channels of every block.
        dense: values of the dense model.
        pruned: values of the pruned model, with its present weights ``weight [B, C, O]``.
        flow: the analysed graph.
        weight: weights of the products in the outputs.

    Raises:
        NotFittedError: the product sums over rows as well.
    """
    moments = Moments.for_weight(weight)
    weight = weight.to(dense[reading.operands[0].value].device)
    own = dense if pruned is None else pruned
    both = zip(_graphs(reading, channels, own, flow), _graphs(reading, channels, dense, flow), strict=True)
    for (q, k), (other_q, other_k) in both:
        gram = _gram(q, q) * _gram(k, k)
        part = Moments(gram, torch.zeros_like(weight), q.sum(dim=1) * k.sum(dim=1), rows=float(q.shape[1] * k.shape[1]))
        if pruned is not None:
            across = _gram(q, other_q) * _gram(k, other_k)
            theirs = _gram(other_q, other_q) * _gram(other_k, other_k)
            part.cross = (across - gram) @ weight
            part.error = float((weight * ((theirs - across - across.mT + gram) @ weight)).sum())
        moments.include(part)
    return moments


def _gram(first: Tensor, second: Tensor) -> Tensor:
    """``[B, C, C]`` of two ``[B, rows, C]``."""
    return first.mT @ second


def _row_letters(flow: Dataflow, relation: Product, place: int) -> str:
    node = relation.reads[place]
    return "".join(a for a, size in zip(relation.letters[place], flow.axes[node].sizes, strict=True) if size is None)


def _graphs(reading: Reading, channels: Positions, values: Values, flow: Dataflow) -> Iterator[tuple[Tensor, Tensor]]:
    """Both operands ``[B, rows, C]`` in float64, for every combination of the row axes that they share."""
    relation = flow.relations[reading.node]
    assert isinstance(relation, Product)
    shared = [a for a in relation.groups[0] if all(a in _row_letters(flow, relation, place) for place in (0, 1))]
    if any(a in _row_letters(flow, relation, place) for a in relation.groups[3] for place in (0, 1)):
        raise NotFittedError("the product sums over rows as well as channels")
    sides = []
    for operand in reading.operands:
        node = operand.value
        place = 0 if node is relation.left else 1
        letters, sizes = relation.letters[place], flow.axes[node].sizes
        rows = _row_letters(flow, relation, place)
        order = [*shared, *(a for a in rows if a not in shared)]
        axes = [letters.index(a) for a in order] + [axis for axis, size in enumerate(sizes) if size is not None]
        value = values[node].permute(*axes)
        lead = value.shape[: len(shared)].numel()
        value = value.reshape(lead, value.shape[len(shared) : len(order)].numel(), flow.axes[node].count)
        index = torch.from_numpy(operand.columns[0][channels]).to(value.device)
        sides.append(value[:, :, index].double().transpose(1, 2))
    first, second = sides
    for number in range(max(len(first), len(second)) if len(first) and len(second) else 0):
        yield first[min(number, len(first) - 1)], second[min(number, len(second) - 1)]
