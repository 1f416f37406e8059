"""The graph that a server answers about: features, edges and their values, as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch_geometric.data.data import BaseData

from upscale_fx.analysis.stages.run import leaves
from upscale_fx.compiled.batches import arguments_of
from upscale_fx.compiled.inputs import RowCount, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.objects.arguments import has_objects, taken_apart
from upscale_fx.compiled.signatures import signature_of
from upscale_fx.errors import InputError
from upscale_fx.running.serving.graph.edge_table import EdgeTable
from upscale_fx.running.serving.naming import Naming
from upscale_fx.running.serving.rows import NodeRows


class ServedGraph:
    """The arguments of a model, as a graph that changes.

    Attributes:
        nodes: by symbol.
        edges: by path of the argument.
        arguments: by path, all other arguments: constants, and tensors without rows.
    """

    def __init__(self, gm: CompiledGNN, naming: Naming, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.gm, self.naming = gm, naming
        named = named_arguments(gm, args, kwargs)
        specs = inputs_of(gm).arguments
        missing = [name for name, spec in specs.items() if _has_tensors(spec) and named.get(name) is None]
        if missing:
            raise InputError(
                f"argument '{missing[0]}' is missing: a server takes the arguments of the model's forward()"
            )
        values = dict(leaves({name: named[name] for name in specs if name in named}))
        unknown = [name for name, value in named.items() if name not in specs and value is not None]
        if unknown:
            raise InputError(f"argument '{unknown[0]}' was None when this graph was traced and cannot be given now")
        self.nodes = {
            symbol: NodeRows({path: _checked(values, path, spec) for path, spec in kind.inputs.items()})
            for symbol, kind in naming.nodes.items()
        }
        self._check_counts(values)
        self.edges = {
            path: EdgeTable(
                _checked(values, path, dict(leaves(specs))[path]),
                self.nodes[kind.ends[0]].count,
                self.nodes[kind.ends[1]].count,
                {name: _checked(values, at, spec) for name, (at, spec) in kind.values.items()},
            )
            for path, kind in naming.edges.items()
        }
        known = {path for kind in naming.nodes.values() for path in kind.inputs} | naming.edges.keys()
        known |= {at for kind in naming.edges.values() for at, _ in kind.values.values()}
        self.arguments = {path: value for path, value in values.items() if path not in known}

    def _check_counts(self, values: Mapping[str, Any]) -> None:
        for symbol, kind in self.naming.nodes.items():
            counts = {path: values[path].size(0) for path in kind.inputs}
            if len(set(counts.values())) > 1:
                raise InputError(f"arguments have different numbers of nodes of {kind.name!r}: {counts}")
            if not self.nodes[symbol].count:
                raise InputError(f"there are no nodes of {kind.name!r}; a server starts with a graph that has some")

    def leaf(self, path: str, spec: Any) -> Any:
        """One argument as it is now."""
        if isinstance(spec, RowCount):
            return self.nodes[spec.symbol].count if spec.symbol in self.nodes else self.arguments[path]
        if path in self.edges:
            return self.edges[path].edge_index().to(spec.dtype)
        for symbol, kind in self.naming.nodes.items():
            if path in kind.inputs:
                return self.nodes[symbol].all_rows(path).clone()
        for at, edge in self.naming.edges.items():
            for name, (place, _) in edge.values.items():
                if place == path:
                    return self.edges[at].values()[name]
        return self.arguments.get(path, spec)

    def by_path(self) -> dict[str, Any]:
        """All arguments as they are now, by path."""
        return {path: self.leaf(path, spec) for path, spec in leaves(inputs_of(self.gm).arguments)}

    def inputs(self) -> tuple[Any, ...]:
        """All arguments as the compiled model takes them, in order."""
        named = {name: _nested(spec, name, self.leaf) for name, spec in inputs_of(self.gm).arguments.items()}
        placeholders = [node for node in self.gm.graph.nodes if node.op == "placeholder"]
        return tuple(named.get(str(node.target), _default(node)) for node in placeholders)

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Everything that changes, as arrays by name."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for symbol, rows in self.nodes.items():
            alive, inputs = rows.state()
            arrays[f"nodes/{symbol}/alive"] = alive
            arrays |= {f"nodes/{symbol}/{path}": _bytes(value) for path, value in inputs.items()}
        for path, table in self.edges.items():
            arrays |= {f"edges/{path}/{name}": array for name, array in table.state().items()}
        return arrays

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take the state that another process kept."""
        for symbol, kind in self.naming.nodes.items():
            alive = np.asarray(arrays[f"nodes/{symbol}/alive"])
            inputs = {}
            for path, spec in kind.inputs.items():
                old = self.nodes[symbol].all_rows(path)
                raw = np.asarray(arrays[f"nodes/{symbol}/{path}"])
                inputs[path] = torch.from_numpy(raw.copy()).view(spec.dtype).view(len(alive), *old.shape[1:])
            self.nodes[symbol] = NodeRows.from_state(alive, inputs)
        for path in self.edges:
            start = f"edges/{path}/"
            state = {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
            self.edges[path] = EdgeTable.from_state(state)


def named_arguments(gm: CompiledGNN, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a compiled model by their names; objects are taken apart."""
    inputs = inputs_of(gm)
    if len(args) == 1 and isinstance(args[0], BaseData) and not inputs.objects:
        args, more = arguments_of(args[0], gm)
        kwargs = {**more, **kwargs}
    if inputs.objects and has_objects(args, kwargs, inputs.objects):
        return taken_apart(inputs.objects, inputs.call, inputs.arguments, args, kwargs)[0]
    try:
        return dict(signature_of(gm).bind(*args, **kwargs).arguments)
    except TypeError as error:
        names = ", ".join(name for name, spec in inputs.arguments.items() if _has_tensors(spec))
        raise InputError(f"{error}: a server takes the graph, as in Server(compiled, {names})") from None


def _nested(spec: Any, path: str, leaf: Any) -> Any:
    if isinstance(spec, Mapping):
        return {key: _nested(value, f"{path}[{key!r}]", leaf) for key, value in spec.items()}
    if isinstance(spec, tuple | list):
        return type(spec)(_nested(value, f"{path}[{n}]", leaf) for n, value in enumerate(spec))
    return leaf(path, spec)


def _default(node: fx.Node) -> Any:
    return node.args[0] if node.args else None


def _has_tensors(spec: Any) -> bool:
    return any(isinstance(leaf, TensorSpec) for _, leaf in leaves({"": spec}))


def _checked(values: Mapping[str, Any], path: str, spec: TensorSpec) -> Tensor:
    """Return an argument, if it is a tensor of the dtype and the sizes that the graph takes, without NaN."""
    if path not in values:
        raise InputError(f"argument '{path}' is missing: a server takes the arguments of the model's forward()")
    return checked_rows(values[path], path, spec)


def checked_rows(value: Any, name: str, spec: TensorSpec) -> Tensor:
    """Return rows, if they have the dtype and the sizes that the graph takes, and no NaN; else raise an InputError."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(value).__name__}")
    if spec.role == "edges":
        return value
    if value.dtype != spec.dtype:
        raise InputError(f"{name} must be {spec.dtype}, as when the graph was traced, got {value.dtype}")
    shape = tuple(value.shape)
    if len(shape) != len(spec.axes) or any(
        isinstance(axis, int) and size != axis for axis, size in list(zip(spec.axes, shape, strict=False))[1:]
    ):
        expected = ", ".join("any" if isinstance(axis, str) else str(axis) for axis in spec.axes)
        raise InputError(f"{name} must have the shape [{expected}], got {list(shape)}")
    if value.is_floating_point() and bool(torch.isnan(value).any()):
        row = int(torch.isnan(value).reshape(len(value), -1).any(1).nonzero()[0])
        raise InputError(f"{name} has NaN in row {row}; a server refuses it, because every answer that reads it is NaN")
    return value.detach()


def _bytes(value: Tensor) -> np.ndarray[Any, Any]:
    return value.contiguous().view(torch.uint8).numpy().reshape(-1) if value.numel() else np.zeros(0, np.uint8)


def empty_graph(gm: CompiledGNN, naming: Naming) -> ServedGraph:
    """A graph of example arguments, to be replaced by one that a store holds."""
    example = inputs_of(gm).example({"N": 7, "E": 9, "B": 1})
    return ServedGraph(gm, naming, (), example)
