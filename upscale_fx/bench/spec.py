"""The settings of one run of the benchmark, as data that can be sent to a child process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

#: ``shared/data`` beside the repository.
STORED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Spec:
    """The settings of one run.

    Attributes:
        models: names of :data:`upscale_fx.bench.networks.NETWORKS`.
        amounts: shares of channels that upscale_fx removes.
        graph: name of a stored graph; None for a synthetic one.
        data: folder of stored graphs, with a ``load.py``.
        nodes: nodes of the synthetic graph.
        edges: edges of the synthetic graph.
        dims: widths, input to output; a stored graph has its own first and last one.
        repeats: timed rounds.
        columns: patterns of the columns to measure, in any case; all if empty.
        threads: threads of every library; None leaves their own choice.
        seed: seed of graph and weights.
        device: ``"cpu"`` or ``"cuda"``.
        trainable: measure the result of ``prune``, without ``optimize(..., inference=True)``.
        memory: measure peak memory, each column in a process of its own.
        train: also measure epochs of training.
    """

    models: tuple[str, ...]
    amounts: tuple[float, ...] = (0.0, 0.5, 0.75, 0.875)
    graph: str | None = None
    data: str = str(STORED)
    nodes: int = 169_343
    edges: int = 2_315_598
    dims: tuple[int, ...] = (128, 256, 256, 40)
    repeats: int = 7
    columns: tuple[str, ...] = ()
    threads: int | None = None
    seed: int = 0
    device: str = "cpu"
    trainable: bool = False
    memory: bool = True
    train: bool = False

    def wants(self, column: str) -> bool:
        """Whether a column is asked for."""
        return not self.columns or any(fnmatch(column.lower(), pattern.lower()) for pattern in self.columns)

    def to_json(self) -> str:
        """The settings as text for :func:`from_json`."""
        return json.dumps(asdict(self))


def from_json(text: str) -> Spec:
    """The settings from the text of :meth:`Spec.to_json`."""
    values: dict[str, Any] = json.loads(text)
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Spec(**values)
