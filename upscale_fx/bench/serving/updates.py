"""Durable transactions of random edges: lazily, eagerly, and eagerly by differences."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import upscale_fx
from upscale_fx.bench.columns import Case
from upscale_fx.bench.serving.spec import ServingSpec

#: How rows become right again, by the options of a server.
WAYS: dict[str, dict[str, Any]] = {"lazily": {}, "eagerly": {"eager": True}, "incrementally": {"incremental": True}}


@dataclass
class Updates:
    """The measurements of one way.

    Attributes:
        edges: of each transaction.
        seconds: of each transaction, until it is durable and, unless lazily, every row is right again.
        first: seconds of the first answer afterwards, for 64 random nodes.
        rows: rows that each transaction makes stale, of all stages.
        verified: the largest difference of stored rows to rows that are computed again, at the end.
    """

    edges: int
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    verified: float = 0.0

    def rates(self) -> tuple[float, float]:
        """Edges per second: of all transactions together, and of the median one."""
        return self.edges * len(self.seconds) / sum(self.seconds), self.edges / float(np.median(self.seconds))


def measure(
    case: Case, spec: ServingSpec, folder: Path | None, step: Callable[[str], object] = lambda _: None
) -> dict[str, Updates]:
    """Commit transactions, all ways in turns; each finds all rows computed; ``step`` is called once per transaction."""
    compiled = case.compiled(spec.amount)
    nodes = case.graph.num_nodes
    random = np.random.default_rng(spec.seed)
    found = {way: Updates(spec.transaction_edges) for way in WAYS}
    with tempfile.TemporaryDirectory(dir=folder, prefix="upscale_fx-bench-") as scratch:
        servers = {
            way: upscale_fx.Server(
                compiled, case.graph.x, case.graph.edge_index, store=str(Path(scratch, way)), **options
            )
            for way, options in WAYS.items()
        }
        try:
            for _ in range(spec.transactions):
                asked = torch.from_numpy(random.integers(nodes, size=64))
                edges = torch.from_numpy(random.integers(nodes, size=(2, spec.transaction_edges)))
                for way, server in servers.items():
                    server.warm()
                    server.reset_stats()
                    start = time.perf_counter()
                    server.add_edges(edges)
                    found[way].seconds.append(time.perf_counter() - start)
                    found[way].rows.append(sum(server.stats.rows_forgotten.values()))
                    start = time.perf_counter()
                    server(asked)
                    found[way].first.append(time.perf_counter() - start)
                step(f"{case.name}, durable updates")
            for way, server in servers.items():
                found[way].verified = server.verify(256)
        finally:
            for server in servers.values():
                server.close()
    return found
