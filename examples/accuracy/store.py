"""Finished cells, one line of JSON each, appended at once, so that a stopped run loses nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Key:
    """The key of a cell of the tables.

    Attributes:
        model: name of the model.
        data: name of the data.
        seed: seed of weights, dropout and draws.
        amount: share of channels to remove; 0 for the dense model.
        column: name of the column.
        recipe: how all models were trained; other recipes have other cells.
    """

    model: str
    data: str
    seed: int
    amount: float
    column: str
    recipe: str


@dataclass(frozen=True)
class Cell:
    """The content of a cell: numbers, or the reason why there are none, or an error.

    Attributes:
        accuracy: share of the test part whose class is predicted.
        parameters: number of parameter entries.
        macs: multiply-accumulates of all products with weights, per node or image.
        latency: median time of a call divided by that of the fused dense model, if asked for.
        note: remarks.
        reason: why the column has no model here.
        error: the exception of the column.
        seconds: the time to fill the cell.
        versions: versions of torch and PyG.
    """

    accuracy: float | None = None
    parameters: int | None = None
    macs: float | None = None
    latency: float | None = None
    note: str = ""
    reason: str = ""
    error: str = ""
    seconds: float = 0.0
    versions: str = ""


class Store:
    """Cells in a file of JSON lines; the last line of a cell counts.

    Args:
        folder: the folder of the file `cells.jsonl`; made with the first cell. An unfinished last line of a stopped run
            is dropped.

    Raises:
        ValueError: a line of the file is not a cell; the message has its number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "cells.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        finished = text[: text.rfind("\n") + 1]
        if finished != text:
            self.path.write_text(finished, encoding="utf-8")
        self.cells: dict[Key, Cell] = {}
        for number, line in enumerate(finished.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self.cells[Key(**entry["key"])] = Cell(**entry["cell"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {self.path} is no cell ({error}): delete it, run again") from error

    def keep(self, key: Key, cell: Cell) -> None:
        """Append a cell."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": asdict(key), "cell": asdict(cell)}) + "\n")
        self.cells[key] = cell
