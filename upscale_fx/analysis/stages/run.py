"""Run a flat graph on two example graphs, node by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from upscale_fx.analysis.row_symbols import describe
from upscale_fx.compiled.undisturbed import undisturbed
from upscale_fx.errors import ServerError


def leaves(arguments: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested arguments with their paths, such as ``x_dict['user']``."""
    if isinstance(arguments, Mapping):
        for key, value in arguments.items():
            yield from leaves(value, f"{path}[{key!r}]" if path else str(key))
    elif isinstance(arguments, tuple | list):
        for number, value in enumerate(arguments):
            yield from leaves(value, f"{path}[{number}]")
    else:
        yield path, arguments


def run_flat(gm: nn.Module, graph: fx.Graph, sides: tuple[Any, Any]) -> dict[fx.Node, tuple[Any, Any]]:
    """Return the values of all nodes on two graphs, given as arguments by name."""
    values: dict[fx.Node, tuple[Any, Any]] = {}
    given = [dict(leaves(side)) for side in sides]
    with torch.no_grad(), undisturbed(gm):
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = (given[0].get(str(node.target)), given[1].get(str(node.target)))
            elif node.op == "output":
                values[node] = tuple(map_arg(node.args[0], lambda n, side=side: values[n][side]) for side in (0, 1))  # type: ignore[misc]
            else:
                values[node] = (run_node(gm, node, values, 0), run_node(gm, node, values, 1))
    return values


def run_node(gm: nn.Module, node: fx.Node, values: Mapping[fx.Node, tuple[Any, ...]], side: int) -> Any:
    """Compute one node of a flat graph from the values of one side."""
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return getattr(gm.get_submodule(path), name)
    args = map_arg(node.args, lambda n: values[n][side])
    kwargs = map_arg(node.kwargs, lambda n: values[n][side])
    try:
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Any = gm.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        return function(*args, **kwargs)
    except Exception as error:
        raise ServerError(f"{describe(node)} failed on an example graph: {error}") from error
