"""Why rows of zeros in weights stay: a channel that is zero before its bias need not be one that can be removed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, fx

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import made_of_parameters
from upscale_fx.channels.relations import Barrier, Contraction, Pointwise


def zero_rows(flow: Dataflow) -> list[str]:
    """Describe every layer of a compacted graph whose weight has rows of zeros, and why these rows stay."""
    stored = made_of_parameters(flow)
    texts: dict[str, str] = {}
    for node, relation in flow.relations.items():
        if not isinstance(relation, Contraction) or relation.weight not in stored or node in stored:
            continue
        weight = flow.values[relation.weight][0]
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            continue
        if zeros := int((weight == 0).all(dim=0 if relation.transposed else 1).sum()):
            name = _name(flow, relation.weight, node)
            rows = weight.shape[1 if relation.transposed else 0]
            texts.setdefault(
                name, f"{name}: {zeros} of {rows} rows of its weight are zero, and stay: {_why(flow, node, stored)}"
            )
    return list(texts.values())


def _why(flow: Dataflow, node: fx.Node, stored: set[fx.Node]) -> str:
    """What keeps the outputs of a layer: the first thing on the way that does more than pass its channels on."""
    seen, waiting = {node}, [node]
    biased = getattr(flow.relations[node], "bias", None) is not None
    while waiting:
        value = waiting.pop(0)
        for user in value.users:
            relation = flow.relations.get(user)
            if user.op == "output":
                return "they are outputs of the model"
            if user in seen or relation is None or user not in flow.axes:
                continue
            seen.add(user)
            if isinstance(relation, Barrier):
                return f"{user.name} keeps all its channels ({relation.reason})"
            others = [other for other in _wide(flow, relation.reads) if other not in seen and other not in stored]
            is_sum = isinstance(relation, Pointwise) and relation.zero == "all"
            if others and is_sum:
                return f"{others[0].meta.get('module') or others[0].name} writes into the same channels"
            biased = biased or (is_sum and any(source in stored for source in relation.reads))
            if not isinstance(relation, Contraction):
                waiting.append(user)
    if biased:
        return "a bias makes them differ from zero"
    return "channels beside them keep them, as in heads of equal width"


def _wide(flow: Dataflow, sources: tuple[fx.Node, ...]) -> Iterator[fx.Node]:
    """The operands that are features: floating-point values with rows and several channels."""
    for source in sources:
        value, axes = flow.values[source][0], flow.axes.get(source)
        if isinstance(value, Tensor) and value.is_floating_point() and axes is not None and axes.count > 1:
            yield source


def _name(flow: Dataflow, weight: fx.Node, node: fx.Node) -> str:
    return str(weight.target).removesuffix(".weight") if weight.op == "get_attr" else node.name
