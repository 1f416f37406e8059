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


def inputs_from_examples(model: nn.Module, signature: inspect.Signature, arguments: Mapping[str, Any]) -> ModelInputs:
    """Describe the arguments of one call, by name.

    Raises:
        InputError: an argument is of a kind that cannot be described.
    """
    arguments, order, positional = named_arguments(signature, arguments)
    rows = ExampleRows()
    rows.learn(arguments)
    specs = {
        name: pytree.tree_map_with_path(lambda path, value, name=name: rows.spec(name, _keys(path), value), value)
        for name, value in arguments.items()
    }
    return ModelInputs(
        specs,
        order,
        device_of(model),
        positional,
        rows.sizes.get("N", 0),
        rows.degree,
        rows.sizes.get("N1", 0) == rows.sizes.get("N"),
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _keys(path: Path) -> Path:
    """Return the dictionary keys and tuple positions on the way to a leaf."""
    return tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path)
