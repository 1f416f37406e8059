"""Compute the structure half of a compiled model once, for an input graph that is used many times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import ModelInputs, RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.objects.arguments import matrices_of
from upscale_fx.compiled.objects.matrices import EDGES, holds_matrices, is_matrix
from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.compiled.structure.arguments import GraphArguments, listed
from upscale_fx.compiled.structure.modules import StructureModule, StructurePart, plain_tensors, structure_of
from upscale_fx.errors import InputError


def prepare(compiled: nn.Module, edge_index: Any = None, num_nodes: Any = None, **others: Any) -> PreparedGraph:
    """Compute once what depends on the graph alone: self loops, degrees, normalisation, the order of the edges.

    The result replaces ``edge_index`` in calls of this compiled model, and of other models with the same structure half
    (the same architecture pruned by another amount), also under ``torch.compile(fullgraph=True)``::

        graph = upscale_fx.prepare(compiled, edge_index, x.size(0))
        compiled(x, graph)

    It is a snapshot of its arguments: later writes into them do not change it. Another graph needs another call.

    Args:
        compiled: the result of ``optimize`` or ``prune``, or ``torch.compile`` of it.
        edge_index: the graph: a tensor, a ``torch_geometric.EdgeIndex``, or the dictionary that the model takes. The
            model's argument may have another name (``edge_index_dict``, ``adj_index``, ...). A sparse matrix, if the
            model was traced with one.
        num_nodes: number of nodes; for several types a tuple (source, target) or a dictionary by node type or argument.
        others: further arguments that belong to the graph, by name: ``edge_weight``, ``edge_type``, ``batch``, ...
            Those that the model combines with ``edge_index`` must be given. Calls leave out the arguments given here,
            and pass all others as before.

    Raises:
        InputError: an argument is missing, unknown, does not fit, or requires a gradient; or the model computes nothing
            from the graph alone.
    """
    compiled = getattr(compiled, "_orig_mod", compiled)  # what torch.compile wraps
    structure = structure_of(compiled) if isinstance(compiled, CompiledGNN) else None
    if not isinstance(compiled, CompiledGNN) or structure is None:
        raise InputError(
            f"prepare() takes what optimize() or prune() returned for a model that computes something from its graph "
            f"alone; {type(compiled).__name__} has no such structure half"
        )
    edge_index, others = _of_matrix(inputs_of(compiled), structure, edge_index, others)
    arguments = GraphArguments(inputs_of(compiled))
    if num_nodes is not None:
        arguments.count_nodes(num_nodes)
    for name, value in _by_name(structure, edge_index, num_nodes, others).items():
        arguments.add(name, plain_tensors(value))
    arguments.use_claims()
    parts = _parts(structure, arguments)
    device = _device(compiled, arguments)
    arguments.check_indices()
    return _compute(compiled, structure, parts, arguments, device)


def _of_matrix(
    inputs: ModelInputs, structure: StructureModule, edge_index: Any, others: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return the edges of a sparse matrix, and its weights and sizes among the other arguments."""
    matrices = matrices_of(inputs.objects)
    if len(matrices) != 1 or not (is_matrix(edge_index) or holds_matrices(edge_index)):
        return edge_index, dict(others)
    taken = matrices[0].take(edge_index, "edge_index", structure.arguments)
    return taken.pop(str(matrices[0].parts[EDGES]), None), {**taken, **others}


def _by_name(structure: StructureModule, edge_index: Any, num_nodes: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by the model's names for them."""
    names = structure.arguments
    first = "edge_index" if "edge_index" in names else names[0]
    arguments = {name: value for name, value in others.items() if value is not None}
    if edge_index is not None:
        if first in arguments:
            raise InputError(f"prepare() got '{first}' twice")
        arguments = {first: edge_index, **arguments}
    if "num_nodes" in names and num_nodes is not None and not isinstance(num_nodes, Mapping):
        arguments["num_nodes"] = num_nodes
    unknown = sorted(arguments.keys() - set(names))
    if unknown:
        raise InputError(
            f"{listed(unknown)} is no part of the graph for {structure.model}: prepare() takes {listed(names)} and "
            f"num_nodes; pass features with every call"
        )
    return arguments


def _parts(structure: StructureModule, arguments: GraphArguments) -> list[StructurePart]:
    """Return the parts that can be computed from the arguments, and fill in arguments that are row counts.

    Raises:
        InputError: an argument or a row count is missing.
    """
    parts: list[StructurePart] = []
    for number, part in enumerate(structure.all_parts()):
        specs = {name: arguments.inputs.arguments[name] for name in part.arguments}
        tensors = [name for name, spec in specs.items() if _has(spec, TensorSpec)]
        if number and not any(name in arguments.values for name in tensors):
            continue
        missing = [name for name in tensors if name not in arguments.values]
        if missing:
            raise InputError(
                f"prepare() needs {listed(missing)} too, because {part.summary} reads it{_call(part, arguments)}"
            )
        row_inputs = {structure.inputs[place] for place in part.takes if structure.inputs[place].kind == "rows"}
        counts = {
            leaf.symbol: name for name in specs for leaf in pytree.tree_leaves(specs[name]) if _has(leaf, RowCount)
        }
        for symbol, name in [*((entry.symbol, entry.name) for entry in row_inputs), *counts.items()]:
            if symbol not in arguments.rows:
                raise InputError(
                    f"prepare() needs to know how many rows {name} has, because {part.summary} depends on it; the "
                    f"largest index does not tell, as the last nodes may have no edges{_call(part, arguments)}"
                )
        for name in set(specs) - arguments.values.keys():
            filled = pytree.tree_map_only(RowCount, lambda leaf: arguments.rows[leaf.symbol], specs[name])
            arguments.values[name] = filled
        parts.append(part)
    return parts


def _has(spec: Any, kind: type) -> bool:
    return any(isinstance(leaf, kind) for leaf in pytree.tree_leaves(spec))


def _call(part: StructurePart, arguments: GraphArguments) -> str:
    """Return the call of prepare() that works, for a message."""
    first, *rest = (name for name in part.arguments if _has(arguments.inputs.arguments[name], TensorSpec))
    named = "".join(f", {name}={name}" for name in rest)
    return f": upscale_fx.prepare(compiled, {first}, {arguments.nodes_text()}{named})"


def _device(compiled: CompiledGNN, arguments: GraphArguments) -> torch.device:
    """Return the device of the arguments; raises InputError unless all of them and the model are on one device."""
    devices = {label: leaf.device for label, _, leaf in arguments.leaves() if isinstance(leaf, Tensor)}
    first, first_device = next(iter(devices.items()))
    for label, device in devices.items():
        if device != first_device:
            raise InputError(f"'{first}' is on {first_device}, but '{label}' is on {device}")
    model_device = next((value.device for value in (*compiled.parameters(), *compiled.buffers())), first_device)
    if model_device != first_device:
        raise InputError(f"'{first}' is on {first_device}, but the model is on {model_device}")
    return first_device


def _compute(
    compiled: CompiledGNN,
    structure: StructureModule,
    parts: list[StructurePart],
    arguments: GraphArguments,
    device: torch.device,
) -> PreparedGraph:
    described = [leaf for leaf in pytree.tree_leaves(inputs_of(compiled).arguments) if isinstance(leaf, TensorSpec)]
    dtypes = [*(parameter.dtype for parameter in compiled.parameters()), *(spec.dtype for spec in described)]
    dtype = next((candidate for candidate in dtypes if candidate.is_floating_point), None)
    # Outside inference mode, because tensors made in it cannot be used in training. Copies share no memory.
    with torch.inference_mode(False), torch.no_grad():
        copies = pytree.tree_map_only(Tensor, lambda value: value.clone(), arguments.values)
        constants = {"dtype": dtype, "device": device}
        inputs = [
            copies.get(entry.name)
            if entry.kind == "argument"
            else constants.get(entry.kind, arguments.rows.get(entry.symbol))
            for entry in structure.inputs
        ]
        values = {part.recipe: part(inputs) for part in parts}
    edges = [leaf for _, spec, leaf in arguments.leaves() if isinstance(spec, TensorSpec) and spec.role == "edges"]
    return PreparedGraph(
        num_nodes=arguments.num_nodes,
        num_edges=sum(leaf.shape[1] for leaf in edges),
        arguments=tuple(name for part in parts for name in part.arguments),
        device=device,
        dtype=dtype,
        model=structure.model,
        summary=", ".join(part.summary for part in parts),
        rows=dict(arguments.rows),
        values=values,
    )
