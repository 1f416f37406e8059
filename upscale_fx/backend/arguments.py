"""The inputs of Dynamo's graph: arguments of the call, sizes, and values that a model holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch._dynamo.source import NNModuleSource, TensorPropertySource

from upscale_fx.compiled.calls import target_name
from upscale_fx.errors import InputError, ModeError, TraceError

#: Containers of modules; not part of a parameter's name.
_CONTAINERS = ("_modules", "_parameters", "_buffers", "__dict__")
#: Functions that switch gradients off and on; without gradients they do nothing.
GRADIENT_MODES = {"_set_grad_enabled", "_inference_mode", "_enter_inference_mode", "_exit_inference_mode"}
#: Attributes in which Dynamo's sources store a step of the path.
_STEPS = ("member", "index", "local_name", "global_name")


@dataclass(frozen=True)
class Argument:
    """One input of Dynamo's graph.

    Attributes:
        place: its position among the inputs.
        kind: ``"given"`` (an argument of the call), ``"held"`` (a parameter, buffer or number of a model, or a number
            passed as an argument: these are built in), or ``"count"`` (the size of an axis of an argument).
        name: the path of a parameter in the model, or the unique name of an argument.
        path: the steps from the call's own arguments, or from the model, to it.
        owner: the variable of the model that holds it; empty for arguments.
        sizes: for each axis a number, or the name of its symbol; for an integer, its own symbol alone.
        integer: whether it is an integer, not a tensor.
        number: whether it is a Python number that Dynamo passes as a tensor.
    """

    place: int
    kind: str
    name: str
    path: tuple[Any, ...]
    owner: str = ""
    sizes: tuple[int | str, ...] = ()
    integer: bool = False
    number: bool = False


def arguments_of(gm: fx.GraphModule, values: Sequence[Any]) -> list[Argument]:
    """All inputs of the graph, in order.

    Raises:
        InputError: the graph does not come from Dynamo.
        TraceError: a model holds a tensor that has a row per node or edge.
    """
    nodes = [node for node in gm.graph.nodes if node.op == "placeholder"]
    if len(nodes) != len(values) or any("grapharg" not in node.meta for node in nodes):
        raise InputError(
            "backend='upscale' takes the graphs that torch.compile captures; for a GraphModule of your own call "
            "upscale_fx.prune"
        )
    arguments = [_argument(node, place, value) for place, (node, value) in enumerate(zip(nodes, values, strict=True))]
    for argument in arguments:
        if argument.kind == "held" and not argument.integer and any(isinstance(size, str) for size in argument.sizes):
            raise TraceError(
                f"the model holds a tensor that has a row per node or edge ('{argument.name}'): a layer that caches "
                f"its graph (cached=True) is for one graph alone. Construct it with cached=False"
            )
    return _named(arguments)


def check_no_gradients(gm: fx.GraphModule, arguments: Sequence[Argument], values: Sequence[Any]) -> None:
    """Raise a ModeError where a gradient is required that the pruned graph does not have."""
    if not torch.is_grad_enabled():
        return
    trained = [a.name for a in arguments if a.kind == "held" and getattr(values[a.place], "requires_grad", False)]
    if trained:
        raise ModeError(
            f"backend='upscale' prunes copies of the parameters, so gradients would not reach the model's own, of "
            f"which {len(trained)} require them ('{trained[0]}', ...). For inference call the compiled model under "
            f"torch.no_grad() or torch.inference_mode(); to train, fine-tune upscale_fx.prune(model, amount) and "
            f"compile that with another backend"
        )
    requiring = [a.name for a in arguments if getattr(values[a.place], "requires_grad", False)]
    if requiring and any(target_name(node.target) in GRADIENT_MODES for node in gm.graph.nodes):
        raise ModeError(
            f"forward() switches gradients off or on, which backend='upscale' ignores, but '{requiring[0]}' requires "
            f"them; call the compiled model under torch.no_grad()"
        )


def _argument(node: fx.Node, place: int, value: Any) -> Argument:
    graph_argument = node.meta["grapharg"]
    chain = [graph_argument.source]
    while (base := getattr(chain[-1], "base", None)) is not None:
        chain.append(base)
    if isinstance(graph_argument.source, TensorPropertySource):
        return Argument(place, "count", "", (), sizes=(_size(value),))
    integer, number = not isinstance(value, Tensor), graph_argument.pass_arg_as_tensor
    sizes = (_size(value),) if integer else tuple(map(_size, node.meta["example_value"].shape))
    modules = [link for link in chain if isinstance(link, NNModuleSource)]
    if modules or isinstance(value, nn.Parameter):
        outermost = chain.index(modules[-1]) if modules else len(chain) - 1
        path = tuple(step for step in _steps(chain[:outermost]) if step not in _CONTAINERS)
        owner = ".".join(map(str, _steps(chain[outermost:])))
        name = ".".join(map(str, path or ("value",)))
        return Argument(place, "held", name, path, owner, sizes, integer, number)
    path, kind = _steps(chain), "held" if number else "given"
    return Argument(place, kind, f"_given_{_identifier(path)}", path, "", sizes, integer, number)


def _steps(chain: Sequence[Any]) -> tuple[Any, ...]:
    steps = [getattr(link, name) for link in reversed(chain) for name in _STEPS if hasattr(link, name)]
    return tuple(step if isinstance(step, str | int | tuple) else str(step) for step in steps)


def _size(size: int | SymInt) -> int | str:
    if isinstance(size, SymInt):
        expression = size.node.expr  # a number where Dynamo specialised it later
        return int(expression) if expression.is_number else str(expression)
    return int(size)


def concrete_values(values: Sequence[Any]) -> list[Any]:
    """The inputs of a call with integers for symbols (reading a symbol's value itself would add a guard)."""
    return [value.node.hint if isinstance(value, SymInt) else value for value in values]


def _named(arguments: list[Argument]) -> list[Argument]:
    """Give every argument a unique name: the last word of its path, or the whole path if two share that word."""
    owners = {argument.owner for argument in arguments if argument.owner}
    words = [_word(argument.path) for argument in arguments if argument.kind == "given"]
    named = []
    for argument in arguments:
        name = argument.name
        if argument.owner and len(owners) > 1:
            name = f"{argument.owner}.{name}"
        elif argument.kind == "given":
            word = _word(argument.path)
            name = _identifier(argument.path) if words.count(word) > 1 or not word else word
        named.append(replace(argument, name=name))
    return named


def _word(path: tuple[Any, ...]) -> str:
    """``x`` for ``L['x']``, ``kwargs['x']`` and ``data.x``; ``args_0`` for ``args[0]``."""
    last = max((place for place, step in enumerate(path) if isinstance(step, str)), default=0)
    return _identifier(path[last:])


def _identifier(steps: Sequence[Any]) -> str:
    words = [part for step in steps for part in (step if isinstance(step, tuple) else (step,))]
    text = "_".join(str(word) for word in words)
    name = "".join(letter if letter.isalnum() else "_" for letter in text).strip("_")
    return f"{name}_" if iskeyword(name) else name
