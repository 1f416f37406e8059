"""The arguments of one input graph, checked against the model's described arguments: shapes, row counts, indices."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.compiled.check_inputs import check_tensor
from upscale_fx.compiled.inputs import ModelInputs, RowCount, TensorSpec
from upscale_fx.errors import InputError


@dataclass
class GraphArguments:
    """The arguments of one input graph, and the row counts that follow from them.

    Attributes:
        inputs: the description of the model's arguments.
        values: the arguments by name.
        rows: row symbol -> number of rows.
        num_nodes: the numbers of nodes, in the form they were given.
    """

    inputs: ModelInputs
    values: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    num_nodes: Any = None
    _sources: dict[str, str] = field(default_factory=dict)  # row symbol -> the argument that gave its count, as text
    _claimed: dict[str, int] = field(default_factory=dict)  # row counts that are arguments themselves

    def count_nodes(self, num_nodes: Any) -> None:
        """Take numbers of nodes: one, a tuple (source, target), or a dictionary by node type or argument."""
        kinds, labels = self.node_symbols(), symbols_by_label(self.inputs)
        if isinstance(num_nodes, Mapping):
            unknown = [key for key in num_nodes if key not in labels]
            if unknown:
                raise InputError(f"num_nodes has no use for {listed(unknown)}; this model has {listed(labels)}")
            counts = {key: count_of(count, f"num_nodes[{key!r}]") for key, count in num_nodes.items()}
            by_symbol = {labels[key]: (count, f"num_nodes[{key!r}] is {count}") for key, count in counts.items()}
            self.num_nodes = counts
        elif isinstance(num_nodes, tuple | list):
            if len(num_nodes) != len(kinds):
                raise InputError(f"num_nodes={num_nodes!r} has {len(num_nodes)} numbers; pass {self.nodes_text()}")
            self.num_nodes = tuple(count_of(count, "num_nodes") for count in num_nodes)
            by_symbol = {
                symbol: (count, f"num_nodes is {self.num_nodes}")
                for symbol, count in zip(kinds, self.num_nodes, strict=True)
            }
        else:
            self.num_nodes = count_of(num_nodes, "num_nodes")
            if len(kinds) > 1:
                text = f"num_nodes={num_nodes} is one number for several kinds of nodes"
                raise InputError(f"{text}; pass {self.nodes_text()}")
            by_symbol = {"N": (self.num_nodes, f"num_nodes is {self.num_nodes}")}
        for symbol, (count, text) in by_symbol.items():
            self._learn(symbol, count, text)

    def add(self, name: str, value: Any) -> None:
        """Add an argument by name; raises InputError if it does not fit."""
        for label, spec, leaf in self._leaves(name, value):
            if isinstance(spec, TensorSpec):
                _check_leaf(label, spec, leaf)
                for axis, symbol in enumerate(spec.axes):
                    if isinstance(symbol, str):
                        text = f"'{label}' has {leaf.shape[axis]} {'columns' if axis else 'rows'}"
                        self._learn(symbol, leaf.shape[axis], text)
            elif isinstance(spec, RowCount):
                self._claimed.setdefault(spec.symbol, count_of(leaf, f"argument '{label}'"))
            elif leaf != spec:
                raise InputError(f"argument '{label}' was {spec!r} when this graph was traced, got {leaf!r}")
        self.values[name] = value

    def use_claims(self) -> None:
        """Take a row count that is an argument if no tensor gives it; its row symbol is a guess from the example."""
        self.rows = self._claimed | self.rows

    def check_indices(self) -> None:
        """Raise an InputError if an index names a node that does not exist."""
        for label, spec, leaf in self.leaves():
            if isinstance(spec, TensorSpec) and spec.role in ("edges", "batch") and leaf.numel():
                fixed = dict(self.inputs.fixed)
                ends = spec.ends if spec.role == "edges" else ("",)
                for row, end in enumerate(ends):
                    index = leaf[row] if spec.role == "edges" else leaf
                    _check_index(
                        f"'{label}'" + (f"[{row}]" if len(ends) > 1 else ""), index, self.rows.get(end, fixed.get(end))
                    )

    def leaves(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield label, description and value of every leaf of the arguments."""
        for name, value in self.values.items():
            yield from self._leaves(name, value)

    def node_symbols(self) -> list[str]:
        """Return the row symbols of all types of nodes."""
        leaves = [leaf for leaf in pytree.tree_leaves(self.inputs.arguments) if isinstance(leaf, TensorSpec | RowCount)]
        axes = [leaf.axes if isinstance(leaf, TensorSpec) else (leaf.symbol,) for leaf in leaves]
        return sorted({str(axis) for symbols in axes for axis in symbols if str(axis).startswith("N")})

    def nodes_text(self) -> str:
        """Say how to pass the numbers of nodes to this model."""
        symbols = self.node_symbols()
        if len(symbols) < 2:
            return "num_nodes"
        if len(symbols) == 2 and not any(isinstance(spec, dict) for spec in self.inputs.arguments.values()):
            return "num_nodes=(num_source, num_target)"
        labels = {symbol: label for label, symbol in reversed(symbols_by_label(self.inputs).items())}
        return "num_nodes={" + ", ".join(f"{labels[symbol]!r}: ..." for symbol in symbols) + "}"

    def _leaves(self, name: str, value: Any) -> Iterator[tuple[str, Any, Any]]:
        described, shape = pytree.tree_flatten_with_path(self.inputs.arguments[name])
        try:
            leaves = shape.flatten_up_to(value)
        except ValueError as error:
            raise InputError(f"argument '{name}' is not built as it was when this graph was traced: {error}") from None
        for (path, spec), leaf in zip(described, leaves, strict=True):
            yield name + pytree.keystr(path), spec, leaf

    def _learn(self, symbol: str, count: int, text: str) -> None:
        if self.rows.setdefault(symbol, count) != count:
            raise InputError(f"{text}, but {self._sources[symbol]}")
        self._sources.setdefault(symbol, text)


def count_of(value: Any, what: str) -> int:
    """Return a row count as a Python int; raises InputError for anything else."""
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if count < 0 or isinstance(value, bool):
        raise InputError(f"{what} must be a number of rows, got {value!r}")
    return count


def listed(names: Iterable[Any]) -> str:
    """Return names, quoted and separated by commas, for a message."""
    return ", ".join(map(repr, names)) or "nothing"


def symbols_by_label(inputs: ModelInputs) -> dict[Any, str]:
    """Return row symbols by the names that users know: arguments, keys of dictionaries, ``x[0]``, and symbols."""
    symbols: dict[Any, str] = {}
    for name, spec in inputs.arguments.items():
        for path, leaf in pytree.tree_flatten_with_path(spec)[0]:
            if isinstance(leaf, TensorSpec) and leaf.axes and isinstance(leaf.axes[0], str):
                key = getattr(path[-1], "key", None) if path else name
                symbols.setdefault(name + pytree.keystr(path) if key is None else key, leaf.axes[0])
    leaves = [leaf for leaf in pytree.tree_leaves(inputs.arguments) if isinstance(leaf, TensorSpec)]
    return symbols | {axis: axis for leaf in leaves for axis in leaf.axes if isinstance(axis, str)}


def _check_leaf(label: str, spec: TensorSpec, value: Any) -> None:
    check_tensor(value, label, spec.shape)
    assert isinstance(value, Tensor)
    if value.is_floating_point() and not spec.dtype.is_floating_point:
        raise InputError(f"argument '{label}' must be an index of integers, got {value.dtype}")
    if value.requires_grad:
        raise InputError(
            f"argument '{label}' requires a gradient, which a prepared graph cannot pass on: give it with every call "
            f"instead (without a prepared graph if something else depends on it), or detach() it"
        )


def _check_index(label: str, index: Tensor, count: int | None) -> None:
    smallest, largest = (int(bound) for bound in torch.aminmax(index))
    if smallest < 0:
        raise InputError(f"{label} holds {smallest}, which is no index")
    if count is not None and largest >= count:
        raise InputError(f"{label} names node {largest}, but there are {count} nodes (0 to {count - 1})")
