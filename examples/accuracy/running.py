"""Fills the missing cells of the tables."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch
import torch_geometric
from torch import nn
from tqdm import tqdm

from accuracy.columns import COLUMNS, DENSE, FINETUNE_EPOCHS, FINETUNE_LR, Job, NotApplicable, count_parameters
from accuracy.fitting import Recipe
from accuracy.store import Cell, Key, Store
from accuracy.training import train_dense
from accuracy.workloads import Workload
from prune_gnn import latencies
from upscale_fx.analysis.size import size_of
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.errors import UpscaleWarning

#: A latency is the median of as many calls as fit into the seconds, within these bounds.
_TIMED_SECONDS, _FEWEST_RUNS, _MOST_RUNS = 4.0, 5, 50
VERSIONS = f"torch {torch.__version__}, PyG {torch_geometric.__version__}"


@dataclass(frozen=True)
class Ask:
    """The cells to fill of one model on one dataset with one seed.

    Attributes:
        workload: makes the model and its data; called only if a cell is missing.
        keys: the cells, the dense one first.
    """

    workload: Callable[[], Workload]
    keys: Sequence[Key]


@dataclass(frozen=True)
class Settings:
    """How cells are filled.

    Attributes:
        time_limit: seconds after which no new cell is begun; None: no limit.
        latency: also time models; only useful on an idle machine.
        retry_errors: fill cells again that hold an error.
    """

    time_limit: float | None = None
    latency: bool = False
    retry_errors: bool = False


def recipe_text(recipe: Recipe) -> str:
    """Return the recipe as in keys: how models are trained and fine-tuned."""
    values = ", ".join(f"{name} {value:g}" for name, value in asdict(recipe).items())
    return f"{values}; fine-tuning {FINETUNE_EPOCHS:g} of the epochs, {FINETUNE_LR:g} of lr"


def fill(asks: Iterable[Ask], store: Store, settings: Settings) -> int:
    """Fill the missing cells, and store each at once.

    Returns:
        How many cells were filled.
    """
    start, filled = time.perf_counter(), 0
    missing = [(ask, [key for key in ask.keys if _missing(store.cells.get(key), settings)]) for ask in asks]
    total = sum(len(keys) for _, keys in missing)
    with tqdm(total=total, desc="cells", unit="cell", disable=None) as progress:
        for ask, keys in missing:
            if not keys:
                continue
            bench: Bench | None = None
            for key in keys:
                if settings.time_limit is not None and time.perf_counter() - start > settings.time_limit:
                    return filled
                progress.set_postfix_str(f"{key.data} {key.model} {key.seed}: {key.amount:g} {key.column}")
                bench = bench or Bench(ask.workload(), key.seed, store)
                known = store.cells.get(key)
                if known is not None and known.accuracy is not None:  # only its latency is missing
                    store.keep(key, bench.timed(key, known))
                else:
                    store.keep(key, bench.cell(key, settings.latency))
                filled += 1
                progress.update()
    return filled


def _missing(cell: Cell | None, settings: Settings) -> bool:
    if cell is None:
        return True
    if cell.error:
        return settings.retry_errors
    return settings.latency and cell.accuracy is not None and cell.latency is None


class Bench:
    """Fills the cells of one trained model.

    Args:
        workload: the model and its data.
        seed: seed of weights, dropout and draws.
        store: the store of cells and dense models.
    """

    def __init__(self, workload: Workload, seed: int, store: Store) -> None:
        self.workload, self.seed, self.store = workload, seed, store
        self.dense, self.checkpoint = train_dense(workload, seed, store.folder)
        self.fused = workload.fuse(self.dense)
        self.job: Job | None = None

    def cell(self, key: Key, latency: bool) -> Cell:
        """Return a filled cell; an exception of its column becomes the cell's error."""
        start = time.perf_counter()
        job = self._job(key)
        job.notes.clear()
        torch.manual_seed(self.seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UpscaleWarning)
            try:
                compiled = COLUMNS[key.column].make(job)
                cell = measured(compiled, self.workload)
                if latency:
                    cell = replace(cell, latency=self._latency(compiled))
            except NotApplicable as reason:
                cell = Cell(reason=str(reason))
            except Exception as error:  # a column may raise anything; the cell shows it, and the others go on
                cell = Cell(error=f"{type(error).__name__}: {error}")
        if key.column == DENSE:
            job.notes.append(f"{self.checkpoint['epochs']} epochs, {self.checkpoint['seconds']:.0f} s")
        notes = [*job.notes, *(str(warning.message) for warning in caught)]
        seconds = round(time.perf_counter() - start, 2)
        return replace(cell, note="; ".join(notes), seconds=seconds, versions=VERSIONS)

    def timed(self, key: Key, known: Cell) -> Cell:
        """Return an earlier cell with the latency of a model of its shapes added."""
        column = COLUMNS[key.column]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UpscaleWarning)  # told when the cell was filled
            return replace(known, latency=self._latency((column.shape or column.make)(self._job(key))))

    def _job(self, key: Key) -> Job:
        """The job of this amount; columns of one amount share the model of OBS."""
        if self.job is None or self.job.amount != key.amount:
            known = self.store.cells.get(replace(key, column="obs"))
            size = known.parameters if known is not None else None
            self.job = Job(self.workload, self.dense, self.fused, key.amount, self.seed, size)
        return self.job

    def _latency(self, compiled: nn.Module) -> float:
        """Median time of a call divided by that of the fused dense model, in turns."""
        models = [self.fused, compiled.eval()]
        start = time.perf_counter()
        with torch.no_grad():
            self.fused(*self.workload.inputs)
        runs = int(_TIMED_SECONDS / (time.perf_counter() - start) / len(models))
        dense, pruned = latencies(models, self.workload.inputs, min(max(runs, _FEWEST_RUNS), _MOST_RUNS))
        return pruned / dense


def measured(compiled: nn.Module, workload: Workload) -> Cell:
    """Return accuracy, parameters and MACs of a compiled model."""
    macs = size_of(cast(CompiledGNN, compiled)).macs
    return Cell(
        accuracy=workload.accuracy(compiled, "test"),
        parameters=count_parameters(compiled),
        macs=sum(count * rows_of(symbol, workload.rows) for symbol, count in macs.items()),
    )


def rows_of(symbol: str, rows: Mapping[str, float]) -> float:
    """Return how many rows a symbol such as ``N``, ``16B`` or ``E+N`` stands for, given those of single letters.

    Raises:
        ValueError: a letter has no number of rows.
    """
    total = 0.0
    for term in symbol.split("+"):
        times, letter = term[:-1] or "1", term[-1]
        if not times.isdecimal() or letter not in rows:
            raise ValueError(f"cannot count rows of {symbol!r}: known are {', '.join(rows)}")
        total += int(times) * rows[letter]
    return total
