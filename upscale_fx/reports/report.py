"""The report: per consumer what was asked, what it kept and why; and what the graph costs before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tabulate import tabulate
from torch import nn

from upscale_fx.analysis.barriers import barriers
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.size import Size, size_of
from upscale_fx.compiled.module import CompiledGNN, unfused
from upscale_fx.errors import InputError, warn
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.pools import Removal
from upscale_fx.masking.consumers.survey import Survey, find_consumers
from upscale_fx.reports.inference_cost import InferenceCost, cost_per_node
from upscale_fx.reports.trail import Trail


@dataclass(frozen=True)
class Entry:
    """One consumer: input channels before, how many were asked to go, how many it reads now, and why not fewer.

    ``leftover`` of those asked to go could not be removed; wider reads, which are chosen because they cost less than
    copies, do not count.
    """

    name: str
    before: int
    asked: int
    kept: int
    reason: str
    leftover: int = 0


@dataclass(frozen=True)
class Report:
    """What compaction did to a model; prints as a table."""

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

    @property
    def asked(self) -> int:
        """Channels that were asked to go, of all consumers."""
        return sum(entry.asked for entry in self.entries)

    @property
    def leftover(self) -> int:
        """Channels that were asked to go and could not be removed."""
        return sum(entry.leftover for entry in self.entries)

    def __str__(self) -> str:
        rows = [(e.name, e.before, e.asked, e.kept, e.reason) for e in self.entries]
        table = tabulate(
            rows,
            headers=["consumer", "channels", "asked to go", "kept", "why not fewer"],
            maxcolwidths=[36, 9, 11, 6, 48],
        )
        lines = [table, ""]
        lines += [f"barrier: {text}" for text in self.barriers]
        lines += [f"unused: {name}: no output needs it" for name in self.unused]
        lines += [f"approximate: {text}" for text in self.approximate]
        lines += [f"approximate: {self.precision}"] if self.precision else []
        lines.append(f"parameters  {self.before.parameters:,} -> {self.after.parameters:,}")
        lines.append(f"bytes       {self.before.bytes:,} -> {self.after.bytes:,}")
        lines.append(f"MACs        {self.before.macs_text()} -> {self.after.macs_text()}")
        bound = f" (at least {self.unviewable} reads can have no view in any order)" if self.unviewable else ""
        lines.append(f"reorders    {self.views} views, {self.copies} copies{bound}")
        lines += [f"chosen      {self.chosen}"] if self.chosen else []
        lines += [f"not refitted: {name}: {reason}" for name, reason in self.unfitted.items()]
        lines += ["", str(self.inference)] if self.inference is not None else []
        lines += ["", str(self.trail)] if self.trail is not None else []
        return "\n".join(lines)


def report(compiled: nn.Module, *, degree: float | None = None, fanouts: Sequence[int] | None = None) -> Report:
    """What was asked of each consumer of a compiled model, what it kept, and the reason.

    Args:
        compiled: what ``prune`` or ``compact`` returned.
        degree: edges per node; with it the report also counts multiply-adds per node of full-graph inference,
            aggregation included (:func:`upscale_fx.cost_per_node`).
        fanouts: neighbours that are sampled per hop; with them also of batched inference.

    Raises:
        InputError: the module was not made by prune or compact, or ``fanouts`` does not fit its layers.
    """
    if not isinstance(compiled, CompiledGNN) or "report" not in compiled.meta:
        raise InputError("report() takes what prune() or compact() returned; this module carries no report")
    compiled = unfused(compiled)
    history = compiled.meta["report"]
    flow = analyse(compiled)
    now = {consumer.name: consumer for consumer in find_consumers(flow)}
    entries = [_entry(row, now.get(row[0])) for row in history["consumers"]]
    entries += [Entry(name, count, asked, count, reason, asked) for name, count, asked, reason in history["refused"]]
    reorders = [node.meta.get("reorder") for node in compiled.graph.nodes]
    return Report(
        entries,
        barriers(flow),
        history["before"],
        size_of(compiled, flow),
        reorders.count("view"),
        reorders.count("copy"),
        compiled.meta.get("unviewable", 0),
        history.get("unused", ()),
        [
            f"{name}: statistics of the {kept} of {count} channels that are kept"
            for name, (count, kept) in compiled.meta.get("approximate", {}).items()
        ],
        str(compiled.meta.get("precision", "")),
        history.get("chosen", ""),
        history.get("unfitted", {}),
        history.get("trail"),
        _inference(compiled, degree, fanouts),
    )


def _inference(compiled: CompiledGNN, degree: float | None, fanouts: Sequence[int] | None) -> InferenceCost | None:
    if degree is None:
        if fanouts is not None:
            raise InputError("report(fanouts=...) needs degree=... too: the edges per node")
        return None
    return cost_per_node(compiled, degree=degree, fanouts=fanouts)


def _entry(row: tuple[str, int, int, str, int], now: Consumer | None) -> Entry:
    """One line of the report, from what was asked, how many were masked, and the consumer that is left."""
    name, before, asked, reason, masked = row
    if now is None:
        return Entry(name, before, asked, 0, "gone: nothing needs it any more, or it was folded")
    kept, expected = now.count, before - asked
    widened = sum(node.meta.get("widened", 0) for node in now.sites)
    one = max(before - masked, 1)  # where nothing is left, one channel stays for its rows
    leftover = min(max(kept - one - widened, 0), asked)
    if kept < expected:
        reason = "others of its channels are dead too"
    elif leftover and not reason:
        heads = "heads keep equal numbers of channels, or " if now.blocks is not None else ""
        rest = f"{heads}a barrier before it holds them in place"
        reason = f"{leftover} more are read than needed: {rest}"
    elif kept > expected and not reason:
        reason = f"{kept - expected} more are read than needed: cheaper than a copy"
    return Entry(name, before, asked, kept, reason, leftover)


#: Share of what was asked that may be left without a warning.
_UNTOLD = 0.1


def warn_of_leftovers(found: Report) -> None:
    """One warning where more than a tenth of the channels asked to go could not be removed."""
    if found.leftover <= _UNTOLD * found.asked:
        return
    worst = sorted((entry for entry in found.entries if entry.leftover), key=lambda entry: -entry.leftover)
    named = "; ".join(f"{entry.name} ({entry.leftover} of {entry.asked}: {entry.reason})" for entry in worst[:3])
    more = f"; and {len(worst) - 3} more" if len(worst) > 3 else ""
    warn(
        f"{found.leftover} of {found.asked} channels that were asked to go could not be removed: {named}{more}. "
        f"print(upscale_fx.report(compiled)) shows every consumer"
    )


def record(
    gm: CompiledGNN,
    flow: Dataflow,
    found: Survey,
    removals: Sequence[Removal] | None,
    chosen: str = "",
    unfitted: Mapping[str, str] | None = None,
) -> Mapping[str, object]:
    """What a report needs to know of the graph before compaction."""
    share = 0.0
    if removals is not None:
        share = float(np.mean([r.amount for r in removals])) if removals else 0.0
        consumers = [
            (r.consumer.name, r.consumer.count, r.asked or int(r.removed.sum()), r.reason, int(r.removed.sum()))
            for r in removals
        ]
    else:
        zero = {c.name: int((~c.reads(gm)).sum()) for c in found.consumers}
        consumers = [(c.name, c.count, zero[c.name], "", zero[c.name]) for c in found.consumers]
    fixed = [(u.name, u.channels, round(share * u.channels), u.reason) for u in found.refused]
    before, unused = size_of(gm, flow), []
    if "report" not in gm.meta and "model" in gm.meta:  # what tracing found nobody needs counts as removed
        parameters, nbytes, unused = gm.meta["model"]
        before = replace(before, parameters=parameters, bytes=nbytes)
    told = {"chosen": chosen, "unfitted": unfitted or {}}
    return {"consumers": consumers, "refused": fixed, "before": before, "unused": unused, **told}
