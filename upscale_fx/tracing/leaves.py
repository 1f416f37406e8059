"""Functions and modules that become one node of the graph: structure work and stateful layers. None mixes channels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import compress
from types import BuiltinFunctionType
from typing import Any

import torch
import torch.utils.checkpoint
import torch_geometric.utils as pyg
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_geometric.index import ptr2index
from torch_geometric.nn.aggr import QuantileAggregation
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import num_nodes

#: PyG's functions on graph structure, and row-wise functions that treat every channel alike.
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    gcn_norm, pyg.add_self_loops, pyg.remove_self_loops, pyg.add_remaining_self_loops, pyg.softmax, pyg.scatter,
    pyg.segment, pyg.degree, pyg.to_dense_batch, pyg.to_undirected, pyg.coalesce, pyg.dropout_edge, pyg.dropout_node,
    pyg.get_laplacian, num_nodes.maybe_num_nodes, pyg.cumsum, pyg.to_dense_adj, torch.utils.checkpoint.checkpoint,
    pyg.to_edge_index, ptr2index, pyg.spmm,
)  # fmt: skip

#: Constructors whose sizes may be proxies, which torch's argument parser would refuse.
CONSTRUCTORS: tuple[Callable[..., Any], ...] = (
    torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.rand, torch.randn, torch.eye,
    torch.tensor, torch.finfo,
)  # fmt: skip

#: Constructors that are recorded even where their sizes are fixed: forward() may write into the tensor that they
#: return, and random numbers are drawn anew in every call.
ALWAYS_RECORDED: frozenset[Callable[..., Any]] = frozenset({
    torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn, torch.randint, torch.randperm,
    torch.normal,
})  # fmt: skip

#: All of torch's built-in functions. Proxies must not reach their argument parsers: where a signature also allows a
#: number (``torch.where(condition, x, 0.0)``), the parser treats a proxy as a real tensor in memory.
BUILT_IN: tuple[Callable[..., Any], ...] = tuple(
    value
    for name, value in vars(torch).items()
    if isinstance(value, BuiltinFunctionType) and hasattr(torch._C._VariableFunctions, name)
)

#: Modules whose forward() updates state, modules with their own kernel or without Python code, and modules that sort
#: every channel alike.
MODULES: tuple[type[nn.Module], ...] = (
    _BatchNorm, nn.RNNBase, nn.Dropout, QuantileAggregation, torch.jit.ScriptModule,
)  # fmt: skip

#: Python modules in which no model is written.
BUILT_IN_SPACES = {"builtins", "torch.nn.modules.module", "typing", "abc", "collections"}


#: PyG's modules that compute with row counts.
_WITH_BUILTINS = ("torch_geometric.nn", *(f"torch_geometric.utils.{name}" for name in ("loop", "num_nodes", "sparse")))

#: By the id of a module's names: how many there were, how many functions were sought, and which names held one.
_found: dict[int, tuple[int, int, tuple[str, ...]]] = {}


def _names_of(space: dict[str, Any], by_id: Mapping[int, Any], always: bool) -> tuple[str, ...]:
    """Return the names that hold one of some functions.

    Libraries are searched once: they hold tens of thousands of names. They are searched again when names came or went,
    or when a name that held a function holds another value. The user's own modules are searched always.
    """
    size, sought, names = _found.get(id(space), (-1, -1, ()))
    same = (size, sought) == (len(space), len(by_id)) and all(id(space.get(key)) in by_id for key in names)
    if same and not always:
        return names
    names = tuple(compress(space, map(by_id.__contains__, map(id, space.values()))))
    _found[id(space)] = (len(space), len(by_id), names)
    return names


@contextmanager
def patched(
    functions: Collection[Callable[..., Any]],
    replace: Callable[[Callable[..., Any]], Any],
    extra_names: dict[str, Any],
    modules: set[str],
    extended: set[str],
) -> Iterator[None]:
    """Replace functions in all modules that hold them, and set ``extra_names`` in PyG's layers and ``extended``.

    PyG imports its functions by name into many modules; patching one module would miss the others. ``replace`` is
    called once per function that some module holds.
    """
    by_id = {id(function): function for function in functions}
    replacements: dict[int, Any] = {}
    undo: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = []  # module, what it held, names it had not
    try:
        for name, module in list(sys.modules.items()):
            space = getattr(module, "__dict__", None)
            if space is None or not (name == "torch" or name in modules or name.startswith("torch_geometric")):
                continue
            new = {key: space[key] for key in _names_of(space, by_id, always=name in modules)}
            for key, function in new.items():
                if id(function) not in replacements:
                    replacements[id(function)] = replace(function)
                new[key] = replacements[id(function)]
            if name in extended or name.startswith(_WITH_BUILTINS):
                new.update(extra_names)
            if new:
                held = {key: space[key] for key in new if key in space}
                undo.append((space, held, [key for key in new if key not in space]))
                space.update(new)
        yield
    finally:
        for space, held, absent in reversed(undo):
            space.update(held)
            for key in absent:
                del space[key]
