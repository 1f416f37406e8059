"""What the inputs of Dynamo's graph are: arguments of the call, sizes, or what a model holds."""

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

#: Containers of modules; no part of a parameter's name.
_CONTAINERS = ("_modules", "_parameters", "_buffers", "__dict__")
#: Functions that switch gradients off and on; nothing where nobody asks for any.
GRADIENT_MODES = {"_set_grad_enabled", "_inference_mode", "_enter_inference_mode", "_exit_inference_mode"}
#: How sources name the step they take.
_STEPS = ("member", "index", "local_name", "global_name")


@dataclass(frozen=True)
class Argument:
    """One input of Dynamo's graph.

    Attributes:
        place: where it stands among the inputs.
        kind: ``"given"`` (an argument of the call), ``"held"`` (parameter, buffer or number of a model, and numbers
            given as arguments, which are built in), or ``"count"`` (the size of an axis of an argument).
        name: of a parameter its path in the model, of an argument a name of its own.
        path: the steps from the call's own arguments, or from the model, to it.
        owner: of what a model holds, the variable that model is in.
        sizes: a number per axis, or the name of the symbol that stands for it; of an integer its own symbol alone.
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
    found = [_argument(node, place, value) for place, (node, value) in enumerate(zip(nodes, values, strict=True))]
    for argument in found:
        if argument.kind == "held" and not argument.integer and any(isinstance(size, str) for size in argument.sizes):
            raise TraceError(
                f"the model holds a tensor that has a row per node or edge ('{argument.name}'): a layer that caches "
                f"its graph (cached=True) is for one graph alone. Construct it with cached=False"
            )
    return _named(found)


def check_no_gradients(gm: fx.GraphModule, arguments: Sequence[Argument], values: Sequence[Any]) -> None:
    """Raise a ModeError where a gradient could be asked for that the pruned graph does not have."""
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
    wanted = [a.name for a in arguments if getattr(values[a.place], "requires_grad", False)]
    if wanted and any(target_name(node.target) in GRADIENT_MODES for node in gm.graph.nodes):
        raise ModeError(
            f"forward() switches gradients off or on, which backend='upscale' leaves out, but '{wanted[0]}' requires "
            f"them; call the compiled model under torch.no_grad()"
        )


def _argument(node: fx.Node, place: int, value: Any) -> Argument:
    given = node.meta["grapharg"]
    chain = [given.source]
    while (base := getattr(chain[-1], "base", None)) is not None:
        chain.append(base)
    if isinstance(given.source, TensorPropertySource):
        return Argument(place, "count", "", (), sizes=(_size(value),))
    integer, number = not isinstance(value, Tensor), given.pass_arg_as_tensor
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
    found = [getattr(link, name) for link in reversed(chain) for name in _STEPS if hasattr(link, name)]
    return tuple(step if isinstance(step, str | int | tuple) else str(step) for step in found)


def _size(size: int | SymInt) -> int | str:
    if isinstance(size, SymInt):
        expression = size.node.expr  # a number where Dynamo found out later that it must be
        return int(expression) if expression.is_number else str(expression)
    return int(size)


def plain_values(values: Sequence[Any]) -> list[Any]:
    """The inputs as they are in a call: integers, not symbols (of which asking for the value would be a guard)."""
    return [value.node.hint if isinstance(value, SymInt) else value for value in values]


def _named(found: list[Argument]) -> list[Argument]:
    """Give every argument a name of its own: the last word on its path, or all of it where that is taken."""
    owners = {argument.owner for argument in found if argument.owner}
    words = [_word(argument.path) for argument in found if argument.kind == "given"]
    named = []
    for argument in found:
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
    plain = "".join(letter if letter.isalnum() else "_" for letter in text).strip("_")
    return f"{plain}_" if iskeyword(plain) else plain
