"""Build a graph in another floating-point dtype: which values change their dtype, and where casts are needed.

A value is a *feature* iff it is (1) a floating-point argument other than one number per edge
(``compiled.structure.half``); (2) a parameter; or (3) computed from a feature, except its size, its dtype, or a new
tensor of its shape. Features are computed in the narrow dtype. All other values are structure (indices, degrees, edge
weights and their normalisation). Structure keeps its dtype until a call combines it with features.

In half precision, three things stay in float32. (a) Sums over rows that torch may accumulate in the dtype of the rows
(``scatter``, ``softmax`` over edges) read float32 copies. Operators of :mod:`upscale_fx.operators`, matrix products and
norms accumulate in float32 themselves. (b) Parameters and statistics of batch norms. (c) Differences in which digits
cancel, such as a variance (:mod:`upscale_fx.analysis.cancellation`).

The new graph is built node by node. Every node runs on an example, which shows its dtype.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_geometric.utils as pyg
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from upscale_fx.analysis.cancellation import cancelling
from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.structure.half import is_structural
from upscale_fx.errors import UpscaleError

HALF_PRECISION = (torch.bfloat16, torch.float16)
#: Sums over rows that torch may accumulate in the dtype of the rows.
_ACCUMULATING = {
    pyg.scatter, pyg.segment, pyg.softmax, pyg.cumsum, torch.cumsum, "cumsum", torch.index_add, "index_add",
    torch.scatter_add, "scatter_add", torch.scatter_reduce, "scatter_reduce", torch.index_reduce, "index_reduce",
    torch.segment_reduce,
}  # fmt: skip
#: Norms that take parameters and statistics in float32 beside features in half precision.
_MIXED_NORMS = {F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm}
#: Calls that make new tensors and read no numbers of their operand.
_FRESH = {
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", torch.zeros_like, torch.ones_like, torch.full_like,
    torch.empty_like,
}  # fmt: skip
_LARGEST = {torch.finfo(dtype).max for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


@dataclass
class Casting:
    """The cast of one graph to another dtype, node by node.

    Attributes:
        module: holds the parameters; those of the modules it calls already have their dtype.
        dtype: the narrow dtype.
        arguments: an example of one call.
        before: the value of every old node on the example, before the cast.
        graph: the new graph.
        replacements: old node -> the new node that replaces it, or a constant.
        versions: old node and dtype -> its cast to this dtype in the new graph.
        values: the value of every new node on the example.
        casts: nodes of the new graph that only cast.
        features: old nodes that are features.
    """

    module: CompiledGNN
    dtype: torch.dtype
    arguments: Mapping[str, Any]
    before: Mapping[fx.Node, Any]
    graph: fx.Graph = field(default_factory=fx.Graph)
    replacements: dict[fx.Node, Any] = field(default_factory=dict)
    versions: dict[tuple[fx.Node, torch.dtype], Any] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    casts: set[fx.Node] = field(default_factory=set)
    features: set[fx.Node] = field(default_factory=set)
    _specs: dict[fx.Node, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._interpreter = fx.Interpreter(self.module)
        self.cancelling = cancelling(self.module.graph)

    def run(self) -> None:
        """Build the graph.

        Raises:
            UpscaleError: an operation fails in the dtype.
        """
        for node in self.module.graph.nodes:
            if node.op == "output":
                self.graph.output(map_arg(node.args[0], self._restored))
            else:
                self._add(node)

    def value(self, node: fx.Node) -> Any:
        """Return the value of an old node's replacement on the example."""
        new = self.replacements[node]
        return self.values[new] if isinstance(new, fx.Node) else new

    def _add(self, node: fx.Node) -> None:
        if self._is_feature(node):
            self.features.add(node)
        if node.op == "placeholder":
            self.replacements[node] = self._emit(node, node.args, node.kwargs)
        elif node.target is getattr and isinstance(self.before[node], torch.dtype):
            read = self._emit(node, *map_arg((node.args, node.kwargs), self.replacements.__getitem__))
            same = self.values[read] == self.before[node]
            self.replacements[node] = read if same else self.before[node]  # structure reads the same dtype as before
        else:
            args, kwargs = self._operands(node)
            self.replacements[node] = self._emit(node, args, kwargs)

    def _is_feature(self, node: fx.Node) -> bool:
        value = self.before[node]
        if not any(_is_float(leaf) for leaf in pytree.tree_leaves(value)):
            return False
        if node.op == "placeholder":
            self._specs[node] = inputs_of(self.module).arguments.get(str(node.target))
            return isinstance(value, Tensor) and not is_structural(self._specs[node])
        if node.op == "get_attr":
            return isinstance(value, nn.Parameter)
        container = node.all_input_nodes[0] if node.target is operator.getitem else node
        if isinstance(self._specs.get(container), dict | list | tuple):
            self._specs[node] = self._specs[container][node.args[1]]
            return isinstance(value, Tensor) and not is_structural(self._specs[node])
        if node.target in _FRESH:
            return False
        return self._has_parameters(node) or self._takes_features(node)

    def _has_parameters(self, node: fx.Node) -> bool:
        called = node.op == "call_module"
        return called and any(True for _ in self.module.get_submodule(str(node.target)).parameters())

    def _takes_features(self, node: fx.Node) -> bool:
        return any(source in self.features for source in node.all_input_nodes)

    def _operands(self, node: fx.Node) -> tuple[Any, Any]:
        """Return the arguments of a call, cast to the dtypes it takes."""
        arguments = (node.args, node.kwargs)
        reads_shape = not _has_tensor(self.before[node])
        if reads_shape or not (self._has_parameters(node) or self._takes_features(node)) or node.target in _FRESH:
            args, kwargs = map_arg(arguments, self.replacements.__getitem__)
            if node.target in _FRESH and "dtype" not in kwargs and _is_float(self.before[node]):
                kwargs = {**kwargs, "dtype": self.before[node].dtype}
            return args, kwargs
        x = node.args[0] if node.args else None
        dtypes = {source: self._dtype_of_operand(node, source is x) for source in node.all_input_nodes}
        return map_aggregate(
            arguments, lambda leaf: self._cast(leaf, dtypes[leaf]) if isinstance(leaf, fx.Node) else self._fitting(leaf)
        )

    def _dtype_of_operand(self, node: fx.Node, is_first: bool) -> torch.dtype:
        """Return the dtype in which a call on features takes an operand."""
        if self.dtype not in HALF_PRECISION:
            return self.dtype
        wide = node.target in _ACCUMULATING or node in self.cancelling or (node.target in _MIXED_NORMS and not is_first)
        return torch.float32 if wide else self.dtype

    def _fitting(self, constant: Any) -> Any:
        """Replace the largest number of another dtype, with which masks are filled, by that of this dtype."""
        if not isinstance(constant, float) or abs(constant) not in _LARGEST:
            return constant
        return math.copysign(torch.finfo(self.dtype).max, constant)

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> Any:
        """Cast a floating-point value to a dtype; for a node that reads a floating dtype, return the new dtype."""
        value = self.value(node)
        if isinstance(value, torch.dtype):
            return dtype if value.is_floating_point else self.replacements[node]
        if not _is_float(value) or value.dtype == dtype:
            return self.replacements[node]
        if (node, dtype) not in self.versions:
            cast = self._emit(node, (self.replacements[node], dtype), {}, "call_method", "to")
            self.casts.add(cast)
            self.versions[node, dtype] = cast
        return self.versions[node, dtype]

    def _restored(self, node: fx.Node) -> Any:
        """Return a result of the graph in the dtype it had before."""
        before, value = self.before[node], self.value(node)
        if isinstance(before, Tensor):
            return self.replacements[node] if value.dtype == before.dtype else self._cast(node, before.dtype)
        dtypes = [leaf.dtype if isinstance(leaf, Tensor) else None for leaf in pytree.tree_leaves(before)]
        if dtypes == [leaf.dtype if isinstance(leaf, Tensor) else None for leaf in pytree.tree_leaves(value)]:
            return self.replacements[node]
        return self._emit(node, (self.replacements[node], dtypes), {}, "call_function", to_dtypes)

    def _emit(self, node: fx.Node, args: Any, kwargs: Any, op: str = "", target: Any = None) -> fx.Node:
        """Put a call into the new graph and run it."""
        op, target = op or node.op, target or node.target
        new = self.graph.create_node(op, target, args, kwargs, name=node.name)
        new.meta = dict(node.meta)
        if op == "placeholder":
            self.values[new] = self.arguments.get(str(target))
            return new
        values = map_arg((args, kwargs), self.values.__getitem__)
        try:
            self.values[new] = getattr(self._interpreter, op)(target, *values)
        except Exception as error:
            raise UpscaleError(self._failed(node, error)) from error
        return new

    def _failed(self, node: fx.Node, error: Exception) -> str:
        target = target_name(node.target)
        where = ", ".join(filter(None, (node.meta.get("module"), node.meta.get("source"))))
        name = str(self.dtype).removeprefix("torch.")
        return (
            f"{target} at node {node.name} ({where or 'of the graph itself'}) fails in {name}: {error}. Leave dtype "
            f"out, or choose another"
        )


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _has_tensor(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def to_dtypes(value: Any, dtypes: list[torch.dtype | None]) -> Any:
    """Cast the tensors of a nested result to these dtypes; None leaves a leaf as it is."""
    leaves, shape = pytree.tree_flatten(value)
    cast = [leaf if dtype is None else leaf.to(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    return pytree.tree_unflatten(cast, shape)
