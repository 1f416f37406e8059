"""The backend of torch.compile: ``torch.compile(model, backend="upscale", options={"amount": 0.5})``.

Dynamo hands over one graph of torch operations: parameters and the numbers a model holds are inputs of it, and PyG's
functions are inlined. The graph becomes a :class:`~upscale_fx.CompiledGNN` again in four steps, and ``prune`` does the
rest; what is left goes to another backend of torch.compile, ``inductor`` unless ``options["inner"]`` says otherwise.

1. :mod:`arguments <upscale_fx.backend.arguments>`: what each input is: an argument of the call, a size, or something
   that the model holds, with the name it has there.
2. :mod:`captured <upscale_fx.backend.captured>`: the same graph without assertions, guards and symbolic numbers.
3. :mod:`raising <upscale_fx.backend.raising>`: aggregations and softmaxes over edges are PyG's functions again.
4. :mod:`replay <upscale_fx.backend.replay>`: a module that runs the graph. It is compared with the graph as Dynamo gave
   it, and traced like any other model.

**Never an old answer.** What the model holds (parameters, buffers, numbers such as a dropout probability) is built in
when the graph is compiled, so every call compares it, value by value, with what it was then. Whoever changed it and
however (an optimizer, ``load_state_dict``, another Parameter in its place, a write through ``.data``, of which neither
identity nor version tells), the model is pruned anew, with masks chosen from the new values. The comparison reads the
parameters once per call.

**Every size.** Numbers of nodes and edges are dynamic from the first call on, with ``dynamic=True`` or without.

**Inference only.** The pruned parameters are not the model's own, so a gradient could not reach those; compiling with
gradients enabled and parameters that require them raises ModeError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends import registry

from upscale_fx.backend.arguments import arguments_of, check_no_gradients, plain_values
from upscale_fx.backend.dynamic import FixedSizeError, restart, unmark
from upscale_fx.backend.options import parse_options
from upscale_fx.backend.pruned import PrunedGraph
from upscale_fx.backend.whole import check_not_autocast, check_not_compiled, check_whole

__all__ = ["upscale"]


def upscale(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The backend: prune Dynamo's graph and hand it on.

    Args:
        gm: the graph Dynamo captured.
        example_inputs: the inputs of the call that made Dynamo compile.
        options: ``amount`` (default 0: only optimise), ``criterion``, ``inputs``, ``constrained``, ``scope``,
            ``round_to``, ``ignore``, ``approximate_norms`` and ``callback`` as :func:`upscale_fx.prune` takes them, and
            ``inner``, the backend that the pruned graph goes to: a name (``"inductor"``, ``"aot_eager"``, ``"eager"``)
            or a callable.
        mode: not taken; an error says so.

    Returns:
        A function of the graph's inputs that computes what the graph computes with the masked weights.

    Raises:
        PatternError: an option is unknown.
        TraceError: without ``fullgraph=True``; or the graph has something in it that cannot be traced.
        ModeError: gradients of parameters could be asked for, batch norm is in training mode, or autocast is on.
        InputError: an argument cannot be described, is empty or is made for one size; or the model was compiled by
            upscale_fx before.
        NothingToPruneError, AmountError, PatternError, CriterionError: see :func:`upscale_fx.prune`.
    """
    tried = unmark()
    chosen = parse_options(options, mode)
    check_whole(gm)
    check_not_autocast()
    arguments = arguments_of(gm, example_inputs)
    check_not_compiled(arguments)
    check_no_gradients(gm, arguments, example_inputs)
    values = plain_values(example_inputs)
    try:
        with torch.inference_mode(False), torch.no_grad():
            return PrunedGraph(gm, arguments, chosen, values)
    except FixedSizeError as error:
        restart(error, {argument.name: values[argument.place] for argument in arguments}, tried)
        raise


def _announce() -> None:
    """Tell torch.compile the name where no installed distribution does (running from the sources)."""
    value = f"{upscale.__module__}:{upscale.__name__}"
    registry._BACKENDS.setdefault("upscale", EntryPoint("upscale", value, "torch_dynamo_backends"))


_announce()
