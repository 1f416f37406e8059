"""One flat graph of primitive operations: no structure half, no check of inputs, no in-place calls, no opaque norms."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from upscale_fx.analysis.stages.lowered import LOWERED
from upscale_fx.compiled import functions
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.inputs import RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.structure.modules import StructureModule
from upscale_fx.operators.kernels import memory


def add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """What ``functions.add_linear`` returns, for ``[N, O]``, ``[N, I]`` and ``[O, I]``; ``total`` stays as it is."""
    if not memory.is_steady(x, weight):
        return total + memory.linear(x, weight)
    return torch.addmm(total, x, weight.t())


#: Calls that write over an operand, and what computes the same without.
_PURE: Mapping[Any, Callable[..., Any]] = {
    functions.add_into: operator.add,
    functions.relu_into: torch.relu,
    functions.elu_into: torch.nn.functional.elu,
    functions.add_linear: add_product,
}
#: What stands in names of placeholders for characters of paths.
_IN_NAMES = str.maketrans(dict.fromkeys("[]'\", ().", "_"))


def flat_graph(gm: CompiledGNN) -> fx.Graph:
    """Return the graph of a compiled model, flat; its modules and parameters are found in ``gm`` by their paths.

    The structure half is inlined, functions of ``LOWERED`` are written out, so that it shows what reads whom, dropout
    in eval mode is left out, and in-place calls are replaced by their pure counterparts.
    """
    graph = fx.Graph()
    _copy_into(graph, gm.graph, gm, "", {})
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    return graph


def _copy_into(
    graph: fx.Graph, source: fx.Graph, owner: nn.Module, prefix: str, known: dict[fx.Node, Any]
) -> tuple[Any, ...]:
    """Copy a graph's nodes; placeholders in ``known`` are values already. Return what its output was."""
    results: Any = None
    for node in source.nodes:
        if node in known:
            continue
        if node.target is check_inputs:
            continue
        if node.op == "output":
            results = fx.map_arg(node.args[0], known.__getitem__)
            if not prefix:
                graph.output(results)
            continue
        args, kwargs = fx.map_arg(node.args, known.__getitem__), fx.map_arg(node.kwargs, known.__getitem__)
        with _marked(graph, node):
            known[node] = _copied(graph, node, args, kwargs, owner, prefix)
    return cast(tuple[Any, ...], results)


def _copied(graph: fx.Graph, node: fx.Node, args: Any, kwargs: Any, owner: nn.Module, prefix: str) -> Any:
    """Write one node, or what stands for it."""
    if node.op == "placeholder":
        return _leaf_placeholders(
            graph, inputs_of(cast(CompiledGNN, owner)).arguments.get(str(node.target)), str(node.target)
        )
    if node.op == "get_attr":
        return graph.get_attr(prefix + str(node.target))
    if node.op == "call_module":
        module = owner.get_submodule(str(node.target))
        if isinstance(module, StructureModule):
            return _inlined_structure(graph, module, f"{prefix}{node.target}.", args)
        if isinstance(module, nn.modules.dropout._DropoutNd) and not module.training:
            return args[0]
        return graph.call_module(prefix + str(node.target), args, kwargs)
    if node.op == "call_method":
        return graph.call_method(str(node.target), args, kwargs)
    if node.target is operator.getitem and isinstance(args[0], tuple | list | Mapping):
        return args[0][args[1]]
    target: Any = node.target
    if target in LOWERED:
        lowered = LOWERED[target](lambda function, *a, **k: graph.call_function(function, a, k), *args, **kwargs)
        if lowered is not None:
            return lowered
    return graph.call_function(_PURE.get(target, target), args, kwargs)


def _leaf_placeholders(graph: fx.Graph, spec: Any, path: str) -> Any:
    """One placeholder per leaf of an argument, in the argument's own containers; constants are written in."""
    if isinstance(spec, Mapping):
        return {key: _leaf_placeholders(graph, value, f"{path}[{key!r}]") for key, value in spec.items()}
    if isinstance(spec, tuple | list):
        return type(spec)(_leaf_placeholders(graph, value, f"{path}[{n}]") for n, value in enumerate(spec))
    if not isinstance(spec, TensorSpec | RowCount):
        return spec
    node = graph.placeholder(path.translate(_IN_NAMES))
    node.target = path
    return node


def _inlined_structure(graph: fx.Graph, module: StructureModule, prefix: str, args: Any) -> list[Any]:
    """Write out all parts of the structure half; return their results one after another."""
    results: list[Any] = []
    for number, part in enumerate(module.all_parts()):
        values = [args[place] for place in part.takes]
        inner = part.graph.graph
        known = dict(zip((n for n in inner.nodes if n.op == "placeholder"), values, strict=True))
        results += _copy_into(graph, inner, part.graph, f"{prefix}parts.{number}.graph.", known)
    return results


@contextmanager
def _marked(graph: fx.Graph, node: fx.Node) -> Iterator[None]:
    """Let all nodes written here say where the model computes them."""
    before = set(graph.nodes)
    yield
    for new in graph.nodes:
        if new not in before:
            new.meta = {key: node.meta[key] for key in ("module", "source") if key in node.meta}
