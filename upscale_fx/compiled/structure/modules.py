"""The structure half as a module of the compiled model.

A *part* of the half is a group of arguments, such as ``edge_index`` and ``edge_weight``, with all that is computed from
them and from row counts. Parts share no argument (a ``batch`` that only pooling reads is its own part), so a handle may
hold some parts while a call computes the others from its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex

from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.prepared import PreparedGraph
from upscale_fx.errors import InputError


@dataclass(frozen=True)
class Input:
    """One input of the structure half: an argument, or the number of rows, the dtype or the device of a feature.

    Attributes:
        kind: which of these.
        name: the argument or feature, or an item of one, such as ``x['user']``.
        symbol: for rows, the symbol of the axis.
    """

    kind: Literal["argument", "rows", "dtype", "device"]
    name: str
    symbol: str = ""

    @property
    def identity(self) -> str:
        """The text that identifies it; sizes and dtypes do not depend on the name of the feature."""
        return f"argument {self.name}" if self.kind == "argument" else f"{self.kind} {self.symbol}"


class StructurePart(nn.Module):
    """One part of the structure half.

    Attributes:
        graph: the graph that computes its values, a tuple.
        recipe: a digest of all calls and their arguments; equal for equal computations, in any model.
        arguments: names of the arguments it reads.
        takes: positions of its inputs among those of the structure half.
        summary: the functions it calls.
    """

    def __init__(
        self, graph: CompiledGNN, recipe: str, arguments: tuple[str, ...], takes: tuple[int, ...], summary: str
    ) -> None:
        super().__init__()
        self.graph, self.recipe, self.arguments, self.takes, self.summary = graph, recipe, arguments, takes, summary

    def forward(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Compute the values of the part from all inputs of the structure half."""
        return cast(tuple[Any, ...], self.graph(*(values[place] for place in self.takes)))

    def extra_repr(self) -> str:
        """Show the arguments it reads and the functions it calls."""
        return f"{', '.join(self.arguments)}: {self.summary}"


class StructureModule(nn.Module):
    """The structure half: returns the values of all parts, computed or read from a :class:`PreparedGraph`.

    Attributes:
        parts: the parts; the first is that of ``edge_index``.
        inputs: the inputs of ``forward``, in order.
        model: class name of the model.
    """

    def __init__(self, parts: Sequence[StructurePart], inputs: tuple[Input, ...], model: str) -> None:
        super().__init__()
        self.parts, self.inputs, self.model = nn.ModuleList(parts), inputs, model

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments that a handle may replace."""
        return tuple(entry.name for entry in self.inputs if entry.kind == "argument")

    def all_parts(self) -> list[StructurePart]:
        """Return the parts, typed as StructurePart."""
        return [cast(StructurePart, part) for part in self.parts]

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Return the values of all parts, one after another.

        Raises:
            InputError: an argument is missing, or the handle was made for another graph or model.
        """
        graph = next((value for value in values if isinstance(value, PreparedGraph)), None)
        if graph is None:
            self._refuse_missing(values)
        else:
            self._refuse_other(graph, values)
        tensors = [plain_tensors(value) for value in values]
        results: list[Any] = []
        for part in self.all_parts():
            prepared = None if graph is None else graph.values.get(part.recipe)
            results += part(tensors) if prepared is None else prepared
        return tuple(results)

    def _refuse_missing(self, values: Sequence[Any]) -> None:
        for entry, value in zip(self.inputs, values, strict=True):
            if entry.kind == "argument" and value is None:
                raise InputError(f"argument '{entry.name}' is missing; give it, or a graph from upscale_fx.prepare()")

    def _refuse_other(self, graph: PreparedGraph, values: Sequence[Any]) -> None:
        """Raise an InputError unless the graph was made for this half, this size, this dtype and this device."""
        passed = {
            entry.name: value for entry, value in zip(self.inputs, values, strict=True) if entry.kind == "argument"
        }
        for part in self.all_parts():
            for name in part.arguments:
                value = passed[name]
                if isinstance(value, PreparedGraph) and value is not graph:
                    raise InputError("two prepared graphs are given; prepare one with all arguments of the graph")
                if part.recipe not in graph.values and (value is None or value is graph):
                    raise InputError(self._of_another_model(graph, part, name, value is graph))
                if part.recipe in graph.values and not (value is None or value is graph):
                    raise InputError(
                        f"argument '{name}' is given, but the prepared graph holds one; leave it out, or call "
                        f"upscale_fx.prepare() again to change it"
                    )
        for entry, value in zip(self.inputs, values, strict=True):
            if entry.kind == "rows" and entry.symbol in graph.rows and graph.rows[entry.symbol] != value:
                raise InputError(
                    f"'{entry.name}' has {value} rows, but the graph was prepared for {graph.rows[entry.symbol]}; call "
                    f"upscale_fx.prepare() for this graph"
                )
            prepared = graph.dtype if entry.kind == "dtype" else graph.device
            if entry.kind in ("dtype", "device") and value != prepared:
                raise InputError(
                    f"'{entry.name}' has {entry.kind} {value}, but the graph was prepared for {prepared}; call "
                    f"upscale_fx.prepare() with a model of that {entry.kind}"
                )

    def _of_another_model(self, graph: PreparedGraph, part: StructurePart, name: str, stands_in: bool) -> str:
        if not stands_in and name not in graph.arguments:
            return (
                f"argument '{name}' is missing: the prepared graph holds {', '.join(graph.arguments)} only; give it too"
            )
        how = ", with other options or other results" if part.summary in graph.summary else ""
        return (
            f"the prepared graph was made for another model: it holds {graph.summary} of {', '.join(graph.arguments)} "
            f"for {graph.model}, this {self.model} reads {part.summary} of {', '.join(part.arguments)}{how}; call "
            f"upscale_fx.prepare(compiled, ...) with this one"
        )


def plain_tensors(value: Any) -> Any:
    """Return an argument with an ordinary tensor for every ``torch_geometric.EdgeIndex``.

    The caches of an EdgeIndex (sort order, ``indptr``, permutations) are not used, because they may be stale: it shares
    memory with other tensors, and writes through ``edge_index[1]``, ``as_tensor()``, ``copy_()`` or the tensor it was
    made of do not update its caches. Checking them would cost as much as sorting; a prepared graph saves both.
    """
    if isinstance(value, EdgeIndex):
        return value.as_tensor()
    return value if isinstance(value, Tensor | int) else pytree.tree_map_only(EdgeIndex, plain_tensors, value)


def structure_of(module: nn.Module) -> StructureModule | None:
    """Return the structure half of a compiled model; None if it has none."""
    return next((child for child in module.children() if isinstance(child, StructureModule)), None)
