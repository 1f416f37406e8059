"""From a model to a :class:`CompiledGNN`: describe its inputs, trace both modes, merge them, check the result."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.compiled.batches import Batches, arguments_of
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.inputs import CHECKED, OTHER, SMALL, ModelInputs, TensorSpec
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
from upscale_fx.tracing.modes import merge_modes
from upscale_fx.tracing.proxy import CannotTrace
from upscale_fx.tracing.tracer import GraphTracer


def trace_model(
    model: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    inputs: ModelInputs | None = None,
) -> CompiledGNN:
    """Trace a model into a graph of its own parameters (copies: the model is not touched).

    ``inputs`` is a ready description of the arguments, instead of examples.

    Raises:
        InputError: example inputs are missing or do not fit.
        TraceError: the model cannot be traced.
    """
    check_model(model)
    if isinstance(model, CompiledGNN):
        _check_against(model, example_inputs, example_kwargs)
        return copy.deepcopy(unfused(model))
    root = without_caches(own_copy(model))
    inputs = inputs or _fitting_inputs(root, example_inputs, example_kwargs)
    _drop_observers(root, inputs)
    graph = trace_mode(root, inputs, training=False)
    reason = _merge_training(root, inputs, graph)
    _add_input_check(graph, inputs)
    drop_dead_nodes(graph)
    known = {name: parameter.numel() for name, parameter in root.named_parameters()}
    nbytes = parameter_bytes(root)
    if reason and model.training:
        warn(f"{type(model).__name__} is in train(), but the graph made of it is for eval() only: {reason}")
    record = GraphRecord(inputs, type(model).__name__, eval_only=reason or "")
    traced = make_module(root, graph, {RECORD: record}, model.training)
    _check_trace(root, traced)
    read = dict(traced.named_parameters())
    unused = tuple(sorted(known.keys() - read.keys()))
    note(traced, model=TracedModel(sum(known.values()), nbytes, unused))
    return traced


def _fitting_inputs(root: nn.Module, example_inputs: Any, example_kwargs: Mapping[str, Any] | None) -> ModelInputs:
    """The first description of the inputs that the model accepts."""
    failure: Exception | None = None
    tried: list[ModelInputs] = []
    described = list(describe_inputs(root, example_inputs, example_kwargs))
    for inputs in [*described, *described[0].variants()]:
        try:
            run_example(root, inputs, SMALL, quiet=isinstance(root, fx.GraphModule))
        except Exception as error:
            failure = failure or error
            tried.append(inputs)
        else:
            return inputs
    shapes = {name: list(spec.axes) for name, spec in tried[0].arguments.items() if isinstance(spec, TensorSpec)}
    assert failure is not None
    raise InputError(
        f"{type(root).__name__} does not accept inputs of shapes {shapes}: {expected_width(failure)}; pass "
        f"example_inputs=(x, edge_index, ...) of the widths and dtype the model was built for. (The model is run on "
        f"small graphs made in the likeness of the examples.)"
    ) from failure


def _drop_observers(root: nn.Module, inputs: ModelInputs) -> None:
    """Remove forward hooks that only look on, so that they are not shown proxies; those that change outputs stay."""
    hooks = {module: dict(module._forward_hooks) for module in root.modules() if module._forward_hooks}
    if not hooks:
        return
    with_hooks = run_example(root, inputs, SMALL)
    for module in hooks:
        module._forward_hooks.clear()
    if largest_difference(with_hooks, run_example(root, inputs, SMALL)) > 0:
        for module, own in hooks.items():
            module._forward_hooks.update(own)


def expected_width(failure: BaseException) -> str:
    """What a layer that failed expected, from its declared width, and the failure itself."""
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
    model: nn.Module, inputs: ModelInputs, rows: dict[str, int], quiet: bool = False, **options: Any
) -> Any:
    """The model's output on an example graph, in ``eval()``, leaving it and the RNG as they were."""
    with in_mode(model, training=False), torch.no_grad(), undisturbed(model):
        return call_by_name(model, inputs, inputs.example(rows, **options), quiet)


#: Tracing replaces functions of torch for a while, which two threads must not do at once.
_one_at_a_time = threading.RLock()


def trace_mode(root: nn.Module, inputs: ModelInputs, training: bool) -> fx.Graph:
    """Trace ``root`` (which is left as it was) in one mode.

    Raises:
        TraceError: with module path, source line, reason and remedy.
    """
    state = [
        (module, name, buffer, buffer.clone())
        for module in root.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    tracer = GraphTracer(replace_builtins=False)
    try:
        with _one_at_a_time, in_mode(root, training), undisturbed(root):
            try:
                return tracer.trace(root, inputs)
            except CannotTrace:  # perhaps a row count met int(), len(), min() or max() in the model's own code
                _restore(state)
                tracer = GraphTracer()
                return tracer.trace(root, inputs)
    except Exception as reason:
        raise TraceError(_cannot_trace(tracer, root, reason)) from (None if isinstance(reason, CannotTrace) else reason)
    finally:
        _restore(state)


def _restore(state: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    """Put buffers back as they were."""
    for module, name, buffer, value in state:
        module._buffers[name] = buffer
        buffer.data.copy_(value)


_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _cannot_trace(tracer: GraphTracer, root: nn.Module, reason: Exception) -> str:
    path = tracer.failed_in
    owners = [root.get_submodule(path.rsplit(".", level)[0]) for level in range(1, path.count(".") + 1)]
    within = [type(owner).__name__ for owner in owners if not isinstance(owner, _CONTAINERS)]
    where = " within ".join([f"{path or '(model)'} ({type(root.get_submodule(path)).__name__})", *within])
    text = str(reason) if isinstance(reason, CannotTrace) else f"{type(reason).__name__} in {tracer.place}: {reason}"
    return (
        f"cannot trace {type(root).__name__}: in {where}, {line_of(reason)}: {text}. Rewrite that line with tensor "
        f"operations, or pass example_inputs / example_kwargs with which it is not reached"
    )


def _merge_training(root: nn.Module, inputs: ModelInputs, graph: fx.Graph) -> str | None:
    try:
        train = trace_mode(root, inputs, training=True)
    except TraceError as error:
        return f"in train() {error}"
    return merge_modes(graph, train, root)


def _add_input_check(graph: fx.Graph, inputs: ModelInputs) -> None:
    """One call before everything else that refuses inputs other than the traced kind."""
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
    for given in describe_inputs(model, example_inputs, example_kwargs):
        for name, spec in given.arguments.items():
            known = inputs_of(model).arguments.get(name)
            if isinstance(known, TensorSpec) and (not isinstance(spec, TensorSpec) or known.shape != spec.shape):
                found = spec.shape if isinstance(spec, TensorSpec) else spec
                raise InputError(f"argument '{name}' has shape {found}, but this graph takes {known.shape}")


def _check_trace(root: nn.Module, traced: CompiledGNN) -> None:
    """The graph must equal the model on graphs it was not traced on, a single node without edges included.

    Raises:
        TraceError: it does not, so the model does something that depends on the size or the values of the graph.
    """
    for rows in CHECKED:
        try:
            expected = run_example(root, inputs_of(traced), rows, seed=7, loops=rows is OTHER)
        except Exception:  # the model itself refuses such a graph, so there is nothing to compare with
            continue
        try:
            found = run_example(traced, inputs_of(traced), rows, seed=7, loops=rows is OTHER, quiet=True)
        except Exception as error:
            raise TraceError(_differs(root, rows, f"{type(error).__name__}: {error}")) from error
        gap = largest_difference(expected, found)
        if not gap <= 1e-4:
            raise TraceError(_differs(root, rows, f"outputs differ by {gap:.2g}"))


def _differs(root: nn.Module, rows: dict[str, int], what: str) -> str:
    return (
        f"{type(root).__name__} was traced, but for {rows['N']} nodes and {rows['E']} edges the graph does not do what "
        f"the model does ({what}): forward() branches on the size or the values of its inputs; make that branch a "
        f"tensor operation (torch.where)"
    )


def trace_like(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    calibration: Batches | None,
    transform: Callable[[Any], Any] | None,
) -> CompiledGNN:
    """Trace a model; with the first calibration batch for an example, where it cannot be traced without one."""
    given = example_inputs is not None or example_kwargs is not None
    try:
        return trace_model(model, example_inputs, example_kwargs)
    except (InputError, TraceError):
        if given or calibration is None:
            raise
    return trace_model(model, *arguments_of(next(iter(calibration)), model, transform))
