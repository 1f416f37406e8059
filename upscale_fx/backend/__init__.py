"""The backend of torch.compile: ``torch.compile(model, backend="upscale", options={"amount": 0.5})``.

Dynamo captures one graph of torch operations. The model's parameters and numbers are inputs of this graph, and PyG's
functions are inlined. Four steps make a :class:`~upscale_fx.CompiledGNN` of it, and ``prune`` prunes that. The pruned
graph goes to another backend of torch.compile: ``options["inner"]``, by default ``inductor``.

1. :mod:`arguments <upscale_fx.backend.arguments>`: tells for each input whether it is an argument of the call, a size,
   or a value that the model holds, and its name.
2. :mod:`clean <upscale_fx.backend.clean>`: removes assertions, guards and symbolic numbers from the graph.
3. :mod:`raising <upscale_fx.backend.raising>`: puts PyG's functions back for aggregations and softmaxes over edges.
4. :mod:`replay <upscale_fx.backend.replay>`: a module that runs the graph. It is compared with Dynamo's graph, and
   traced like any other model.

**Never an old answer.** The values that the model holds (parameters, buffers, numbers such as a dropout probability)
are built in when the graph is compiled. Every call compares them, value by value, with the present ones. If one
changed, the model is pruned again, with masks chosen from the new values. It does not matter what changed it: an
optimizer, ``load_state_dict``, another Parameter in its place, or a write through ``.data`` (which changes neither
identity nor version). The comparison reads the parameters once per call.

**Every size.** Numbers of nodes and edges are dynamic from the first call on, with ``dynamic=True`` or without.

**Inference only.** The pruned parameters are copies, so gradients do not reach the model's own. Compiling with
gradients enabled and parameters that require them raises ModeError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends import registry

from upscale_fx.backend.arguments import arguments_of, check_no_gradients, concrete_values
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
    """The backend: prune Dynamo's graph and pass it to the inner backend.

    Args:
        gm: the graph Dynamo captured.
        example_inputs: the inputs of the call that made Dynamo compile.
        options: ``amount`` (default 0: only optimise), ``criterion``, ``inputs``, ``constrained``, ``scope``,
            ``round_to``, ``ignore``, ``approximate_norms`` and ``callback`` as :func:`upscale_fx.prune` takes them, and
            ``inner``, the backend that compiles the pruned graph: a name (``"inductor"``, ``"aot_eager"``, ``"eager"``)
            or a callable.
        mode: not supported; raises PatternError.

    Returns:
        A function of the graph's inputs that computes what the graph computes with the masked weights.

    Raises:
        PatternError: an option is unknown.
        TraceError: without ``fullgraph=True``; or something in the graph cannot be traced.
        ModeError: gradients are on and parameters require them, batch norm is in training mode, or autocast is on.
        InputError: an argument cannot be described, is empty or has a fixed size; or the model was compiled by
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
    values = concrete_values(example_inputs)
    try:
        with torch.inference_mode(False), torch.no_grad():
            return PrunedGraph(gm, arguments, chosen, values)
    except FixedSizeError as error:
        restart(error, {argument.name: values[argument.place] for argument in arguments}, tried)
        raise


def _register() -> None:
    """Register the name with torch.compile if no installed distribution does (running from the sources)."""
    value = f"{upscale.__module__}:{upscale.__name__}"
    registry._BACKENDS.setdefault("upscale", EntryPoint("upscale", value, "torch_dynamo_backends"))


_register()
