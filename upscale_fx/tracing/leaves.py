"""What stays whole in the graph: structure work and stateful layers, nothing that mixes channels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType
from typing import Any

import torch
import torch_geometric.utils as pyg
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_geometric.nn.aggr import QuantileAggregation
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import num_nodes

#: PyG's functions on graph structure, and row-wise ones that treat every channel alike.
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    gcn_norm, pyg.add_self_loops, pyg.remove_self_loops, pyg.add_remaining_self_loops, pyg.softmax, pyg.scatter,
    pyg.segment, pyg.degree, pyg.to_dense_batch, pyg.to_undirected, pyg.coalesce, pyg.dropout_edge, pyg.dropout_node,
    pyg.get_laplacian, num_nodes.maybe_num_nodes, pyg.cumsum,
)  # fmt: skip

#: Constructors whose sizes may be proxies; torch's argument parser would refuse them.
CONSTRUCTORS: tuple[Callable[..., Any], ...] = (
    torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.rand, torch.randn, torch.eye,
    torch.tensor, torch.finfo,
)  # fmt: skip

#: All of torch's own functions. Proxies must not reach their argument parsers: these take what passes as a tensor for
#: one in memory, wherever a signature allows for a number (``torch.where(condition, x, 0.0)``).
BUILT_IN: tuple[Callable[..., Any], ...] = tuple(
    value
    for name, value in vars(torch).items()
    if isinstance(value, BuiltinFunctionType) and hasattr(torch._C._VariableFunctions, name)
)

#: Modules with state that forward() updates, with a kernel of their own, or whose sorting treats every channel alike.
MODULES: tuple[type[nn.Module], ...] = (_BatchNorm, nn.RNNBase, nn.Dropout, QuantileAggregation)


@contextmanager
def patched(
    replacements: dict[int, Any], extra_names: dict[str, Any], modules: set[str], extended: set[str]
) -> Iterator[None]:
    """Replace functions by identity in every module that holds them, and set names in PyG's layers and ``extended``.

    PyG imports its helpers by name into many modules; patching one of them would miss the rest.
    """
    undo: list[tuple[dict[str, Any], str, Any]] = []
    absent = object()
    try:
        for name, module in list(sys.modules.items()):
            space = getattr(module, "__dict__", None)
            if space is None or not (name == "torch" or name in modules or name.startswith("torch_geometric")):
                continue
            for key, value in list(space.items()):
                if id(value) in replacements and callable(value):
                    undo.append((space, key, value))
                    space[key] = replacements[id(value)]
            if name in extended or name.startswith("torch_geometric.nn"):
                for key, value in extra_names.items():
                    undo.append((space, key, space.get(key, absent)))
                    space[key] = value
        yield
    finally:
        for space, key, value in reversed(undo):
            if value is absent:
                del space[key]
            else:
                space[key] = value
