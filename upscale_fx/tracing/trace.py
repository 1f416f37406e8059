"""Turn a model into a :class:`CompiledGNN`: describe its inputs, trace both modes, merge them, check the result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from torch import fx, nn

from upscale_fx.compiled.check_inputs import add_input_check, check_tensor
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.inputs import LARGE, SMALL, ModelInputs, TensorSpec
from upscale_fx.compiled.module import (
    CompiledGNN,
    inputs_of,
    make_module,
    note,
    parameter_bytes,
    record_of,
    unfused,
)
from upscale_fx.compiled.objects.reads import recorded
from upscale_fx.compiled.objects.results import RESULTS
from upscale_fx.compiled.ownership import check_model, own_copy, without_caches
from upscale_fx.compiled.progress import stage, stages
from upscale_fx.compiled.record import GraphRecord, TracedModel
from upscale_fx.compiled.record.graph import RECORD
from upscale_fx.compiled.signatures import with_entry
from upscale_fx.compiled.source_lines import line_of, line_of_forward
from upscale_fx.compiled.undisturbed import in_modes, undisturbed
from upscale_fx.errors import InputError, TraceError, warn
from upscale_fx.tracing.check_trace import check_trace, note_types, run_with
from upscale_fx.tracing.describe import bind_examples, describe_inputs
from upscale_fx.tracing.fitting import fitting_inputs, refusal_of, run_example
from upscale_fx.tracing.modules.hooks import drop_observers, without_traced_hooks
from upscale_fx.tracing.modules.modes import DifferentGraphs, merge_modes
from upscale_fx.tracing.modules.names import check_names
from upscale_fx.tracing.modules.parts import attached, eval_parts, modes_after_switch, part_paths
from upscale_fx.tracing.modules.state import State, carried_over, dependence
from upscale_fx.tracing.modules.tables import node_tables
from upscale_fx.tracing.modules.watched_modes import READ_BEFORE
from upscale_fx.tracing.objects.apart import refused_attribute
from upscale_fx.tracing.objects.needed import only_read
from upscale_fx.tracing.proxy import CannotTrace
from upscale_fx.tracing.sizes.said import fixed_axes
from upscale_fx.tracing.stated_axes import StatedAxes
from upscale_fx.tracing.tracer import GraphTracer
from upscale_fx.tracing.variants import less_dynamic


def trace_model(
    model: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    inputs: ModelInputs | None = None,
    stated: StatedAxes | None = None,
    method: str = "forward",
) -> CompiledGNN:
    """Trace a model into a graph with copies of its parameters; the model does not change.

    ``inputs`` is a ready description of the arguments, which replaces examples; ``stated`` is what the user said
    about the axes and indices of the examples; ``method`` is traced instead of ``forward``.

    Raises:
        InputError: example inputs are missing or do not fit.
        TraceError: the model cannot be traced.
    """
    check_model(model)
    if isinstance(model, CompiledGNN):
        if stated:
            raise InputError("dynamic_axes and indices are for a model that is yet to be traced; this one is a graph")
        if method != record_of(model).method and method != "forward":
            raise InputError(f"a graph has one entry, forward(); trace the model itself with method='{method}'")
        _check_against(model, example_inputs, example_kwargs)
        return copy.deepcopy(unfused(model))
    with stages("trace"):
        root, state = _copied(model, method)
        if inputs is not None:
            accepted = inputs.whole()
        else:
            accepted = fitting_inputs(root, describe_inputs(root, example_inputs, example_kwargs, stated), state)
        try:
            traced = _traced(model, root, accepted, method, state)
            traced = _traced_by_rows(model, traced, accepted, method) or traced
        except TraceError:
            other = _traced_less_dynamic(model, accepted, method)
            if other is None:
                raise
            traced = other
    if accepted.fixed:
        warn(
            f"{type(model).__name__} was traced for graphs of {accepted.fixed_text} only, as many as the example has "
            f"({fixed_axes(accepted)}), because it refused graphs of other sizes ({accepted.why}). A model with a "
            f"weight per node cannot do otherwise. If an argument holds numbers of nodes, say "
            f"indices={{'argument': 'N'}}; dynamic_axes= says which axes are rows"
        )
    return traced


def _copied(model: nn.Module, method: str) -> tuple[nn.Module, State]:
    """A copy of the model that may be traced, with the method as its forward(), and its state."""
    root = without_caches(own_copy(with_entry(model, method)))
    return root, State(root)


def _traced_less_dynamic(model: nn.Module, inputs: ModelInputs, method: str) -> CompiledGNN | None:
    """Trace with axes of unknown kind as channels (a loop over time steps); None if that cannot be traced either."""
    for candidate in less_dynamic(inputs):
        root, state = _copied(model, method)
        if refusal_of(root, candidate, state) is None:
            with suppress(TraceError):
                return _traced(model, root, candidate, method, state)
    return None


def _traced_by_rows(model: nn.Module, traced: CompiledGNN, inputs: ModelInputs, method: str) -> CompiledGNN | None:
    """Trace again with parameters that have a row per node as rows; None if there are none, or the model refuses."""
    tables = node_tables(traced)
    if tables:
        root, state = _copied(model, method)
        with suppress(TraceError, InputError):
            again = _traced(model, root, replace(inputs, tables=frozenset(tables)), method, state)
            return None if tables & node_tables(again) else again
    return None


def _traced(model: nn.Module, root: nn.Module, inputs: ModelInputs, method: str, state: State) -> CompiledGNN:
    """Trace ``root``, a copy of the model in ``state``, with arguments as described."""
    stage("tracing")
    drop_observers(root, lambda: run_example(root, inputs, SMALL, state=state))
    with recorded() as reads:
        graph, read, skipped = traced_with(root, inputs, (), state)
        results = graph.output_node().meta[RESULTS]
        modes = merge_modes(graph, read, root, lambda trained: _traced_alike(root, inputs, trained, results, state))
    for node in graph.nodes:
        node.meta.pop(READ_BEFORE, None)
    if refused := refused_attribute(inputs, reads):
        raise InputError(refused)
    inputs = only_read(inputs, graph, reads, partial(run_with, root, state))
    add_input_check(graph, inputs)
    drop_dead_nodes(graph)
    sizes = {name: parameter.numel() for name, parameter in root.named_parameters()}
    nbytes = parameter_bytes(root)
    parts = part_paths(root, modes.switches)
    check_names(root, graph, parts)
    record = GraphRecord(
        inputs,
        type(model).__name__,
        eval_only=modes.reason,
        eval_parts=eval_parts(root, modes),
        parts=parts,
        after_switch=modes_after_switch(root),
        results=results,
        method=method,
        skipped_assertions=skipped,
    )
    with attached(root, modes.switches):
        traced = make_module(root, graph, {RECORD: record}, root.training)
    without_traced_hooks(traced)
    check_trace(root, traced, state)
    note_types(root, traced, state)
    known = dict(traced.named_parameters())
    unused = tuple(sorted(sizes.keys() - known.keys()))
    note(traced, model=TracedModel(sum(sizes.values()), nbytes, unused))
    return traced


def _traced_alike(
    root: nn.Module, inputs: ModelInputs, trained: Collection[str], results: Any, state: State
) -> tuple[fx.Graph, Collection[str]]:
    """Trace as :func:`traced_with`, with some modules in ``train()``.

    Raises:
        TraceError: the model cannot be traced so, or does not run so.
        DifferentGraphs: forward() then returns another type.
    """
    try:
        graph, read, _ = traced_with(root, inputs, trained, state)
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(f"{type(root).__name__} itself fails: {type(error).__name__}: {error}") from error
    if graph.output_node().meta[RESULTS] != results:
        raise DifferentGraphs("forward() returns another type in train() than in eval()")
    return graph, read


def traced_with(
    root: nn.Module, inputs: ModelInputs, trained: Collection[str], state: State
) -> tuple[fx.Graph, Collection[str], tuple[str, ...]]:
    """Trace ``root`` with the modules of some paths in ``train()``, the others in ``eval()``.

    Afterwards it is put back to ``state``.

    Returns:
        The graph, the paths of the modules whose mode forward() reads, and the lines of the assertions on values that
        the graph does not repeat.

    Raises:
        TraceError: with module path, source line, reason and remedy.
    """
    kept = not trained and state.kept_by is inputs
    carried, changed = (None, frozenset()) if kept else dependence(root, _runner(root, inputs, trained))
    if carried is not None and trained and changed <= {name for name, _ in root.named_buffers()}:
        carried, changed = None, frozenset()  # running statistics: the graph updates them; other changes are refused
    if carried is None and trained and changed:
        carried = carried_over(root, _runner(root, inputs, trained), _runner(root, inputs, ()))
    if carried is not None:
        raise TraceError(
            f"cannot trace {type(root).__name__}: {carried}. A graph has no state: make it an argument and an output, "
            f"as in out, h = model(x, edge_index, h), or set it anew at the beginning of every forward()"
        )
    tracer = GraphTracer(replace_builtins=False, observed=changed)
    try:
        with in_modes(root, trained), undisturbed(root):
            try:
                graph = tracer.trace(root, inputs)
            except CannotTrace:  # the model's own code may have called int(), len(), min() or max() on a row count
                state.restore()
                tracer = GraphTracer(observed=changed)
                graph = tracer.trace(root, inputs)
            state.adopt(root, tracer.tensor_attrs.values())  # tensors that forward() makes, and the graph reads
            return graph, tracer.modes.read_by_forward, tuple(dict.fromkeys(tracer.skipped_assertions))
    except Exception as reason:
        raise TraceError(_cannot_trace(tracer, root, reason)) from (None if isinstance(reason, CannotTrace) else reason)
    finally:
        state.restore()


def _runner(root: nn.Module, inputs: ModelInputs, trained: Collection[str]) -> Callable[[int], Any]:
    """Return a function that runs the model on one of two example graphs and keeps what the call leaves on it."""
    quiet = isinstance(root, fx.GraphModule)
    return lambda side: run_example(root, inputs, (SMALL, LARGE)[side], quiet, trained)


_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _cannot_trace(tracer: GraphTracer, root: nn.Module, reason: Exception) -> str:
    path = tracer.failed_in
    owners = [root.get_submodule(path.rsplit(".", level)[0]) for level in range(1, path.count(".") + 1)]
    within = [type(owner).__name__ for owner in owners if not isinstance(owner, _CONTAINERS)]
    where = " within ".join([f"{path or '(model)'} ({type(root.get_submodule(path)).__name__})", *within])
    known = isinstance(reason, CannotTrace | TraceError)
    text = str(reason) if known else f"{type(reason).__name__} in {tracer.place}: {reason}"
    told = isinstance(reason, TraceError) or (known and "; " in text)  # the message says itself what to do
    remedy = "Rewrite that line with tensor operations, or pass example_inputs / example_kwargs that avoid it"
    line = line_of_forward(root) if isinstance(reason, TraceError) else line_of(reason)
    return f"cannot trace {type(root).__name__}: in {where}, {line}: {text}{'' if told else f'. {remedy}'}"


def _check_against(model: CompiledGNN, example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> None:
    if example_inputs is None and not example_kwargs:
        return
    values, _ = bind_examples(model, example_inputs, example_kwargs)
    for name, spec in inputs_of(model).arguments.items():
        if isinstance(spec, TensorSpec) and name in values:
            check_tensor(values[name], name, spec.shape)
