"""Constants: positions of a value that hold the same number in every row of every graph.

A position is *constant* iff it provably holds one number for all inputs, in ``train()`` and ``eval()`` (with
``inference``: in ``eval()``), until parameters change. It is constant if it is provably zero, or if it is

1. a parameter, or a buffer that no forward pass updates,
2. an output of a contraction in which all products that may be non-zero are of constants, and the bias is constant,
3. moved from a constant: views, slices, concatenations of channels, gathers of rows,
4. an elementwise function of constants and numbers,
5. a reduction of constants over channel axes,
6. the mean, maximum or minimum of constants over the edges of a node, if every node has a self loop,
7. a constant after dropout that does nothing or, with ``inference``, after batch norm with running statistics.

Nothing else is constant: a sum over edges depends on their number, a mean over no edges is 0, batch statistics and
dropout differ between calls, other operations are unknown. The example values give the number. They are also a second
check: a position that is not finite there, or whose rows differ, is not constant.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_geometric.utils as pyg
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Mask, boolean_product
from upscale_fx.channels.relations import Contraction, Movement, Pointwise, Reduction, hit
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import operation_of
from upscale_fx.compiled import functions
from upscale_fx.compiled.missing_types import merges_of_types
from upscale_fx.compiled.module import record_of

#: Elementwise functions. (A Pointwise relation says nothing of rows: it may also combine rows, as aggregations do.)
_ELEMENTWISE = (
    "relu relu6 elu selu celu leaky_relu prelu gelu silu mish tanh sigmoid hardtanh hardswish hardsigmoid softplus "
    "softsign logsigmoid tanhshrink hardshrink softshrink threshold exp expm1 log log1p log2 sqrt rsqrt square abs neg "
    "negative sign sin cos tan atan asinh erf reciprocal clamp clamp_min clamp_max clip nan_to_num floor ceil round "
    "frac float double half bfloat16 to type clone contiguous detach "
    "add sub subtract rsub mul multiply div divide true_divide truediv maximum minimum pow"
).split()
_FUNCTIONS: set[Any] = {
    function
    for name in _ELEMENTWISE
    for space in (torch, F, operator, torch._C._nn)
    if callable(function := getattr(space, name, None))
}
_METHODS = {name for name in _ELEMENTWISE if hasattr(Tensor, name)}
_DROPOUTS = {F.dropout, torch.dropout}
_SELF_LOOPS = {pyg.add_self_loops, pyg.add_remaining_self_loops}
_UPDATING = {F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm}


def constants(flow: Dataflow, inference: bool = False) -> dict[fx.Node, Mask]:
    """Return for every tensor value which positions are constant.

    Args:
        flow: the analysed graph.
        inference: whether only ``eval()`` counts.
    """
    merges = merges_of_types(flow.module.graph) if "" in record_of(flow.module).lacking.values() else ()
    analysis = _Analysis(flow, inference, merges=frozenset(merges))
    for node in flow.nodes:
        if node in flow.nonzero:
            analysis.visit(node)
    return analysis.constant


def first_row(flow: Dataflow, node: fx.Node, side: int = 0) -> Tensor | None:
    """Return the first row of a value on an example graph, one number per position; None if it has no rows."""
    value: Any = flow.values[node][side]
    if not value.numel():
        return None
    return _first_row(flow, node, value).reshape(-1)


def _first_row(flow: Dataflow, node: fx.Node, value: Tensor) -> Tensor:
    for axis, size in enumerate(flow.axes[node].sizes):
        value = value if size is not None else value.narrow(axis, 0, 1)
    return value


def observed(flow: Dataflow, node: fx.Node) -> Mask:
    """Return which positions hold one finite number in all rows of both example graphs, up to rounding."""
    first = first_row(flow, node)
    if first is None:
        return np.zeros(flow.axes[node].count, dtype=bool)
    shape, same = flow.axes[node].shape, torch.isfinite(first)
    rows = [axis for axis, size in enumerate(flow.axes[node].sizes) if size is None]
    for value in flow.values[node] if node.op != "get_attr" else ():
        assert isinstance(value, Tensor)
        close = torch.isclose(value, first.reshape(shape))
        same &= (close.all(dim=rows) if rows else close).reshape(-1)
    mask: Mask = same.cpu().numpy()
    return mask


@dataclass(frozen=True)
class _Analysis:
    """The forward pass and the constants of visited nodes. Numbers in comments are those of the module's docstring."""

    flow: Dataflow
    inference: bool
    constant: dict[fx.Node, Mask] = field(default_factory=dict)
    merges: frozenset[fx.Node] = frozenset()

    def visit(self, node: fx.Node) -> None:
        """Find the constants of one node, whose operands have been visited."""
        proved = ~self.flow.nonzero[node]
        if node not in self.merges:  # a batch may lack some of what comes together here
            proved = proved | self._proved(node)
        self.constant[node] = proved & observed(self.flow, node) if proved.any() else proved

    def _proved(self, node: fx.Node) -> Mask:
        relation = self.flow.relations[node]
        none = np.zeros(self.flow.axes[node].count, dtype=bool)
        if node.op == "get_attr":
            return none | self._is_fixed(node)  # (1)
        if isinstance(relation, Contraction):
            return self._contracted(relation, len(none))  # (2)
        if isinstance(relation, Movement):  # (3)
            for flow in relation.flows:
                filled = flow.index >= 0
                none[filled] = self.constant[flow.source][flow.index[filled]]
            return none
        if isinstance(relation, Reduction):
            return self._reduced(relation, none)  # (5)
        if isinstance(relation, Pointwise) and self._keeps_constants(node, relation):
            mask: Mask = np.logical_and.reduce([self.constant[flow.source][flow.index] for flow in relation.flows])
            return mask
        return none

    def _is_fixed(self, node: fx.Node) -> bool:
        """Whether a node is a parameter, or a buffer that no forward pass updates."""
        if self.inference or isinstance(self.flow.values[node][0], nn.Parameter):
            return True
        owner = str(node.target).rpartition(".")[0]
        called = {other.target for other in self.flow.nodes if other.op == "call_module"}
        return owner not in called and not any(user.target in _UPDATING for user in node.users)

    def _contracted(self, relation: Contraction, count: int) -> Mask:
        flow, outputs = self.flow, count // relation.batch
        weight, constant_weight = relation.matrix(flow.nonzero, outputs), relation.matrix(self.constant, outputs)
        x, constant_x = (masks[relation.x].reshape(relation.batch, -1) for masks in (flow.nonzero, self.constant))
        pairs = ((x, weight & ~constant_weight), (x & ~constant_x, weight))
        varying: Mask = np.logical_or.reduce([boolean_product(a, b.T) for a, b in pairs])
        mask: Mask = ~varying if relation.bias is None else ~varying & self.constant[relation.bias]
        return mask.reshape(-1)

    def _reduced(self, relation: Reduction, none: Mask) -> Mask:
        sizes = self.flow.axes[relation.source].sizes
        if any(sizes[axis] is None for axis in relation.axes):
            return none
        return ~hit(relation.index[~self.constant[relation.source]], len(none))

    def _keeps_constants(self, node: fx.Node, relation: Pointwise) -> bool:
        """Whether an operation on constants returns constants."""
        op = operation_of(node, self.flow.values, self.flow.module)
        target: Any = node.target
        if op.call is not node or not isinstance(target, Hashable):
            return False
        if target is pyg.scatter:
            return _aggregates_all(op)  # (6)
        if isinstance(op.module, nn.Module) or target in _DROPOUTS or target is F.batch_norm:
            return self._is_fixed_layer(op)  # (7)
        sources = {flow.source for flow in relation.flows}
        if not all(other in sources or self._is_known(other) for other in node.all_input_nodes):
            return False
        return target in (_METHODS if node.op == "call_method" else _FUNCTIONS)  # (4)

    def _is_fixed_layer(self, op: Operation) -> bool:
        """Whether dropout does nothing, or batch norm reads running statistics, in the modes that count."""
        module = op.module
        if type(module) is nn.Dropout:
            return self.inference or module.p == 0
        if isinstance(module, nn.Module):
            if not isinstance(module, _BatchNorm) or type(module).forward is not _BatchNorm.forward:
                return False
            return self.inference and module.running_mean is not None and module.running_var is not None
        if op.call.target is F.batch_norm:
            statistics = (op.argument(1, "running_mean"), op.argument(2, "running_var"))
            training = self._known(op.argument(5, "training", default=False))
            return self.inference and None not in statistics and training is False
        return (
            self._known(op.argument(1, "p", default=0.5)) == 0
            or self._known(op.argument(2, "training", "train", default=True)) is False
        )

    def _is_known(self, node: fx.Node) -> bool:
        """Whether a value that is not a tensor is the same for every graph: a dtype, or a ByMode with ``inference``."""
        if node.target is getattr:
            return node.args[1] == "dtype"
        module = self.flow.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        return self.inference and isinstance(module, functions.ByMode)

    def _known(self, argument: Any) -> Any:
        """Return the value of an argument; None if it depends on the graph."""
        if not isinstance(argument, fx.Node):
            return argument
        return self.flow.values[argument][0] if self._is_known(argument) else None


def _aggregates_all(op: Operation) -> bool:
    """Whether ``scatter`` takes a mean or an extremum, and every result row combines at least one row.

    The latter holds if its index is a row of ``add_self_loops(.., num_nodes=n)`` and it returns ``n`` rows.
    """
    if op.argument(4, "reduce", default="sum") not in ("mean", "max", "min", "amax", "amin"):
        return False
    edges = _element(op.argument(1, "index"), lambda key: isinstance(key, int))
    call = _element(edges, lambda key: key == 0)
    if call is None or call.op != "call_function" or call.target not in _SELF_LOOPS:
        return False
    nodes = call.args[3] if len(call.args) > 3 else call.kwargs.get("num_nodes")
    count = op.argument(3, "dim_size")
    return isinstance(count, fx.Node) and _without_min(count) is _without_min(nodes)


def _element(node: Any, accepts: Callable[[Any], bool]) -> fx.Node | None:
    """Return the operand of a getitem whose key ``accepts`` allows; else None."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem or not accepts(node.args[1]):
        return None
    return node.args[0] if isinstance(node.args[0], fx.Node) else None


def _without_min(node: Any) -> Any:
    """Replace ``min(n, n)`` by ``n``: layers for two types of nodes take the smaller number."""
    minimum = isinstance(node, fx.Node) and node.target is builtins.min and len(set(node.args)) == 1
    return node.args[0] if minimum else node
