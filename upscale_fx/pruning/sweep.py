"""Sweeps: the score and the cost of a model pruned by several amounts, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

from torch import nn

from upscale_fx.analysis.dataflow import analyse
from upscale_fx.analysis.size import size_of
from upscale_fx.compiled.batches import Batches
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.module import CompiledGNN, call_by_name
from upscale_fx.compiled.ownership import empty_caches, own_copy, trainable
from upscale_fx.compiled.progress import progress_bar
from upscale_fx.compiled.record.size import Size
from upscale_fx.compiled.signatures import with_entry
from upscale_fx.compiled.undisturbed import in_mode
from upscale_fx.errors import InputError, NothingToPruneError, UpscaleError
from upscale_fx.masking.allocation.budget import Budget
from upscale_fx.masking.allocation.call_rows import CallRows, rows_in_call
from upscale_fx.masking.options import check_amount
from upscale_fx.pruning.evaluation import Evaluate, score_of
from upscale_fx.pruning.first_batch import trace_like
from upscale_fx.pruning.prune import Example, PruneOptions, optimize_model, prune_model
from upscale_fx.reports.latency import latencies
from upscale_fx.reports.sweep_row import SweepRow
from upscale_fx.reports.sweep_table import Sweep
from upscale_fx.tracing.describe import bind_examples
from upscale_fx.tracing.stated_axes import StatedAxes

__all__ = ["Sweep", "SweepRow", "sweep"]


def sweep(
    model: nn.Module,
    amounts: Iterable[Any],
    evaluate: Evaluate,
    *,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    timed: bool = True,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """Prune at several amounts; evaluate, count and time every result beside the dense model.

    Args:
        model: the dense model; only evaluated, never changed.
        amounts: values of ``amount`` or ``budget`` for ``prune``.
        evaluate: the score of a model, higher is better: a number or a tensor of one element. Models are in
            ``eval()``.
        example_inputs: positional arguments of one call, such as ``(x, edge_index)``. Latencies are measured on it, and
            the number of edges per node is taken from it. ``prune`` gets it too.
        example_kwargs: keyword arguments of that call.
        timed: whether to measure latencies, if there is an example. All models run in turns, after warming up, without
            gradients. Latencies are medians, with quartiles, in milliseconds; ratios are to the dense model, compiled
            too (``optimize(trace(model))``), round by round. All models stay in memory until then.
        progress: show a progress bar, where standard error is a terminal.
        **options: passed to ``prune`` as they are.

    Returns:
        A table: ``print`` it, or use ``.rows``, ``.to_markdown()``, ``.to_csv(path)``, ``.draw(path)``. Multiply-adds
        are those of products with a weight, per node: of one call on the example, divided by its nodes; without an
        example, only the work per node counts. An amount that fails has a row that says why.

    Raises:
        AmountError: an amount is a number outside [0, 1).
        InputError: there are no amounts.
        EvaluationError: the dense model's evaluation is not one finite number.
        TraceError, InputError: the model cannot be traced; see :func:`upscale_fx.trace`.
        NothingToPruneError and other errors of ``prune``: all amounts fail; the error of the first is raised.
    """
    asked = _checked(amounts)
    if options.get("calibration") is not None:  # an iterator too must last for all amounts
        options["calibration"] = Batches.replayed(options["calibration"])
    examples = {"example_inputs": example_inputs, "example_kwargs": example_kwargs}
    checked = [_options(amount, {**examples, **options}) for amount in asked]
    refused = [one for one in checked if isinstance(one, UpscaleError)]
    if len(refused) == len(asked):
        raise refused[0]
    method = options.get("method", "forward")
    stated = StatedAxes(options.get("dynamic_axes"), options.get("indices"))
    traced = trace_like(
        model, example_inputs, example_kwargs, options.get("calibration"), options.get("transform"), stated, method
    )
    dense = trainable(optimize_model)(traced, Example())
    entry = model if isinstance(model, CompiledGNN) else with_entry(model, method)
    example = bind_examples(entry, **examples) if example_inputs is not None or example_kwargs else None
    rows_per_call = rows_in_call(analyse(traced), example[0]) if example is not None else CallRows()
    models: list[CompiledGNN | None] = [dense]
    first = _row("dense", dense, score_of(evaluate, model, "the dense model"), rows_per_call)
    rows = [replace(first, parameters=sum(p.numel() for p in model.parameters()))]  # unused parameters too
    errors = []
    with progress_bar(total=len(asked), desc="sweeping", unit="model", shown=progress) as bar:
        for amount, one in zip(asked, checked, strict=True):
            bar.set_postfix(amount=str(amount))
            try:
                if isinstance(one, UpscaleError):
                    raise one
                compiled = trainable(prune_model)(model, one)
                score = score_of(evaluate, compiled, f"the model pruned by {amount}")
            except UpscaleError as error:
                errors.append(error)
                rows.append(SweepRow(str(amount), note=_reason(error)))
                models.append(None)
            else:
                rows.append(_row(str(amount), compiled, score, rows_per_call))
                models.append(compiled if timed and example is not None else None)
            bar.update()
    if len(errors) == len(asked):
        raise errors[0]
    if not timed or example is None:
        return Sweep(tuple(rows))
    return _timed(rows, models, entry, example, progress)


def _checked(amounts: Iterable[Any]) -> list[Any]:
    if isinstance(amounts, str | Mapping) or not isinstance(amounts, Iterable):
        raise InputError(f"sweep takes several amounts, such as [0.25, 0.5, 0.75]; got {amounts!r}")
    asked = list(amounts)
    if not asked:
        raise InputError("sweep takes at least one amount, such as [0.25, 0.5, 0.75]; got none")
    for place, amount in enumerate(asked):
        if isinstance(amount, Real):
            check_amount(amount, f"amounts[{place}]")
    return asked


def _options(amount: Any, options: Mapping[str, Any]) -> PruneOptions | UpscaleError:
    """The options of pruning by one amount or budget, or why they cannot be asked for."""
    try:
        return PruneOptions.of(**{"budget" if isinstance(amount, Budget) else "amount": amount}, **options)
    except UpscaleError as error:
        return error


def _row(amount: str, compiled: CompiledGNN, score: float, rows_per_call: CallRows) -> SweepRow:
    size = size_of(compiled)
    per_node, note = _macs_per_node(size, rows_per_call)
    return SweepRow(amount, score, size.parameters, size.macs, per_node, note=note)


def _macs_per_node(size: Size, rows: CallRows) -> tuple[float, str]:
    """Multiply-adds of a call divided by its nodes; without a call, those per node, and a note of the rest."""
    nodes = sum(count for symbol, count in rows.symbols.items() if symbol.startswith("N"))
    if nodes:
        return rows.multiply_adds(size) / nodes, ""
    other = [f"{count:,} per {symbol}" for symbol, count in size.macs.items() if symbol != "N"]
    return float(size.macs.get("N", 0)), f"and {' + '.join(other)} MACs" if other else ""


def _reason(error: UpscaleError) -> str:
    """One line for an amount that failed."""
    if isinstance(error, NothingToPruneError):
        return "nothing to prune"
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _timed(
    rows: Sequence[SweepRow],
    models: Sequence[CompiledGNN | None],
    model: nn.Module,
    example: tuple[Mapping[str, Any], ModelInputs],
    progress: bool,
) -> Sweep:
    """The rows with latencies; all pruned models and the original one run in turns."""
    arguments, described = example
    modules: list[nn.Module] = [compiled for compiled in models if compiled is not None]
    modules.append(own_copy(model))  # PyG's layers may cache what they are called with
    empty_caches(modules[-1])
    calls = [partial(call_by_name, module, described, arguments) for module in modules]
    with ExitStack() as stack, progress_bar(desc="timing", unit="round", shown=progress) as bar:
        for module in modules:
            stack.enter_context(in_mode(module, training=False))
        *measured, eager = latencies(calls, described.device, bar.update)
    taken = iter(measured)
    return Sweep(
        tuple(
            row if compiled is None else replace(row, latency=next(taken))
            for row, compiled in zip(rows, models, strict=True)
        ),
        eager,
    )
