"""A stream of changes of a served graph: random edges that come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

import upscale_fx


class Stream:
    """Random edges that are added, and removed by the next change.

    Args:
        server: whose graph changes.
        nodes: how many nodes it has; ends are drawn from all alike.
        edges: edges of one change.
        seed: of the draws.
    """

    def __init__(self, server: upscale_fx.Server, nodes: int, edges: int, seed: int) -> None:
        self._server, self._nodes, self._edges = server, nodes, edges
        self._random = np.random.default_rng(seed)
        self._added: Tensor | None = None

    def draw(self) -> Tensor:
        """Random edges ``[2, edges]``."""
        return torch.from_numpy(self._random.integers(self._nodes, size=(2, self._edges)))

    def change(self) -> float:
        """Make one change; return its seconds."""
        edges, added = self.draw(), self._added
        start = time.perf_counter()
        if added is None:
            self._server.add_edges(edges)
        else:
            self._server.remove_edges(added)
        seconds = time.perf_counter() - start
        self._added = edges if added is None else None
        return seconds

    @contextmanager
    def running(self, rate: float) -> Iterator[None]:
        """Make so many changes per second in another thread; its error is raised at the end."""
        ended, errors = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                while not ended.is_set():
                    ended.wait(max(0.0, 1 / rate - self.change()))
            except BaseException as error:  # of another thread: raised in the caller's
                errors.append(error)

        thread = threading.Thread(target=run, name="stream of updates")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if errors:
            raise errors[0]
