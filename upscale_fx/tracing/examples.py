"""Describe a model's arguments from examples."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.signatures import named_arguments
from upscale_fx.tracing.example_rows import ExampleRows, Path
from upscale_fx.tracing.objects.apart import describable, take_examples_apart


def inputs_from_examples(model: nn.Module, signature: inspect.Signature, arguments: Mapping[str, Any]) -> ModelInputs:
    """Describe the arguments of one call, by name.

    Raises:
        InputError: an argument is of a kind that cannot be described.
    """
    arguments, call, positional = named_arguments(signature, arguments)
    apart = take_examples_apart(arguments, call)
    rows = ExampleRows()
    rows.learn(apart.arguments)

    def describe(name: str, value: Any) -> Any:
        return pytree.tree_map_with_path(lambda path, leaf: rows.spec(name, _keys(path), leaf), value)

    apart = describable(apart, describe)
    return ModelInputs(
        {name: describe(name, value) for name, value in apart.arguments.items()},
        apart.order,
        device_of(model),
        positional,
        rows.sizes.get("N", 0),
        rows.degree,
        rows.sizes.get("N1", 0) == rows.sizes.get("N"),
        apart.objects,
        call if apart.objects else (),
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _keys(path: Path) -> Path:
    """Return the dictionary keys and tuple positions on the way to a leaf."""
    return tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
