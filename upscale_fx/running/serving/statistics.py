"""What a server did: rows, edges and multiply-adds, by stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Sequence
from typing import Any, SupportsIndex, TypeVar

from upscale_fx.passes.cut_stages import Stage

_T = TypeVar("_T")


class ByStage(tuple[_T, ...]):
    """One value per stage, in the order of ``stages()``: a tuple that also takes the names of stages."""

    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str], values: Iterable[_T]) -> ByStage[_T]:
        """Make it from names and values, in order."""
        made = super().__new__(cls, values)
        made.names = tuple(names)
        return made

    def __getitem__(self, key: Any) -> Any:
        """Return a value by its place, or by the name of its stage."""
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> KeysView[str]:
        """The names of the stages."""
        return dict.fromkeys(self.names).keys()

    def values(self) -> Iterator[_T]:
        """The values, in order."""
        return iter(self)

    def items(self) -> Iterator[tuple[str, _T]]:
        """Names and values."""
        return zip(self.names, self, strict=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return ByStage, (self.names, tuple(self))

    def __repr__(self) -> str:
        return "(" + ", ".join(f"{name}: {value}" for name, value in self.items()) + ")"

    def index(self, value: Any, start: SupportsIndex = 0, stop: SupportsIndex = 1 << 62) -> int:
        """The place of a value."""
        return tuple(self).index(value, start, stop)


class Stats:
    """Counts since the server was made, or since ``reset_stats()``.

    Attributes:
        edges_read: edges that were gone along.
        macs: multiply-adds, without padding.
        bytes: bytes of rows read from the store, with padding.
        hits: answers, or parts of large ones, that needed no row to be computed first.
        answers: questions.
        updates: versions.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._places = {stage.name: place for place, stage in enumerate(stages)}
        self._read, self._computed, self._forgotten = ([0] * len(stages) for _ in range(3))
        self.edges_read = self.hits = self.answers = self.updates = self.bytes = 0
        self.macs = 0.0

    @property
    def rows_read(self) -> ByStage[int]:
        """By stage, rows read from the store, with padding."""
        return ByStage(tuple(self._places), self._read)

    @property
    def rows_computed(self) -> ByStage[int]:
        """By stage, rows computed, without padding."""
        return ByStage(tuple(self._places), self._computed)

    @property
    def rows_forgotten(self) -> ByStage[int]:
        """By stage, rows that were held and are forgotten because they may differ."""
        return ByStage(tuple(self._places), self._forgotten)

    def count_read(self, stage: str, rows: int, row_bytes: int) -> None:
        """Count rows of a stage that are read."""
        self._read[self._places[stage]] += rows
        self.bytes += rows * row_bytes

    def count_forgotten(self, stage: str, rows: int) -> None:
        """Count rows of a stage that are forgotten."""
        self._forgotten[self._places[stage]] += rows

    def count_computed(self, stage: Stage, rows: int, edges: int) -> None:
        """Count one run of a stage: rows of targets, and edges without the loops that the model adds."""
        self._computed[self._places[stage.name]] += rows
        self.edges_read += edges
        self.macs += stage.macs_per_node * rows + stage.macs_per_edge * (edges + rows * len(stage.loops))

    def __repr__(self) -> str:
        names = ("rows_read", "rows_computed", "rows_forgotten", "edges_read", "macs", "bytes", "hits", "answers")
        return f"Stats({', '.join(f'{name}={getattr(self, name)!r}' for name in names)}, updates={self.updates})"
