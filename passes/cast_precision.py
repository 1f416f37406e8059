"""Compute in another floating-point dtype: bfloat16 or float16, or float32 where a model is in float64.

Not exact. Arguments and results keep their dtypes: features are cast at the entry and results back at the end. What
becomes narrow is defined in ``analysis.precision``; a parameter or buffer is stored in the narrow dtype iff every
call that reads it takes that dtype. The pass measures on example graphs how far the outputs move, and keeps that in
the record; real features can move them more or less.

The pass is meant for fused graphs, before activations write in place: fused operators accumulate in float32, while a
plain ``scatter`` needs float32 messages to do so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult
from torch.nn.modules.batchnorm import _BatchNorm

from upscale_fx.analysis.precision import Casting
from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.example_values import example_values
from upscale_fx.compiled.inputs import CHECKED, LARGE, SMALL
from upscale_fx.compiled.module import (
    CompiledGNN,
    call_by_name,
    inputs_of,
    is_fused,
    note,
    record_of,
    unfused,
)
from upscale_fx.compiled.objects.results import tensors_of
from upscale_fx.compiled.record.nodes import record_nodes
from upscale_fx.compiled.record.precision import Precision
from upscale_fx.compiled.undisturbed import in_mode, undisturbed
from upscale_fx.errors import InputError, UpscaleError
from upscale_fx.passes.base import edited

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class CastPrecision:
    """Cast features and parameters; not exact.

    Attributes:
        dtype: ``torch.bfloat16``, ``torch.float16`` or ``torch.float32``.

    Raises:
        InputError: another dtype is given.
        UpscaleError: when called, if an operation fails in the dtype.
    """

    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            names = ", ".join(map(str, DTYPES))
            raise InputError(f"dtype must be one of {names}, got {self.dtype!r}")

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        result = edited(gm, lambda new: cast_precision(new, self.dtype))
        if result.modified:
            moved = measure(gm, result.graph_module, self.name)
            note(result.graph_module, precision=moved.after(record_of(gm).precision))
        return result

    @property
    def name(self) -> str:
        """The dtype without ``torch.``."""
        return str(self.dtype).removeprefix("torch.")


def cast_precision(gm: CompiledGNN, dtype: torch.dtype) -> bool:
    """Cast a graph and the graph it was fused from, in place; whether either has a cast now.

    Raises:
        UpscaleError: an operation fails in the dtype.
    """
    graphs = [gm, unfused(gm)] if is_fused(gm) else [gm]
    before = [example_values(graph) for graph in graphs]
    for graph in graphs:
        cast_modules(graph, dtype)
    castings = [
        Casting(graph, dtype, inputs_of(gm).example(LARGE), {node: pair[1] for node, pair in values.items()})
        for graph, values in zip(graphs, before, strict=True)
    ]
    for casting in castings:
        with in_mode(casting.module, training=False), torch.no_grad(), undisturbed(casting.module):
            casting.run()
        drop_dead_nodes(casting.graph)
    stored = store_narrow(castings)
    gm.graph = castings[0].graph
    for casting in castings[1:]:
        note(gm, plain=record_nodes(casting.graph))
    return stored > 0 or any(casting.casts & set(casting.graph.nodes) for casting in castings)


def cast_modules(gm: CompiledGNN, dtype: torch.dtype) -> None:
    """Cast the parameters and buffers of the modules that a graph calls, in place; those of batch norms to float32."""
    for module in _called(gm):
        if isinstance(module, _BatchNorm):
            module.to(torch.float32)
        elif next(module.parameters(), None) is not None:
            module.to(dtype)


def _called(gm: CompiledGNN) -> Iterator[torch.nn.Module]:
    return (gm.get_submodule(str(node.target)) for node in gm.graph.find_nodes(op="call_module"))


def store_narrow(castings: Sequence[Casting]) -> int:
    """Store each tensor that all its readers cast to one dtype in that dtype, in place; returns how many tensors."""
    modules = [module for casting in castings for module in _called(casting.module)]
    held = {id(value) for module in modules for value in (*module.parameters(), *module.buffers())}
    read_as: dict[int, set[Any]] = {}
    reads: list[tuple[Tensor, fx.Node, list[fx.Node]]] = []
    for casting in castings:
        for node in casting.graph.find_nodes(op="get_attr"):
            value = casting.values[node]
            casts = [user for user in node.users if user in casting.casts]
            dtypes = {user.args[1] for user in casts}
            dtypes |= {value.dtype} if len(casts) < len(node.users) or id(value) in held else set()
            read_as.setdefault(id(value), set()).update(dtypes)
            reads.append((value, node, casts))
    stored = set()
    for value, node, casts in reads:
        if len(read_as[id(value)]) == 1 and casts:
            (dtype,) = read_as[id(value)]
            value.data = value.data.to(dtype)
            stored.add(id(value))
            for cast in casts:
                cast.replace_all_uses_with(node)
                cast.graph.erase_node(cast)
    return len(stored)


def measure(before: CompiledGNN, after: CompiledGNN, name: str) -> Precision:
    """Compare outputs on example graphs, in eval mode; graphs that the model itself refuses are left out.

    Raises:
        UpscaleError: an operation fails in the dtype where the graph is small, or large.
    """
    largest = mean = 0.0
    for rows in (SMALL, LARGE, CHECKED[-1]):
        arguments = inputs_of(before).example(rows)
        try:
            expected = tensors_of(_run(before, arguments))
        except Exception:  # the model refuses such a graph: nothing to compare with
            continue
        try:
            actual = tensors_of(_run(after, arguments))
        except Exception as error:
            raise UpscaleError(f"the graph fails in {name} on {rows['N']} nodes: {error}; leave dtype out") from error
        for a, b in zip(expected, actual, strict=True):
            if isinstance(a, Tensor) and a.is_floating_point() and a.numel():
                gaps = _gaps(a.double(), b.double())
                largest, mean = max(largest, gaps[0]), max(mean, gaps[1])
    return Precision(name, largest, mean)


def _gaps(expected: Tensor, actual: Tensor) -> tuple[float, float]:
    """Largest and mean difference of one output, as shares of its largest and its mean magnitude."""
    if expected.shape != actual.shape:
        return math.inf, math.inf
    gap = (expected - actual).abs().masked_fill((expected == actual) | (expected.isnan() & actual.isnan()), 0)
    size = expected.abs().masked_fill(~expected.isfinite(), 0)
    if not gap.isfinite().all():
        return math.inf, math.inf
    largest, mean = gap.max() / (size.max() or 1), gap.mean() / (size.mean() or 1)
    return float(largest), float(mean)


def _run(gm: CompiledGNN, arguments: dict[str, Any]) -> Any:
    with in_mode(gm, training=False), torch.no_grad(), undisturbed(gm):
        return call_by_name(gm, inputs_of(gm), arguments, quiet=True)
