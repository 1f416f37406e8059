"""The report: per consumer what was asked, what it kept and why; and what the graph costs before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import fx, nn

from upscale_fx.consumers import find_consumers
from upscale_fx.dataflow import Dataflow, analyse
from upscale_fx.errors import InputError
from upscale_fx.masking import Removal
from upscale_fx.measure import Size, size_of
from upscale_fx.module import CompiledGNN
from upscale_fx.relations import Barrier
from upscale_fx.rules.registry import call_of


@dataclass(frozen=True)
class Entry:
    """One consumer: input channels before, how many were asked to go, how many it reads now, and why not fewer."""

    name: str
    before: int
    asked: int
    kept: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What compaction did to a model; prints as a table."""

    entries: Sequence[Entry]
    barriers: Sequence[str]
    before: Size
    after: Size
    views: int
    copies: int

    def __str__(self) -> str:
        rows = [(e.name, e.before, e.asked, e.kept, e.reason) for e in self.entries]
        table = tabulate(
            rows,
            headers=["consumer", "channels", "asked to go", "kept", "why not fewer"],
            maxcolwidths=[36, 9, 11, 6, 48],
        )
        lines = [table, ""]
        lines += [f"barrier: {text}" for text in self.barriers]
        lines.append(f"parameters  {self.before.parameters:,} -> {self.after.parameters:,}")
        lines.append(f"bytes       {self.before.bytes:,} -> {self.after.bytes:,}")
        lines.append(f"MACs        {self.before.macs_text()} -> {self.after.macs_text()}")
        lines.append(f"reorders    {self.views} views, {self.copies} copies")
        return "\n".join(lines)


def report(compiled: nn.Module) -> Report:
    """What was asked of each consumer of a compiled model, what it kept, and the reason.

    Raises:
        InputError: the module was not made by prune or compact.
    """
    if not isinstance(compiled, CompiledGNN) or "report" not in compiled.meta:
        raise InputError("report() takes what prune() or compact() returned; this module carries no report")
    history = compiled.meta["report"]
    flow = analyse(compiled)
    kept = {consumer.name: consumer.count for consumer in find_consumers(flow)}
    entries = [
        Entry(name, before, asked, kept.get(name, 0), _reason(reason, before - asked, kept.get(name)))
        for name, before, asked, reason in history["consumers"]
    ]
    reorders = [node.meta.get("reorder") for node in compiled.graph.nodes]
    return Report(
        entries,
        barriers(flow),
        history["before"],
        size_of(compiled, flow),
        reorders.count("view"),
        reorders.count("copy"),
    )


def _reason(reason: str, expected: int, kept: int | None) -> str:
    if kept is None:
        return "gone: nothing needs it any more, or it was folded"
    if kept > expected and not reason:
        return f"{kept - expected} more are read than needed: cheaper than a copy, or padding of heads"
    if kept < expected:
        return "others of its channels are dead too"
    return reason


def barriers(flow: Dataflow) -> list[str]:
    """Barriers that hold channels, with op and source line."""
    found = []
    for node, relation in flow.relations.items():
        if isinstance(relation, Barrier) and holds_channels(flow, node, relation):
            found.append(f"{node.name} ({_operation(flow, node)}, {node.meta.get('source', '')}): {relation.reason}")
    return found


def holds_channels(flow: Dataflow, node: fx.Node, relation: Barrier) -> bool:
    """Whether a barrier holds more than structure: some floating-point operand with several channels."""
    for source in relation.sources:
        value = flow.values[source][0]
        wide = isinstance(value, torch.Tensor) and value.is_floating_point() and flow.axes[source].count > 1
        if wide and source.op != "get_attr":
            return True
    return False


def _operation(flow: Dataflow, node: fx.Node) -> str:
    call, _ = call_of(node, flow.values)
    if call.op == "call_module":
        return type(flow.module.get_submodule(str(call.target))).__name__
    return call.target if isinstance(call.target, str) else getattr(call.target, "__name__", str(call.target))


def record(gm: CompiledGNN, flow: Dataflow, removals: Sequence[Removal] | None) -> Mapping[str, object]:
    """What a report needs to know of the graph before compaction."""
    if removals is not None:
        consumers = [
            (r.consumer.name, r.consumer.count, int(r.removed.sum()) if not r.asked else r.asked, r.reason)
            for r in removals
        ]
    else:
        consumers = [(c.name, c.count, int(_zero_columns(gm, c)), "") for c in find_consumers(flow)]
    return {"consumers": consumers, "before": size_of(gm, flow)}


def _zero_columns(gm: CompiledGNN, consumer: object) -> int:
    weight = consumer.weight(gm)  # type: ignore[attr-defined]
    return int((weight == 0).all(dim=0).sum())
