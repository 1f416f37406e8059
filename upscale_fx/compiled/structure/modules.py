"""The half of a compiled model that depends on the graph alone, as one module of it.

A *part* is what belongs together: arguments, such as ``edge_index`` and ``edge_weight``, and what is computed from them
and from row counts. Parts share no argument (a ``batch`` that only pooling reads is a part of its own), so a handle may
hold some of them while the others are computed from the arguments of the call.
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
    """What the structure half reads: an argument, or how many rows, which dtype or which device another one has.

    Attributes:
        kind: which of these.
        name: the argument, or the part of one, such as ``x['user']``.
        symbol: for rows, the symbol of the axis.
    """

    kind: Literal["argument", "rows", "dtype", "device"]
    name: str
    symbol: str = ""

    @property
    def identity(self) -> str:
        """What tells it from other inputs, whatever the features are called that sizes and dtypes are read off."""
        return f"argument {self.name}" if self.kind == "argument" else f"{self.kind} {self.symbol}"


class StructurePart(nn.Module):
    """Structure computed from arguments that belong together.

    Attributes:
        graph: what it computes, a tuple.
        recipe: equal for equal computations, whatever model they are in; a digest of all calls and their arguments.
        arguments: names of the arguments it reads.
        takes: places of its inputs among those of the structure half.
        summary: the functions it calls.
    """

    def __init__(
        self, graph: CompiledGNN, recipe: str, arguments: tuple[str, ...], takes: tuple[int, ...], summary: str
    ) -> None:
        super().__init__()
        self.graph, self.recipe, self.arguments, self.takes, self.summary = graph, recipe, arguments, takes, summary

    def forward(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Compute from all inputs of the structure half."""
        return cast(tuple[Any, ...], self.graph(*(values[place] for place in self.takes)))

    def extra_repr(self) -> str:
        """Show what is read and called."""
        return f"{', '.join(self.arguments)}: {self.summary}"


class StructureModule(nn.Module):
    """The structure half: returns the values of all parts, computed, or read from a :class:`PreparedGraph`.

    Attributes:
        parts: the parts; the first is that of ``edge_index``.
        inputs: what ``forward`` takes, in order.
        model: class name of the model.
    """

    def __init__(self, parts: Sequence[StructurePart], inputs: tuple[Input, ...], model: str) -> None:
        super().__init__()
        self.parts, self.inputs, self.model = nn.ModuleList(parts), inputs, model

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments that a handle may stand in for."""
        return tuple(given.name for given in self.inputs if given.kind == "argument")

    def all_parts(self) -> list[StructurePart]:
        """The parts, by their type."""
        return [cast(StructurePart, part) for part in self.parts]

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """The values of all parts, one after another.

        Raises:
            InputError: an argument is missing, or a handle was made for something else.
        """
        graph = next((value for value in values if isinstance(value, PreparedGraph)), None)
        if graph is None:
            self._refuse_missing(values)
        else:
            self._refuse_other(graph, values)
        plain = [plain_tensors(value) for value in values]
        found: list[Any] = []
        for part in self.all_parts():
            held = None if graph is None else graph.values.get(part.recipe)
            found += part(plain) if held is None else held
        return tuple(found)

    def _refuse_missing(self, values: Sequence[Any]) -> None:
        for given, value in zip(self.inputs, values, strict=True):
            if given.kind == "argument" and value is None:
                raise InputError(f"argument '{given.name}' is missing; give it, or a graph from upscale_fx.prepare()")

    def _refuse_other(self, graph: PreparedGraph, values: Sequence[Any]) -> None:
        """Raise an InputError unless the graph was made for this half, this size, this dtype and this device."""
        given = {one.name: value for one, value in zip(self.inputs, values, strict=True) if one.kind == "argument"}
        for part in self.all_parts():
            for name in part.arguments:
                value = given[name]
                if isinstance(value, PreparedGraph) and value is not graph:
                    raise InputError("two prepared graphs are given; prepare one with all arguments of the graph")
                if part.recipe not in graph.values and (value is None or value is graph):
                    raise InputError(self._of_another_model(graph, part, name, value is graph))
                if part.recipe in graph.values and not (value is None or value is graph):
                    raise InputError(
                        f"argument '{name}' is given, but the prepared graph holds one; leave it out, or call "
                        f"upscale_fx.prepare() again to change it"
                    )
        for one, value in zip(self.inputs, values, strict=True):
            if one.kind == "rows" and one.symbol in graph.rows and graph.rows[one.symbol] != value:
                raise InputError(
                    f"'{one.name}' has {value} rows, but the graph was prepared for {graph.rows[one.symbol]}; call "
                    f"upscale_fx.prepare() for this graph"
                )
            known = graph.dtype if one.kind == "dtype" else graph.device
            if one.kind in ("dtype", "device") and value != known:
                raise InputError(
                    f"'{one.name}' has {one.kind} {value}, but the graph was prepared for {known}; call "
                    f"upscale_fx.prepare() with a model of that {one.kind}"
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
    """An argument with plain tensors in place of ``torch_geometric.EdgeIndex``.

    What an EdgeIndex has cached (its sort order, ``indptr``, permutations) is not used: it does not own its memory, and
    writes through ``edge_index[1]``, ``as_tensor()``, ``copy_()`` or the tensor it was made of leave the cache as it
    was. Checking the cache would cost as much as sorting; a prepared graph saves both.
    """
    if isinstance(value, EdgeIndex):
        return value.as_tensor()
    return value if isinstance(value, Tensor | int) else pytree.tree_map_only(EdgeIndex, plain_tensors, value)


def structure_of(module: nn.Module) -> StructureModule | None:
    """The structure half of a compiled model, if it has one."""
    return next((child for child in module.children() if isinstance(child, StructureModule)), None)
