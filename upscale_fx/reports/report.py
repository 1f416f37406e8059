"""The report: channels asked for and kept per consumer, with reasons, and the cost of the graph before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tabulate import tabulate
from torch import Tensor, nn

from upscale_fx.analysis.barriers import barriers
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.size import size_of
from upscale_fx.compiled.guards.failures import named_failures
from upscale_fx.compiled.inputs import ModelInputs, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, record_of, unfused
from upscale_fx.compiled.record import ConsumerRecord, PruningRecord, UnmaskableRecord
from upscale_fx.compiled.record.size import Size
from upscale_fx.compiled.record.trail import Trail
from upscale_fx.errors import InputError, warn
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.pools import Removal
from upscale_fx.masking.consumers.survey import Survey, find_consumers
from upscale_fx.reports.inference_cost import InferenceCost, cost_per_node
from upscale_fx.reports.kept import kept_channels
from upscale_fx.reports.kernels_in_use import kernels_in_use
from upscale_fx.reports.zero_rows import zero_rows

#: What to do where rows of zeros stay.
_ROWS_STAY = "a channel goes when whatever reads it has a column of zeros for it, as mask() and prune() make them"


@dataclass(frozen=True)
class Entry:
    """One consumer: input channels before, how many were asked to be removed, how many it reads now, and why not fewer.

    ``leftover`` counts the channels that were asked to be removed and could not be. Wider reads do not count: they are
    chosen because they cost less than copies.
    """

    name: str
    before: int
    asked: int
    kept: int
    reason: str
    leftover: int = 0


@dataclass(frozen=True)
class Report:
    """What compaction did to a model; prints as a table.

    ``kept`` has, by the name of a consumer, the numbers in the original model of the channels that it still reads
    (int64 ``[kept]``), in the order of the columns of its weight now; ``masks`` has the same as a boolean mask over all
    its channels (``[channels]``). Consumers that no output needs any more are in neither.
    """

    entries: Sequence[Entry]
    barriers: Sequence[str]
    before: Size
    after: Size
    views: int
    copies: int
    unviewable: int = 0
    unused: Sequence[str] = ()
    approximate: Sequence[str] = ()
    precision: str = ""
    chosen: str = ""
    unfitted: Mapping[str, str] = field(default_factory=dict)
    trail: Trail | None = None
    inference: InferenceCost | None = None
    kernels: str = ""
    skipped_assertions: Sequence[str] = ()
    sizes: str = ""
    zero_rows: Sequence[str] = ()
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Channels that were asked to be removed, of all consumers."""
        return sum(entry.asked for entry in self.entries)

    @property
    def leftover(self) -> int:
        """Channels that were asked to be removed and could not be."""
        return sum(entry.leftover for entry in self.entries)

    def __str__(self) -> str:
        rows = [(e.name, e.before, e.asked, e.kept, e.reason) for e in self.entries]
        table = tabulate(
            rows,
            headers=["consumer", "channels", "to remove", "kept", "why not fewer"],
            maxcolwidths=[36, 9, 11, 6, 48],
        )
        lines = [table, ""]
        lines += [f"barrier: {text}" for text in self.barriers]
        lines += [f"zeros: {text}" for text in self.zero_rows]
        lines += [f"zeros: {_ROWS_STAY}"] if self.zero_rows else []
        lines += [f"unused: {name}: no output needs it" for name in self.unused]
        lines += [f"approximate: {text}" for text in self.approximate]
        lines += [f"approximate: {self.precision}"] if self.precision else []
        lines += [f"not checked: the assertion on values at {line}" for line in self.skipped_assertions]
        lines.append(f"parameters  {self.before.parameters:,} -> {self.after.parameters:,}")
        lines.append(f"bytes       {self.before.bytes:,} -> {self.after.bytes:,}")
        lines.append(f"MACs        {self.before.macs_text()} -> {self.after.macs_text()}")
        bound = f" (at least {self.unviewable} reads can have no view in any order)" if self.unviewable else ""
        lines.append(f"reorders    {self.views} views, {self.copies} copies{bound}")
        lines += [f"kernels     {self.kernels}"] if self.kernels else []
        lines += [f"sizes       {self.sizes}"] if self.sizes else []
        lines += [f"chosen      {self.chosen}"] if self.chosen else []
        lines += [f"not refitted: {name}: {reason}" for name, reason in self.unfitted.items()]
        lines += ["", str(self.inference)] if self.inference is not None else []
        lines += ["", str(self.trail)] if self.trail is not None else []
        return "\n".join(lines)


@named_failures
def report(compiled: nn.Module, *, degree: float | None = None, fanouts: Sequence[int] | None = None) -> Report:
    """Report for each consumer of a compiled model how many channels were to be removed, how many it kept, and why.

    Args:
        compiled: the result of ``prune`` or ``compact``.
        degree: edges per node. With it the report counts the multiply-adds per node of full-graph inference, with
            aggregation (:func:`upscale_fx.cost_per_node`).
        fanouts: sampled neighbours per hop. With them it counts those of batched inference too.

    Raises:
        InputError: the module was not made by prune or compact, or ``fanouts`` does not fit its layers.
    """
    history = record_of(compiled).pruning if isinstance(compiled, CompiledGNN) else None
    if not isinstance(compiled, CompiledGNN) or history is None:
        raise InputError("report() takes what prune() or compact() returned; this module carries no report")
    kernels = kernels_in_use(compiled)
    compiled = unfused(compiled)
    record = record_of(compiled)
    flow = analyse(compiled)
    now = {consumer.name: consumer for consumer in find_consumers(flow)}
    kept, masks = kept_channels(compiled, now.values())
    entries = [_entry(before, now.get(before.name), kept.get(before.name)) for before in history.consumers]
    entries += [Entry(r.name, r.channels, r.asked, r.channels, r.reason, r.asked) for r in history.refused]
    reorders = [node.meta.get("reorder") for node in compiled.graph.nodes]
    return Report(
        entries,
        barriers(flow),
        history.before,
        size_of(compiled, flow),
        reorders.count("view"),
        reorders.count("copy"),
        record.unviewable,
        history.unused,
        [
            f"{name}: statistics of the {norm.kept} of {norm.channels} channels that are kept"
            for name, norm in record.estimates.items()
        ],
        "" if record.precision is None else str(record.precision),
        history.chosen,
        history.not_refitted,
        history.trail,
        _inference(compiled, degree, fanouts),
        kernels,
        record.skipped_assertions,
        _fixed_sizes(record.inputs),
        zero_rows(flow),
        kept,
        masks,
    )


def _fixed_sizes(inputs: ModelInputs) -> str:
    """Which sizes of the example every graph must have, besides widths on the last axis; empty if none."""
    nodes = [f"graphs of {inputs.fixed_text} only: the model refused others ({inputs.why})"] if inputs.fixed else []
    inner = [text for name, spec in inputs.arguments.items() for text in _inner_axes(name, spec)]
    return "; ".join([*nodes, *(f"{held}, as in the example" for held in dict.fromkeys((*inputs.held, *inner)))])


def _inner_axes(name: str, spec: Any) -> list[str]:
    """The axes between the first and the last that have a fixed size: time steps, channels of vectors and images."""
    if isinstance(spec, Mapping):
        return [text for key, item in spec.items() for text in _inner_axes(f"{name}[{key!r}]", item)]
    if not isinstance(spec, TensorSpec) or not spec.dtype.is_floating_point or not isinstance((*spec.axes, 0)[0], str):
        return []
    inner = list(enumerate(spec.axes))[1:-1]
    return [f"axis {place} of '{name}' is {size}" for place, size in inner if not isinstance(size, str)]


def _inference(compiled: CompiledGNN, degree: float | None, fanouts: Sequence[int] | None) -> InferenceCost | None:
    if degree is None:
        if fanouts is not None:
            raise InputError("report(fanouts=...) needs degree=... too: the edges per node")
        return None
    return cost_per_node(compiled, degree=degree, fanouts=fanouts)


def _entry(before: ConsumerRecord, now: Consumer | None, numbers: Tensor | None) -> Entry:
    """One line of the report; ``now`` is the consumer in the compacted graph, None if it has none.

    ``numbers`` are its channels, each once: calls of one weight may read the same channels in orders of their own.
    """
    asked, reason = before.asked, before.reason
    if now is None:
        return Entry(before.name, before.channels, asked, 0, "removed: no output needs it, or it was folded")
    kept, expected = now.count if numbers is None else len(numbers), before.channels - asked
    widened = sum(node.meta.get("widened", 0) for node in now.sites)
    needed = max(before.channels - before.masked, 1)  # where all are masked, one channel stays for its rows
    leftover = min(max(kept - needed - widened, 0), asked)
    if kept < expected:
        reason = "others of its channels are dead too"
    elif leftover and not reason:
        heads = "heads keep equal numbers of channels, or " if now.blocks is not None else ""
        rest = f"{heads}a barrier before it holds them in place"
        reason = f"{leftover} more are read than needed: {rest}"
    elif kept > expected and not reason:
        reason = f"{kept - expected} more are read than needed: cheaper than a copy"
    return Entry(before.name, before.channels, asked, kept, reason, leftover)


#: The share of the channels to remove that can be left without a warning.
_TOLERATED = 0.1


def warn_of_leftovers(result: Report) -> None:
    """Warn if many channels to remove could not be removed, or none at all where weights have rows of zeros."""
    if result.zero_rows and all(entry.kept == entry.before for entry in result.entries):
        warn(f"no channel could be removed: {_first(result.zero_rows)}. {_ROWS_STAY[0].upper()}{_ROWS_STAY[1:]}")
    if result.leftover <= _TOLERATED * result.asked:
        return
    worst = sorted((entry for entry in result.entries if entry.leftover), key=lambda entry: -entry.leftover)
    named = [f"{entry.name} ({entry.leftover} of {entry.asked}: {entry.reason})" for entry in worst]
    warn(
        f"{result.leftover} of {result.asked} channels to remove could not be removed: {_first(named)}. "
        f"print(upscale_fx.report(compiled)) shows every consumer"
    )


def _first(texts: Sequence[str]) -> str:
    """The first three of some texts, and how many more there are."""
    more = [f"and {len(texts) - 3} more"] if len(texts) > 3 else []
    return "; ".join([*texts[:3], *more])


def record_pruning(
    gm: CompiledGNN,
    flow: Dataflow,
    surveyed: Survey,
    removals: Sequence[Removal] | None,
    chosen: str = "",
    not_refitted: Mapping[str, str] | None = None,
) -> PruningRecord:
    """Record what the report needs of the graph before compaction.

    Args:
        gm: the graph.
        flow: its analysis.
        surveyed: its consumers.
        removals: what each consumer loses; None where the zeros in its weights decide.
        chosen: how channels were chosen, as text.
        not_refitted: by the names of consumers, why their weights were not refitted.
    """
    share = float(np.mean([r.amount for r in removals])) if removals else 0.0
    if removals is not None:
        consumers = [_asked(removal) for removal in removals]
    else:
        zeros = ((c, int((~c.reads(gm)).sum())) for c in surveyed.consumers)
        consumers = [ConsumerRecord(c.name, c.count, zero, zero) for c, zero in zeros]
    refused = [UnmaskableRecord(u.name, u.channels, round(share * u.channels), u.reason) for u in surveyed.refused]
    before, model = size_of(gm, flow), record_of(gm).model
    unused: tuple[str, ...] = ()
    if record_of(gm).pruning is None and model is not None:  # parameters that no output needs count as removed
        before, unused = replace(before, parameters=model.parameters, bytes=model.bytes), model.unused
    return PruningRecord(consumers, refused, before, unused, chosen, not_refitted or {})


def _asked(removal: Removal) -> ConsumerRecord:
    masked = int(removal.removed.sum())
    return ConsumerRecord(
        removal.consumer.name, removal.consumer.count, removal.asked or masked, masked, removal.reason
    )
