"""What stays whole in the graph: structure work and stateful layers, nothing that mixes channels."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_geometric.utils as pyg
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
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

#: Modules with state that forward() updates, or with a kernel of their own.
MODULES: tuple[type[nn.Module], ...] = (_BatchNorm, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Dropout)


class _TracedInt(type):
    """``int`` as traced modules see it: the same type, but ``int(proxy)`` stays in the graph."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, builtins.int)


def traced_int(record: Callable[[Any], Any], is_proxy: Callable[[Any], bool]) -> type:
    """A stand-in for ``int`` that records ``int(proxy)`` as a node."""

    class int_(metaclass=_TracedInt):
        def __new__(cls, value: Any = 0, *args: Any) -> Any:
            return record(value) if is_proxy(value) else builtins.int(value, *args)

    return int_


@contextmanager
def patched(replacements: dict[int, Any], extra_names: dict[str, Any], modules: set[str]) -> Iterator[None]:
    """Replace functions by identity in every module that holds them, and set names in the given modules.

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
            if name in modules or name.startswith("torch_geometric.nn"):
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
