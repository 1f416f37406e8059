"""Where a part of a graph lies, and what to use instead of hooks on it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from upscale_fx.compiled.layers.find import calls_by_owner
from upscale_fx.compiled.record.nodes import NodeRecord, graph_of
from upscale_fx.errors import PartError

#: The methods by which hooks are registered that run in calls.
REGISTERING = (
    "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook", "register_backward_hook",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Place:
    """The place of a part.

    Attributes:
        path: its path.
        called: paths of the modules that the graph calls.
        plain: the nodes of the graph before fusing, if it is fused.
    """

    path: str = ""
    called: Collection[str] = ()
    plain: tuple[NodeRecord, ...] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Place:
        return self

    def refuse(self, what: str) -> NoReturn:
        """Raise a PartError: the graph does not call the part, so ``what`` would have no effect."""
        raise PartError(
            f"'{self.path}' is not called as a module in this graph: its operations are calls of their own, or were "
            f"fused with others, so {what} would never run. {self.advice()}"
        )

    def advice(self) -> str:
        """What to use instead."""
        ways = []
        if self.plain is not None and self.path in _called_before(self.plain):
            ways.append("use the graph before fusing, which calls it: upscale_fx.compact(graph) returns that")
        under = sorted(path for path in self.called if path.startswith(f"{self.path}."))
        if under:
            ways.append(f"use the modules in it that are called ({', '.join(under[:4])}{', ...' * (len(under) > 4)})")
        ways.append("use the whole graph, or look at the values between its calls with torch.fx.Interpreter(graph)")
        return "Instead, " + "; or ".join(ways)


def _called_before(plain: tuple[NodeRecord, ...]) -> set[str]:
    called = {str(node.target) for node in plain if node.op == "call_module"}
    return called | calls_by_owner(graph_of(plain)).keys()


class Refusal:
    """Stands for a method of a module that the graph does not call, and refuses."""

    def __init__(self, place: Place, what: str) -> None:
        self.place, self.what = place, what

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a PartError."""
        self.place.refuse(self.what)


def _hook_text(method: str) -> str:
    """What a method registers, for messages."""
    return f"a {method.removeprefix('register_').replace('_', ' ')}"


def refuse_hooks(module: nn.Module, place: Place) -> None:
    """Let a module that the graph does not call refuse hooks."""
    for method in REGISTERING:
        module.__dict__[method] = Refusal(place, _hook_text(method))


def allow_hooks(module: nn.Module) -> None:
    """Let a module take hooks again."""
    for method in REGISTERING:
        module.__dict__.pop(method, None)
