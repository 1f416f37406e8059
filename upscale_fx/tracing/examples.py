"""Describe a model's arguments from examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import ModelInputs, TensorSpec
from upscale_fx.compiled.signatures import named_arguments
from upscale_fx.tracing.example_rows import ExampleRows, Path, node_axes
from upscale_fx.tracing.example_specs import ExampleSpecs
from upscale_fx.tracing.objects.apart import describable, take_examples_apart
from upscale_fx.tracing.objects.matrices import learn_matrices
from upscale_fx.tracing.several_graphs import edge_indices, leaves_of, several_graphs


def inputs_from_examples(
    model: nn.Module, signature: inspect.Signature, arguments: Mapping[str, Any], **choices: Any
) -> ModelInputs:
    """Describe the arguments of one call, by name; ``choices`` are fields of :class:`ExampleRows`.

    Raises:
        InputError: an argument is of a kind that cannot be described.
    """
    arguments, call, positional = named_arguments(signature, arguments)
    apart = take_examples_apart(arguments, call)
    rows = ExampleRows(**choices)
    learn_matrices(rows, apart, typed=False)
    rows.learn(apart.arguments)
    learn_matrices(rows, apart, typed=True)
    specs_of = ExampleSpecs(rows)

    def describe(name: str, value: Any) -> Any:
        return pytree.tree_map_with_path(lambda path, leaf: specs_of.spec(name, _keys(path), leaf), value)

    apart = describable(apart, describe)
    return ModelInputs(
        {name: describe(name, value) for name, value in apart.arguments.items()},
        apart.order,
        device_of(model),
        positional,
        rows.sizes.get("N", 0),
        rows.degree,
        objects=apart.objects,
        call=call if apart.objects else (),
    )


def descriptions(model: nn.Module, signature: inspect.Signature, arguments: Mapping[str, Any]) -> Iterator[ModelInputs]:
    """Yield the descriptions of one call that its arguments allow, the likeliest first.

    Raises:
        InputError: an argument is of a kind that cannot be described.
    """
    yield inputs_from_examples(model, signature, arguments)
    named = examples_by_name(signature, arguments)
    if several_graphs(named):
        yield inputs_from_examples(model, signature, arguments, apart=False)
    if edge_indices(named):
        yield inputs_from_examples(model, signature, arguments, apart=False, sided=True)
    features = [value for value in leaves_of(named).values() if value.is_floating_point() and value.dim() > 2]
    largest = ExampleRows().largest_index(named)
    for axis in node_axes(features[0], largest)[1:] if features else ():
        yield inputs_from_examples(model, signature, arguments, node_axis=axis)
    if features and largest < 0:
        yield from _channels_first(inputs_from_examples(model, signature, arguments))


def _channels_first(inputs: ModelInputs) -> Iterator[ModelInputs]:
    """Take features for ``[B, F, N]`` and ``[B, F, N, N]``: a graph or a set of points each, with channels first."""
    specs = {n: s for n, s in inputs.arguments.items() if isinstance(s, TensorSpec) and len(s.axes) > 2}
    last = {size for spec in specs.values() for size in spec.sizes[2:]}
    if len(last) != 1 or len({spec.sizes[0] for spec in specs.values()}) != 1:
        return
    nodes = last.pop()
    matrices = any(spec.sizes[1] != nodes for spec in specs.values())  # then [B, N, N] beside [B, F, N] is one

    def axes(spec: TensorSpec) -> tuple[int | str, ...]:
        second = "N" if matrices and len(spec.axes) == 3 and spec.sizes[1] == nodes else spec.sizes[1]
        return ("R0", second, *["N"] * (len(spec.axes) - 2))

    arguments = {n: replace(s, axes=axes(s)) if n in specs else s for n, s in inputs.arguments.items()}
    yield replace(inputs, arguments=arguments, nodes=nodes)


def examples_by_name(signature: inspect.Signature, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the examples by the names of the graph's arguments: objects are taken apart."""
    named, call, _ = named_arguments(signature, arguments)
    return take_examples_apart(named, call).arguments


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _keys(path: Path) -> Path:
    """Return the dictionary keys and tuple positions on the way to a leaf."""
    return tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
