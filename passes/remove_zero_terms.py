"""Remove terms that are provably zero, and inputs of which only the number of rows matters.

A value is provably zero iff none of its positions can be nonzero (``flow.nonzero``). (1) A sum with such a value
becomes its other operand, if that has the same rows. (2) A linear layer that reads only zeros, or has no weight left,
gives its bias in every row: it needs the number of rows, not their values. So a relation of a heterogeneous model
whose readers were pruned is removed, with its weights and its messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.row_origin import row_origin
from upscale_fx.analysis.stored import made_of_parameters
from upscale_fx.channels.relations import Contraction, Pointwise
from upscale_fx.compiled.calls import SUMS
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.passes.base import edited_flow


@dataclass(frozen=True)
class RemoveZeroTerms:
    """Remove terms that are zero in every row, and inputs of which nothing is read; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited_flow(gm, lambda flow: drop_zero_operands(flow) + detach_unread_inputs(flow))


def drop_zero_operands(flow: Dataflow) -> int:
    """Replace ``x + 0`` by ``x``; returns how many sums were removed."""
    count = 0
    parameters = made_of_parameters(flow)  # a bias that is zero now may be trained
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if node.target not in SUMS or not isinstance(relation, Pointwise):
            continue
        if len(node.args) != 2 or node.kwargs:  # it may have an alpha
            continue
        for zero, other in (node.args, node.args[::-1]):
            if (
                zero not in parameters
                and _is_zero(flow, zero)
                and isinstance(other, fx.Node)
                and _same_kind(flow, node, other)
            ):
                node.replace_all_uses_with(other)
                count += 1
                break
    return count


def _is_zero(flow: Dataflow, value: object) -> bool:
    return isinstance(value, fx.Node) and value in flow.nonzero and not flow.nonzero[value].any()


def _same_kind(flow: Dataflow, node: fx.Node, other: fx.Node) -> bool:
    """Whether a value has the shape and the dtype of the sum."""
    if other not in flow.axes or flow.axes[other].pairs != flow.axes[node].pairs:
        return False
    return _same_dtype(flow, node, other)


def detach_unread_inputs(flow: Dataflow) -> int:
    """Give linear layers that read nothing rows of zeros instead of their input; returns how many."""
    count = 0
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if not isinstance(relation, Contraction) or relation.weight.op != "get_attr" or relation.batch != 1:
            continue
        if relation.x.op == "get_attr" or _reads_something(flow, node, relation):
            continue
        zeros = _rows_of_zeros(flow, node, relation.x)
        if zeros is not None:
            node.replace_input_with(relation.x, zeros)
            count += 1
    return count


def _reads_something(flow: Dataflow, node: fx.Node, relation: Contraction) -> bool:
    outputs = flow.axes[node].shape[-1]
    pattern = relation.matrix(flow.nonzero, outputs)
    return bool((pattern & flow.nonzero[relation.x].reshape(1, -1)).any())


def _rows_of_zeros(flow: Dataflow, node: fx.Node, x: fx.Node) -> fx.Node | None:
    """Zeros of the shape of ``x``, made from row counts; None where counting the rows needs ``x`` itself."""
    axes = flow.axes[x]
    if x.target == "expand" and getattr(x.args[0], "target", None) == "new_zeros":
        return None  # ``x`` is such zeros already
    origins = [row_origin(flow, x, axis) for axis, size in enumerate(axes.sizes) if size is None]
    if not origins or any(origin is x for origin, _ in origins):
        return None
    base = next((o for o, _ in origins if o in flow.axes and _same_dtype(flow, o, x)), None)
    if base is None:
        return None
    graph = flow.module.graph
    with graph.inserting_before(node):
        rows = iter([graph.call_method("size", origin) for origin in origins])
        shape = [next(rows) if size is None else 1 for size in axes.sizes]
        zeros = graph.call_method("new_zeros", (base, tuple(shape)))
        wide = graph.call_method("expand", (zeros, *[-1] * (len(shape) - 1), axes.shape[-1]))
    for added in (zeros, wide, *(n for n in shape if isinstance(n, fx.Node))):
        added.meta = {"module": node.meta.get("module", ""), "source": node.meta.get("source", "")}
    return wide


def _same_dtype(flow: Dataflow, first: fx.Node, second: fx.Node) -> bool:
    a, b = flow.values[first][0], flow.values[second][0]
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype
