"""Graphs between two passes are analysed, not called: their Python code is made when it is needed.

``torch.fx`` writes and compiles the code of a graph whenever a module is made of it, which takes longer than most
passes. Under :func:`code_when_called` it waits for the first call, or for whoever reads the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import fx

_waiting: ContextVar[bool] = ContextVar("waiting", default=False)


@contextmanager
def code_when_called() -> Iterator[None]:
    """Graphs made meanwhile have no code until it is needed."""
    token = _waiting.set(True)
    try:
        yield
    finally:
        _waiting.reset(token)


class DeferredCode(fx.GraphModule):
    """A GraphModule whose code may wait; it is that of the graph as it is when it is made."""

    def recompile(self) -> Any:
        """Make the code of the graph anew, now or later."""
        if not _waiting.get():
            return super().recompile()
        type(self).forward = _first_call
        return None

    def make_code(self) -> None:
        """Make the code now, if it still waits."""
        if type(self).forward is _first_call:
            super().recompile()

    @property
    def code(self) -> str:
        """The Python code of the graph."""
        self.make_code()
        return super().code

    def __str__(self) -> str:
        self.make_code()
        return super().__str__()


def _first_call(self: DeferredCode, *args: Any, **kwargs: Any) -> Any:
    self.make_code()
    return self.forward(*args, **kwargs)
