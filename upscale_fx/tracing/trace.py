"""Turn a model into a :class:`CompiledGNN`: describe its inputs, trace both modes, merge them, check the result."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from upscale_fx.compiled.batches import Batches, arguments_of
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.inputs import CHECKED, LARGE, OTHER, SMALL, ModelInputs, TensorSpec
from upscale_fx.compiled.module import (
    RECORD,
    CompiledGNN,
    call_by_name,
    inputs_of,
    make_module,
    note,
    parameter_bytes,
    unfused,
)
from upscale_fx.compiled.ownership import check_model, own_copy, without_caches
from upscale_fx.compiled.record import GraphRecord, TracedModel
from upscale_fx.compiled.source_lines import line_of
from upscale_fx.compiled.undisturbed import in_mode, undisturbed
from upscale_fx.errors import InputError, TraceError, warn
from upscale_fx.tracing.describe import describe_inputs
from upscale_fx.tracing.hooks import drop_observers, without_traced_hooks
from upscale_fx.tracing.modes import merge_modes
from upscale_fx.tracing.proxy import CannotTrace
from upscale_fx.tracing.state import State, carried_over, dependence
from upscale_fx.tracing.tracer import GraphTracer


def trace_model(
    model: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    inputs: ModelInputs | None = None,
) -> CompiledGNN:
    """Trace a model into a graph with copies of its parameters; the model does not change.

    ``inputs`` is a ready description of the arguments, which replaces examples.

    Raises:
        InputError: example inputs are missing or do not fit.
        TraceError: the model cannot be traced.
    """
    check_model(model)
    if isinstance(model, CompiledGNN):
        _check_against(model, example_inputs, example_kwargs)
        return copy.deepcopy(unfused(model))
    root = without_caches(own_copy(model))
    state = State(root)
    inputs = inputs or _fitting_inputs(root, example_inputs, example_kwargs, state)
    drop_observers(root, lambda: run_example(root, inputs, SMALL, state=state))
    graph, skipped = trace_mode(root, inputs, training=False, state=state)
    reason = _merge_training(root, inputs, graph, state)
    _add_input_check(graph, inputs)
    drop_dead_nodes(graph)
    sizes = {name: parameter.numel() for name, parameter in root.named_parameters()}
    nbytes = parameter_bytes(root)
    if reason and model.training:
        warn(f"{type(model).__name__} is in train(), but the graph made of it is for eval() only: {reason}")
    record = GraphRecord(inputs, type(model).__name__, eval_only=reason or "", skipped_assertions=skipped)
    traced = make_module(root, graph, {RECORD: record}, model.training)
    without_traced_hooks(traced)
    _check_trace(root, traced, state)
    read = dict(traced.named_parameters())
    unused = tuple(sorted(sizes.keys() - read.keys()))
    note(traced, model=TracedModel(sum(sizes.values()), nbytes, unused))
    return traced


def _fitting_inputs(
    root: nn.Module, example_inputs: Any, example_kwargs: Mapping[str, Any] | None, state: State
) -> ModelInputs:
    """Return the first description of the inputs that the model accepts."""
    failure: Exception | None = None
    tried: list[ModelInputs] = []
    described = list(describe_inputs(root, example_inputs, example_kwargs))
    for inputs in [*described, *described[0].variants()]:
        try:
            run_example(root, inputs, SMALL, quiet=isinstance(root, fx.GraphModule), state=state)
        except Exception as error:
            failure = failure or error
            tried.append(inputs)
        else:
            return inputs
    shapes = {name: list(spec.axes) for name, spec in tried[0].arguments.items() if isinstance(spec, TensorSpec)}
    assert failure is not None
    raise InputError(
        f"{type(root).__name__} does not accept inputs of shapes {shapes}: {expected_width(failure)}; pass "
        f"example_inputs=(x, edge_index, ...) of the widths and dtype the model was built for. (Tracing runs the model "
        f"on small graphs that it makes like the examples.)"
    ) from failure


def expected_width(failure: BaseException) -> str:
    """Say which width the layer that failed expects, by its declaration, and what the failure was."""
    frame, module = failure.__traceback__, None
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        module = owner if isinstance(owner, nn.Module) and hasattr(owner, "weight") else module
        frame = frame.tb_next
    if "dtype" in str(failure):
        return f"{type(failure).__name__} at {line_of(failure)}: {failure}"
    width = getattr(module, "in_channels", getattr(module, "in_features", None))
    expected = f"{module} expects width {width}; " if module is not None and width is not None else ""
    return f"{expected}{type(failure).__name__} at {line_of(failure)}: {failure}"


def run_example(
    model: nn.Module,
    inputs: ModelInputs,
    rows: dict[str, int],
    quiet: bool = False,
    training: bool = False,
    state: State | None = None,
    **options: Any,
) -> Any:
    """Return the model's output on an example graph; the model's mode and the RNG stay as they were.

    What the call leaves on the model is put back to ``state``, if one is given.
    """
    try:
        with in_mode(model, training), torch.no_grad(), undisturbed(model):
            return call_by_name(model, inputs, inputs.example(rows, **options), quiet)
    finally:
        if state is not None:
            state.restore()


#: Tracing replaces functions of torch while it runs; two threads must not do so at once.
_one_at_a_time = threading.RLock()


def trace_mode(root: nn.Module, inputs: ModelInputs, training: bool, state: State) -> tuple[fx.Graph, tuple[str, ...]]:
    """Trace ``root`` in one mode; ``root`` is put back to ``state``.

    Returns:
        The graph, and the lines of the assertions on values that it does not repeat.

    Raises:
        TraceError: with module path, source line, reason and remedy.
    """
    carried, changed = dependence(root, _runner(root, inputs, training))
    if carried is None and training and changed:
        carried = carried_over(root, _runner(root, inputs, True), _runner(root, inputs, False))
    if carried is not None:
        raise TraceError(
            f"cannot trace {type(root).__name__}: {carried}. A graph has no state: make it an argument and an output, "
            f"as in out, h = model(x, edge_index, h), or set it anew at the beginning of every forward()"
        )
    tracer = GraphTracer(replace_builtins=False, observed=changed)
    try:
        with _one_at_a_time, in_mode(root, training), undisturbed(root):
            try:
                graph = tracer.trace(root, inputs)
            except CannotTrace:  # the model's own code may have called int(), len(), min() or max() on a row count
                state.restore()
                tracer = GraphTracer(observed=changed)
                graph = tracer.trace(root, inputs)
            state.adopt(root, tracer.tensor_attrs.values())  # tensors that forward() makes, and the graph reads
            return graph, tuple(dict.fromkeys(tracer.skipped_assertions))
    except Exception as reason:
        raise TraceError(_cannot_trace(tracer, root, reason)) from (None if isinstance(reason, CannotTrace) else reason)
    finally:
        state.restore()


def _runner(root: nn.Module, inputs: ModelInputs, training: bool) -> Callable[[int], Any]:
    """Return a function that runs the model on one of two example graphs and keeps what the call leaves on it."""
    quiet = isinstance(root, fx.GraphModule)
    return lambda side: run_example(root, inputs, (SMALL, LARGE)[side], quiet, training)


_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _cannot_trace(tracer: GraphTracer, root: nn.Module, reason: Exception) -> str:
    path = tracer.failed_in
    owners = [root.get_submodule(path.rsplit(".", level)[0]) for level in range(1, path.count(".") + 1)]
    within = [type(owner).__name__ for owner in owners if not isinstance(owner, _CONTAINERS)]
    where = " within ".join([f"{path or '(model)'} ({type(root.get_submodule(path)).__name__})", *within])
    text = str(reason) if isinstance(reason, CannotTrace) else f"{type(reason).__name__} in {tracer.place}: {reason}"
    return (
        f"cannot trace {type(root).__name__}: in {where}, {line_of(reason)}: {text}. Rewrite that line with tensor "
        f"operations, or pass example_inputs / example_kwargs that avoid it"
    )


def _merge_training(root: nn.Module, inputs: ModelInputs, graph: fx.Graph, state: State) -> str | None:
    try:
        train, _ = trace_mode(root, inputs, training=True, state=state)
    except TraceError as error:
        return f"in train() {error}"
    return merge_modes(graph, train, root)


def _add_input_check(graph: fx.Graph, inputs: ModelInputs) -> None:
    """Make the graph call check_inputs first, which refuses inputs whose shapes or constants were not traced."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names, shapes, checked = [], [], []
    for node in placeholders:
        spec = inputs.arguments.get(node.target)
        if isinstance(spec, TensorSpec) or spec is None or isinstance(spec, bool | int | float | str):
            checked.append(node)
            names.append(str(node.target))
            shapes.append(spec.shape if isinstance(spec, TensorSpec) else spec)
    with graph.inserting_after(placeholders[-1]):
        node = graph.call_function(check_inputs, (tuple(checked), tuple(names), tuple(shapes)))
    node.meta.update(module="", source="")


def _check_against(model: CompiledGNN, example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> None:
    if example_inputs is None and not example_kwargs:
        return
    for described in describe_inputs(model, example_inputs, example_kwargs):
        for name, spec in described.arguments.items():
            traced = inputs_of(model).arguments.get(name)
            if isinstance(traced, TensorSpec) and (not isinstance(spec, TensorSpec) or traced.shape != spec.shape):
                shape = spec.shape if isinstance(spec, TensorSpec) else spec
                raise InputError(f"argument '{name}' has shape {shape}, but this graph takes {traced.shape}")


def _check_trace(root: nn.Module, traced: CompiledGNN, state: State) -> None:
    """Check that graph and model agree on example graphs that were not traced, one of them a node without edges.

    Raises:
        TraceError: they differ, so the model depends on the size or the values of its inputs.
    """
    for rows in CHECKED:
        try:
            expected = run_example(root, inputs_of(traced), rows, state=state, seed=7, loops=rows is OTHER)
        except Exception:  # the model itself refuses this graph, so there is nothing to compare with
            continue
        try:
            actual = run_example(traced, inputs_of(traced), rows, seed=7, loops=rows is OTHER, quiet=True)
        except Exception as error:
            raise TraceError(_differs(root, rows, f"{type(error).__name__}: {error}")) from error
        gap = largest_difference(expected, actual)
        if not gap <= 1e-4:
            again = run_example(root, inputs_of(traced), rows, state=state, seed=7, loops=rows is OTHER)
            if largest_difference(expected, again) > 1e-4:
                raise TraceError(
                    f"{type(root).__name__} gives other outputs when it is called again with the same inputs, so no "
                    f"graph can do what it does: forward() reads state that earlier calls left outside the model (a "
                    f"global variable, a random generator of its own); pass it in as an argument"
                )
            raise TraceError(_differs(root, rows, f"outputs differ by {gap:.2g}"))


def _differs(root: nn.Module, rows: dict[str, int], what: str) -> str:
    return (
        f"{type(root).__name__} was traced, but for {rows['N']} nodes and {rows['E']} edges the graph does not do what "
        f"the model does ({what}): forward() branches on the size or the values of its inputs; write that branch as a "
        f"tensor operation (torch.where)"
    )


def trace_like(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    calibration: Batches | None,
    transform: Callable[[Any], Any] | None,
) -> CompiledGNN:
    """Trace a model; if this needs an example and there is none, take the first calibration batch."""
    has_example = example_inputs is not None or example_kwargs is not None
    try:
        return trace_model(model, example_inputs, example_kwargs)
    except (InputError, TraceError):
        if has_example or calibration is None:
            raise
    return trace_model(model, *arguments_of(next(iter(calibration)), model, transform))
