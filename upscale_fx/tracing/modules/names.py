"""Names of layers and parameters that a compiled graph, or a part of one, needs for itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from keyword import iskeyword

from torch import fx, nn

from upscale_fx.compiled.module import make_module
from upscale_fx.compiled.parts import Part
from upscale_fx.errors import TraceError


def check_names(root: nn.Module, graph: fx.Graph, parts: Iterable[str]) -> None:
    """Refuse a model with a layer, parameter or buffer of a name that its graph cannot use or needs for itself.

    Args:
        root: the model.
        graph: its graph, whose reads are checked.
        parts: the paths of the modules that the compiled graph shows.

    Raises:
        TraceError: with the name, and what to do.
    """
    reads = dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module"))
    for path in dict.fromkeys((*parts, *reads)):
        above: list[str] = []
        for name in path.split("."):
            if name in _taken(bool(above)):
                what = "a compiled graph (a torch.fx.GraphModule)" if not above else "a part of a compiled graph"
                raise TraceError(
                    f"cannot trace {type(root).__name__}: self.{'.'.join([*above, name])} has a name that {what} needs "
                    f"for itself; rename the attribute in the model, such as to '{name.strip('_')}_layer'"
                )
            if iskeyword(name) and path in reads:
                raise TraceError(
                    f"cannot trace {type(root).__name__}: self.{'.'.join([*above, name])} is named by a keyword of "
                    f"Python, which the code of a graph cannot spell; rename it in the model, such as to '{name}_layer'"
                )
            above.append(name)


@cache
def _taken(in_part: bool) -> frozenset[str]:
    """The attributes that a graph, or a part of one, has besides those of any module."""
    if in_part:
        return frozenset(dir(Part())) - set(dir(nn.Module()))
    graph = fx.Graph()
    graph.output(())
    return frozenset(dir(make_module(nn.Module(), graph, {}, False))) - set(dir(nn.Module()))
