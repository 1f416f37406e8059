"""Guess the attributes of an object that ``forward()`` takes, from those it reads, by PyG's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from upscale_fx.compiled.inputs import SMALL, ModelInputs, RowCount, TensorSpec
from upscale_fx.compiled.module import call_by_name
from upscale_fx.compiled.objects.arguments import ObjectParts
from upscale_fx.compiled.objects.kinds import Kind
from upscale_fx.compiled.objects.reads import recorded
from upscale_fx.compiled.undisturbed import in_mode, undisturbed
from upscale_fx.errors import InputError
from upscale_fx.tracing.objects.apart import attributes_read

#: The description of an attribute by its name, for one width of ``x``; None if the name does not tell it.
Convention = Callable[[str, int], Any]
#: Attributes that an object gets whenever the model looks for them; others only if it fails without them.
_USUAL = ("x", "edge_index", "batch", "edge_attr", "edge_type", "pos")
#: Attributes that are row counts, or follow from them.
_COUNTS = {
    "num_graphs": RowCount("B"), "batch_size": RowCount("B"), "ptr": TensorSpec(("P0",), torch.long, "ptr"),
}  # fmt: skip


def guess_objects(
    model: nn.Module,
    order: Sequence[str],
    objects: Sequence[str],
    others: Callable[[int], dict[str, Any]],
    widths: Sequence[int],
    convention: Convention,
) -> Iterator[ModelInputs]:
    """Yield descriptions of the arguments in which some are ``Data`` objects with the attributes that are read.

    Args:
        model: the model; it is called.
        order: names of the arguments of ``forward()``.
        objects: names of the arguments that are objects.
        others: descriptions of the other arguments, for a width of ``x``.
        widths: widths of ``x`` to try, the likeliest first.
        convention: describes attributes.

    Raises:
        InputError: the model accepts none; the message has the attributes that it reads.
    """
    found, read, failure = False, list[str](), None
    for width in widths or [1]:
        inputs, text, error = _grown(model, order, objects, others(width), partial(_of_width, convention, width))
        read = list(dict.fromkeys((*read, *text)))
        failure = failure or error
        if error is None and widths:
            found = True
            yield inputs
    if not found:
        names = ", ".join(read) or "no attribute that could be seen"
        raise InputError(
            f"{type(model).__name__}.forward({', '.join(order)}) takes an object and reads {names}; names and declared "
            f"widths do not tell what these hold ({type(failure).__name__}: {failure}). Pass an example, as in "
            f"example_inputs=({', '.join(objects)},), or calibration data"
        ) from failure


def _of_width(convention: Convention, width: int, key: str) -> Any:
    return convention(key, width)


def _grown(
    model: nn.Module,
    order: Sequence[str],
    objects: Sequence[str],
    others: dict[str, Any],
    convention: Callable[[str], Any],
) -> tuple[ModelInputs, list[str], Exception | None]:
    """Add the attributes that the model looks for, until it runs or looks for nothing that can be added.

    Returns the description, the attributes that were read, and why the model still fails.
    """
    attributes: dict[str, list[str]] = {name: ["x", "edge_index"] for name in objects}
    read: list[str] = []
    while True:
        inputs = _described(model, order, attributes, others, convention)
        failure = None
        with recorded() as reads:
            try:
                with in_mode(model, training=False), torch.no_grad(), undisturbed(model):
                    call_by_name(model, inputs, inputs.example(SMALL), quiet=True)
            except Exception as error:
                failure = error
        read = list(dict.fromkeys((*read, *attributes_read(inputs, reads))))
        new = False
        for place, key in reads.missing:
            known = key in _COUNTS or convention(key) is not None
            if key not in attributes[place[0]] and known and (failure is not None or key in _USUAL):
                attributes[place[0]].append(key)
                new = True
        if not new:
            return inputs, read, failure


def _described(
    model: nn.Module,
    order: Sequence[str],
    attributes: dict[str, list[str]],
    others: dict[str, Any],
    convention: Callable[[str], Any],
) -> ModelInputs:
    arguments, parts, new_order = dict[str, Any](), dict[str, ObjectParts](), list[str]()
    for name in order:
        if name not in attributes:
            new_order.append(name)
            arguments |= {name: others[name]} if name in others else {}
            continue
        names = {}
        for key in attributes[name]:
            alone = len(attributes) == 1 and (key not in order or key in attributes)
            names[key] = key if alone else f"{key}_{name}"
            arguments[names[key]] = _COUNTS[key] if key in _COUNTS else convention(key)
        batched = "num_graphs" in names
        parts[name] = ObjectParts(Kind(Data, batched), names)
        new_order += names.values()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return ModelInputs(arguments, tuple(new_order), device, objects=parts, call=tuple(order))
