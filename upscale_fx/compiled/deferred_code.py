"""GraphModules whose Python code is made on demand: graphs between two passes are analysed, but not called.

``torch.fx`` writes and compiles the code of a graph whenever it makes a module, which takes longer than most passes.
Under :func:`code_when_called` this waits until the module is called or its code is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import fx
from torch.jit._trace import TracerWarning

from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.guards.listed_nodes import ListedNode, changes, list_nodes

_waiting: ContextVar[bool] = ContextVar("waiting", default=False)


@contextmanager
def code_when_called() -> Iterator[None]:
    """Within the block, new modules get no code until it is needed."""
    token = _waiting.set(True)
    try:
        yield
    finally:
        _waiting.reset(token)


class DeferredCode(fx.GraphModule):
    """A GraphModule whose code may be made later, from the graph as it is then."""

    def recompile(self) -> Any:
        """Make the code of the graph again, now or on demand."""
        if not _waiting.get():
            return self.write_code()
        type(self).forward = _first_call
        return None

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        # The call under torch.jit.trace, whose warnings of the checks of arguments say nothing of what is computed.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=TracerWarning, module=check_inputs.__module__)
            return super()._slow_forward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def changes_without_code(self) -> str:
        """Say what was changed in the graph since its code was made; empty if it does what the graph says."""
        if type(self).forward is _first_call:
            return ""
        return changes(self._coded, list_nodes(self.graph))

    def make_code(self) -> None:
        """Make the code now if it does not exist yet."""
        for part in self.modules():  # a graph may call others
            if isinstance(part, DeferredCode) and type(part).forward is _first_call:
                part.write_code()

    def write_code(self) -> Any:
        """Write the code of the graph as it is now."""
        graph = self.__dict__["_graph"]
        self._coded: tuple[ListedNode, ...] = list_nodes(graph)
        self.__dict__["_graph"] = self.graph_of_code()  # FX writes the code of the graph that it finds there
        try:
            return super().recompile()
        finally:
            self.__dict__["_graph"] = graph

    def graph_of_code(self) -> fx.Graph:
        """The graph whose code is written: one that computes the same."""
        graph: fx.Graph = self.__dict__["_graph"]
        return graph

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
