"""Functions and modules that become one node of the graph: structure work and stateful layers. None mixes channels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
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

from upscale_fx.tracing.proxy import CannotTrace, is_proxy

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

#: The function itself, which is replaced while a model is traced.
ARANGE = torch.arange
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

#: What the trace that is running does with a call: gets the function, its positional and its keyword arguments.
Listener = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_listeners: list[Listener] = []


#: By its id, every function and what stands for it; functions that torch knows by two names are equal, but not one.
_recorders: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def recorder(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands for a function during traces; there is one for all traces, since functions are many."""
    if (known := _recorders.get(id(function))) is not None:
        return known[1]

    def record(*args: Any, **kwargs: Any) -> Any:
        # Other threads may still call it when the trace is over.
        return _listeners[0](function, args, kwargs) if _listeners else function(*args, **kwargs)

    _recorders[id(function)] = function, record
    return record


@contextmanager
def calls_go_to(listener: Listener) -> Iterator[None]:
    """Pass the calls of replaced functions on, within the block.

    Raises:
        CannotTrace: another trace is running.
    """
    if _listeners:
        raise CannotTrace("forward() traces a model itself; trace or prune that one before, and call the result")
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


@dataclass(frozen=True)
class _Held:
    """The functions that a module holds by name, found when it held ``size`` names, and what replaces them."""

    size: int
    functions: dict[str, Any]
    replacements: dict[str, Any]


#: By the id of a module's names. Kept from trace to trace, since libraries hold tens of thousands of names.
_found: dict[int, _Held] = {}
#: The ids of the functions that were sought in them.
_sought: set[int] = set()


def _held_by(space: dict[str, Any], by_id: Mapping[int, Any], always: bool) -> _Held:
    """Return which names of a module hold some functions.

    A library is searched once, and again when names came or went, or when a name that held a function holds another
    value. The user's own modules are searched always.
    """
    held = _found.get(id(space))
    if (
        held is None
        or always
        or held.size != len(space)
        or any(space.get(k) is not v for k, v in held.functions.items())
    ):
        names = compress(space, map(by_id.__contains__, map(id, space.values())))
        functions = {name: space[name] for name in names}
        held = _found[id(space)] = _Held(len(space), functions, {k: recorder(v) for k, v in functions.items()})
    return held


def _is_library(name: str) -> bool:
    return name == "torch" or name.startswith("torch_geometric")


@lru_cache(maxsize=1)
def _libraries(imported: tuple[int, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names of torch's and PyG's modules, with what they hold, given the ids of all imported modules."""
    modules = {name: module for name, module in list(sys.modules.items()) if _is_library(name)}
    return [(name, module.__dict__) for name, module in modules.items() if hasattr(module, "__dict__")]


@contextmanager
def patched(
    functions: Collection[Callable[..., Any]],
    extra_names: dict[str, Any],
    modules: set[str],
    extended: set[str],
) -> Iterator[None]:
    """Replace functions by their recorders where they are held; set ``extra_names`` in PyG's layers and ``extended``.

    PyG imports its functions by name into many modules; patching one module would miss the others.
    """
    by_id = {id(function): function for function in functions}
    if _sought != by_id.keys():  # an operation was registered since
        _found.clear()
        _sought.clear()
        _sought.update(by_id)
    undo: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = []  # module, what it held, names it had not
    try:
        own = [name for name in modules if name in sys.modules and not _is_library(name)]
        libraries = _libraries(tuple(map(id, list(sys.modules.values()))))
        for name, space in (*libraries, *((name, vars(sys.modules[name])) for name in own)):
            held = _held_by(space, by_id, always=name in modules)
            extra = extra_names if name in extended or name.startswith(_WITH_BUILTINS) else {}
            if held.functions or extra:
                before = {key: space[key] for key in extra if key in space}
                undo.append((space, {**held.functions, **before}, [key for key in extra if key not in space]))
                space.update(held.replacements)
                space.update(extra)
        yield
    finally:
        for space, before, absent in reversed(undo):
            space.update(before)
            for key in absent:
                del space[key]


def initial_states_apart(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a module, with initial states of a recurrent one that are values of their own.

    States of an LSTM that another call made as one tuple become two, and a state that is the sequence itself a copy of
    it: the module may lose other channels of the one than of the other.
    """
    if not isinstance(module, nn.RNNBase):
        return args, kwargs
    sequence: Any = args[0] if args else kwargs.get("input")

    def apart(states: Any) -> Any:
        if is_proxy(states) and isinstance(states.pair[0], tuple):
            states = states[0], states[1]
        if isinstance(states, tuple | list):
            return tuple(map(apart, states))
        return states.clone() if is_proxy(states) and is_proxy(sequence) and states.node is sequence.node else states

    return (*args[:1], *map(apart, args[1:])), {k: v if k == "input" else apart(v) for k, v in kwargs.items()}
