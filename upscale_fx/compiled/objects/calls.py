"""Calls of a compiled graph with the objects that its model takes and returns, and with batches that lack types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import fx

from upscale_fx.compiled.layers.calls import graph_with_calls, make_layers
from upscale_fx.compiled.missing_types import Missing, missing_types, text_of, without_types
from upscale_fx.compiled.objects.arguments import built, has_objects, taken_apart
from upscale_fx.compiled.objects.implied import with_implied
from upscale_fx.compiled.objects.results import packed
from upscale_fx.compiled.record import GraphRecord
from upscale_fx.compiled.record.graph import RECORD
from upscale_fx.compiled.record.nodes import graph_of
from upscale_fx.errors import InputError


def _record(gm: fx.GraphModule) -> GraphRecord:
    record: GraphRecord = gm.meta[RECORD]
    return record


def prepares_calls(record: GraphRecord) -> bool:
    """Whether calls take or give objects, or dictionaries by type."""
    typed = any(isinstance(spec, dict) for spec in record.inputs.arguments.values())
    return bool(record.inputs.objects) or record.results is not None or typed


def with_objects(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward() of a graph that also takes the objects that the model takes, and returns those that it returns."""

    @wraps(forward)
    def call(self: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        record = _record(self)
        inputs = record.inputs
        given: dict[str, Any] = {}
        if inputs.objects and has_objects(args, kwargs, inputs.objects):
            kwargs, given = taken_apart(inputs.objects, inputs.call, inputs.arguments, args, kwargs)
            args = ()
        named = {**dict(zip(inputs.order, args, strict=False)), **kwargs}
        if inputs.objects and (more := with_implied(inputs, named)):
            kwargs, named = {**kwargs, **more}, {**named, **more}
        missing = missing_types(inputs, named, record.any_order) & record.typed
        result = run_without_types(self, missing, named) if missing else forward(self, *args, **kwargs)
        if record.results is None:
            return result
        if inputs.objects and not given:
            bound = inspect.signature(forward).bind(self, *args, **kwargs).arguments
            objects = built(inputs.objects, {name: bound[name] for name in bound if name in inputs.arguments})
            given = {name: objects[name] for name in inputs.objects}
        return packed(record.results, result, given)

    return call


def graph_without_types(gm: fx.GraphModule, missing: Missing) -> fx.Graph | None:
    """Return the unfused nodes of a graph without what needs missing types; None if it has no outputs then."""
    records = _record(gm).plain
    return without_types(gm.graph if records is None else graph_of(records), missing)


def run_without_types(gm: fx.GraphModule, missing: Missing, arguments: Mapping[str, Any]) -> Any:
    """Call a graph for a batch that lacks types, unfused.

    Raises:
        InputError: the model refuses such a batch, or it was never compared with the graph for one.
    """
    known = _record(gm).lacking
    reason = known.get(missing)
    if reason is None:
        reason = (
            f"a batch without {text_of(missing)} was not tried when this graph was traced; trace again with an example "
            f"that lacks the same"
        )
    if reason:
        raise InputError(reason)
    graphs = gm.__dict__.setdefault("_graphs_without_types", {})
    if missing not in graphs:
        graph = graph_without_types(gm, missing)
        graphs[missing] = graph if graph is None else graph_with_calls(graph, make_layers(gm, graph))
    return run_graph(gm, graphs[missing], arguments)


def run_graph(gm: fx.GraphModule, graph: fx.Graph, arguments: Mapping[str, Any]) -> Any:
    """Run another graph over the parameters, buffers and modules of ``gm``."""
    values = [arguments.get(str(node.target)) for node in graph.find_nodes(op="placeholder")]
    return _without_fx_types(fx.Interpreter(gm, graph=graph).run(*values, enable_io_processing=False))


def _without_fx_types(value: Any) -> Any:
    """A result with Python's own dictionaries and lists in place of FX's immutable ones."""
    if isinstance(value, dict):
        return {key: _without_fx_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_fx_types(item) for item in value]
    return tuple(map(_without_fx_types, value)) if type(value) is tuple else value
