"""Weights and biases that only one call reads, and how a pass replaces them.

A parameter is a call's *own* iff only one ``get_attr`` node of the graph reads it, the call is the only reader of that
node, and no module that the graph calls holds the parameter. Only then may a pass change it.
"""

from __future__ import annotations

import operator
from itertools import count

from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.relations import Contraction
from upscale_fx.compiled.module import CompiledGNN


def is_own(flow: Dataflow, node: fx.Node, reader: fx.Node) -> bool:
    """Whether a node is a floating-point parameter that only ``reader`` reads."""
    value = flow.values[node][0]
    if node.op != "get_attr" or not isinstance(value, nn.Parameter) or not value.is_floating_point():
        return False
    reads = [other for other in flow.nodes if other.op == "get_attr" and flow.values[other][0] is value]
    called = [flow.module.get_submodule(str(other.target)) for other in flow.nodes if other.op == "call_module"]
    tied = any(parameter is value for module in called for parameter in module.parameters())
    return reads == [node] and set(node.users) == {reader} and not tied


def owns_parameters(flow: Dataflow, node: fx.Node, relation: Contraction) -> bool:
    """Whether a contraction has rows, and its weight and bias are its own."""
    stored = [relation.weight] if relation.bias is None else [relation.weight, relation.bias]
    if None not in flow.axes[relation.x].sizes:
        return False  # no rows: a model that learns a product of two parameters must keep both
    return all(is_own(flow, parameter, node) for parameter in stored)


def parameter(flow: Dataflow, node: fx.Node) -> Tensor:
    """Return the value of a parameter or buffer, without a gradient."""
    value = flow.values[node][0]
    assert isinstance(value, Tensor)
    return value.detach()


def put(gm: CompiledGNN, target: str, value: Tensor) -> None:
    """Replace the value of a parameter; a frozen parameter stays frozen."""
    path, _, name = target.rpartition(".")
    trains = gm.get_parameter(target).requires_grad
    gm.get_submodule(path).register_parameter(name, nn.Parameter(value, requires_grad=trains))


def add_bias(gm: CompiledGNN, node: fx.Node, relation: Contraction, value: Tensor) -> None:
    """Add a bias ``[O]`` to a contraction without one: ``bias_folded``, in the module of the weight, frozen if that is.

    A linear layer gets it as an argument; a matrix product is followed by an addition.
    """
    weight = str(relation.weight.target)
    path, _, _ = weight.rpartition(".")
    owner = gm.get_submodule(path)
    names = ("bias_folded" if not i else f"bias_{i}_folded" for i in count())
    name = next(name for name in names if not hasattr(owner, name))
    trains = gm.get_parameter(weight).requires_grad
    owner.register_parameter(name, nn.Parameter(value, requires_grad=trains))
    with gm.graph.inserting_before(node):
        bias = gm.graph.get_attr(f"{path}.{name}" if path else name)
    bias.meta = dict(relation.weight.meta)
    if not relation.transposed:
        named = {name: value for name, value in node.kwargs.items() if name != "bias"}
        together = len(node.args) >= 2
        node.args, node.kwargs = ((*node.args[:2], bias), named) if together else (node.args, {**named, "bias": bias})
        return
    with gm.graph.inserting_after(node):
        total = gm.graph.call_function(operator.add, (node, bias))
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
