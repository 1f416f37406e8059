"""The diff of two graphs, node by node: shapes and parameters before -> after, inserted and removed nodes."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tabulate import tabulate
from torch import Tensor, fx, nn

from upscale_fx import operators
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.row_symbols import shape_text
from upscale_fx.analysis.size import size_of
from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.guards.failures import named_failures
from upscale_fx.compiled.module import CompiledGNN, all_nodes, inputs_of, is_fused, record_of, unfused
from upscale_fx.compiled.ownership import check_model
from upscale_fx.compiled.record.size import Size
from upscale_fx.errors import InputError
from upscale_fx.tracing.trace import trace_model

FUSED: dict[object, str] = {getattr(operators, name): name for name in operators.__all__}
_HEADERS = ("", "node", "module", "op", "shape", "parameters")


@dataclass(frozen=True)
class DiffRow:
    """One node; ``change`` is empty (as before), ``~`` (changed), ``+`` (new) or ``-`` (removed)."""

    change: str
    node: str
    module: str
    op: str
    shape: str
    parameters: str


@dataclass(frozen=True)
class Diff:
    """Two graphs side by side; ``print`` shows the nodes that changed, :meth:`table` all of them."""

    rows: tuple[DiffRow, ...]
    before: Size
    after: Size
    views: int
    copies: int
    operators: str = ""

    @property
    def changed(self) -> bool:
        """Whether any node differs."""
        return any(row.change for row in self.rows)

    def __str__(self) -> str:
        if not self.changed:
            return f"no change: {len(self.rows)} nodes, {self.after.parameters:,} parameters"
        same = sum(not row.change for row in self.rows)
        return f"{self.table(everything=False)}\n{self.totals()}\n({same} unchanged nodes not shown)"

    def table(self, everything: bool = True) -> str:
        """The table of all nodes, or of those that changed; at most 120 columns wide."""
        return tabulate(self._cells(everything), headers=_HEADERS, tablefmt="simple", disable_numparse=True)

    def totals(self) -> str:
        """Parameters, multiply-adds, and counts of nodes inserted and removed."""
        removed = sum(row.change == "-" for row in self.rows)
        others = sum(row.change == "+" for row in self.rows) - self.views - self.copies
        share = self.after.parameters / max(self.before.parameters, 1)
        return (
            f"parameters {self.before.parameters:,} -> {self.after.parameters:,} ({share:.1%})\n"
            f"MACs       {self.before.macs_text()} -> {self.after.macs_text()}\n"
            f"reorders   {self.views} views, {self.copies} copies; {removed} nodes removed, {others} other nodes added"
            f"{self.operators and f'{chr(10)}runs on    {self.operators}'}"
        )

    def to_html(self) -> str:
        """The full table as an HTML fragment."""
        table: str = tabulate(self._cells(True), headers=_HEADERS, tablefmt="html", disable_numparse=True)
        return f"{table}\n<pre>{html.escape(self.totals())}</pre>"

    def _cells(self, everything: bool) -> list[tuple[str, ...]]:
        return [
            (r.change, _short(r.node, 24), _short(r.module, 22), _short(r.op, 14), _short(r.shape, 30), r.parameters)
            for r in self.rows
            if everything or r.change
        ]


@named_failures
def diff(before: nn.Module, after: nn.Module) -> Diff:
    """Compare two graphs, or a model with the graph compiled from it.

    If only one of them is fused, the diff shows it as it was before fusing, and counts its fused operators below the
    table.

    Raises:
        InputError: ``after`` is neither a graph nor traceable with the inputs of ``before``.
    """
    check_model(before)
    check_model(after)
    if not isinstance(before, CompiledGNN) and not isinstance(after, CompiledGNN):
        raise InputError("diff() needs at least one graph made by upscale_fx; pass upscale_fx.trace(model)")
    first, second = _graph(before, after), _graph(after, before)
    if is_fused(first) != is_fused(second):
        first, second = unfused(first), unfused(second)
    flow, flow_after = analyse(first), analyse(second)
    known = {node.name for node in flow.nodes}
    new = [node.meta.get("reorder") for node in flow_after.nodes if node.name not in known]
    rows = tuple(_rows(flow, flow_after))
    return Diff(
        rows, size_of(first, flow), size_of(second, flow_after), new.count("view"), new.count("copy"), _operators(after)
    )


def _operators(module: nn.Module) -> str:
    """The fused operators of a graph, counted."""
    nodes = all_nodes(module) if isinstance(module, CompiledGNN) else []
    names = Counter(FUSED[node.target] for node in nodes if node.target in FUSED)
    return ", ".join(f"{count} {name}" for name, count in names.most_common())


def _graph(module: nn.Module, other: nn.Module) -> CompiledGNN:
    if isinstance(module, CompiledGNN):
        return module
    assert isinstance(other, CompiledGNN)
    return trace_model(module, inputs=inputs_of(other), method=record_of(other).method)


def _rows(before: Dataflow, after: Dataflow) -> Iterator[DiffRow]:
    old = {node.name: node for node in before.nodes if _is_shown(node)}
    new = [node for node in after.nodes if _is_shown(node)]
    names = {node.name for node in new}
    waiting = list(old.values())
    first_use, first_use_after = _first_uses(before), _first_uses(after)
    for node in new:
        if node.name in old:
            while waiting and waiting[0].name != node.name:
                gone = waiting.pop(0)
                if gone.name not in names:
                    yield _removed(gone, before, first_use)
            if waiting:
                waiting.pop(0)
            yield _kept(old[node.name], node, before, after, first_use, first_use_after)
        else:
            yield _inserted(node, after, first_use_after)
    for gone in waiting:
        if gone.name not in names:
            yield _removed(gone, before, first_use)


def _is_shown(node: fx.Node) -> bool:
    return node.op not in ("output", "get_attr") and node.target is not check_inputs


def _kept(
    old: fx.Node,
    new: fx.Node,
    before: Dataflow,
    after: Dataflow,
    uses: dict[str, fx.Node],
    uses_after: dict[str, fx.Node],
) -> DiffRow:
    shapes = _shape(old, before), _shape(new, after)
    counts = _parameters(old, before, uses), _parameters(new, after, uses_after)
    changed = shapes[0] != shapes[1] or counts[0] != counts[1] or _op(old) != _op(new)
    shape = shapes[1] if shapes[0] == shapes[1] else f"{shapes[0]} -> {shapes[1]}"
    parameters = _count(counts[1]) if counts[0] == counts[1] else f"{counts[0]:,} -> {counts[1]:,}"
    return DiffRow("~" if changed else "", new.name, _module(new), _op(new), shape, parameters)


def _inserted(node: fx.Node, flow: Dataflow, uses: dict[str, fx.Node]) -> DiffRow:
    shape = _shape(node, flow)
    source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if node.meta.get("reorder") and source is not None:
        shape = f"{_shape(source, flow)} -> {shape}"
    return DiffRow(
        "+",
        node.name,
        _module(node),
        _op(node),
        shape,
        _count(_parameters(node, flow, uses)),
    )


def _removed(node: fx.Node, flow: Dataflow, uses: dict[str, fx.Node]) -> DiffRow:
    return DiffRow("-", node.name, _module(node), _op(node), _shape(node, flow), _count(_parameters(node, flow, uses)))


def _shape(node: fx.Node, flow: Dataflow) -> str:
    if node in flow.axes:
        return shape_text(flow.axes[node])
    value = flow.values.get(node, (None, None))[0]
    return f"{type(value).__name__}" if not isinstance(value, Tensor) else ""


def _first_uses(flow: Dataflow) -> dict[str, fx.Node]:
    """Parameter name -> the node it is counted at: its first user."""
    uses: dict[str, fx.Node] = {}
    for node in flow.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                uses.setdefault(str(source.target), _reader(node))
    return uses


def _reader(node: fx.Node) -> fx.Node:
    """The node that reads a parameter, after any reorders."""
    while node.meta.get("reorder") and node.users:
        node = next(iter(node.users))
    return node


def _parameters(node: fx.Node, flow: Dataflow, uses: dict[str, fx.Node]) -> int:
    if node.op == "call_module":
        return sum(p.numel() for p in flow.module.get_submodule(str(node.target)).parameters())
    names = [name for name, user in uses.items() if user is node]
    known = dict(flow.module.named_parameters())
    return sum(known[name].numel() for name in names if name in known)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _module(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else str(node.meta.get("module", ""))


def _op(node: fx.Node) -> str:
    if node.meta.get("reorder"):
        return str(node.meta["reorder"])
    if node.op == "call_module":
        return "module"
    return "input" if node.op == "placeholder" else target_name(node.target)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-(width - 1) :]
