"""Describe a model's arguments, from examples or from PyG's argument names and the widths that modules declare."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from upscale_fx.compiled.batches import arguments_of
from upscale_fx.compiled.inputs import ModelInputs, TensorSpec
from upscale_fx.compiled.module import CompiledGNN, inputs_of
from upscale_fx.compiled.objects.arguments import has_objects, taken_apart
from upscale_fx.compiled.objects.kinds import is_named_tuple, is_object
from upscale_fx.compiled.signatures import bind, names_object, signature_of
from upscale_fx.errors import InputError
from upscale_fx.tracing.examples import descriptions, device_of, examples_by_name, inputs_from_examples
from upscale_fx.tracing.objects.guessed import guess_objects
from upscale_fx.tracing.stated_axes import StatedAxes


def describe_inputs(
    model: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    stated: StatedAxes | None = None,
) -> Iterator[ModelInputs]:
    """Yield candidate descriptions of the model's arguments, the likeliest first.

    Examples give few candidates. Without examples, argument names and declared widths give several.

    Raises:
        InputError: an argument is missing, unknown, or of a kind that cannot be described.
    """
    signature = signature_of(model)
    if not signature.parameters:
        raise InputError(_without_arguments(model))
    if example_inputs is None and not example_kwargs:
        if stated:
            raise InputError(
                "dynamic_axes and indices describe example inputs; pass example_inputs=(x, edge_index, ...) too"
            )
        yield from _from_conventions(model, signature)
        return
    arguments = _bound(model, signature, example_inputs, example_kwargs or {})
    named = examples_by_name(signature, arguments)
    for described in descriptions(model, signature, arguments):
        yield stated.applied(described, named) if stated else described


def _without_arguments(model: nn.Module) -> str:
    stored = {name: value for name, value in model.named_buffers() if value.dim()}
    stored |= {name: value for name, value in vars(model).items() if isinstance(value, Tensor)}
    own = [name for name in stored if "." not in name]
    arguments = ", ".join(own) or "x, edge_index"
    return (
        f"forward() of {type(model).__name__} takes no arguments, so there is no graph to prune it for: one that is "
        f"stored in the model, or outside it, counts as weights. Make it arguments, as in def forward(self, "
        f"{arguments}), and pass it as example_inputs=({', '.join(f'model.{name}' for name in own) or arguments},)"
    )


def bind_examples(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    stated: StatedAxes | None = None,
) -> tuple[dict[str, Any], ModelInputs]:
    """Return example arguments by name, and their description; raises InputError if they do not fit ``forward``."""
    signature = signature_of(model)
    arguments = _bound(model, signature, example_inputs, example_kwargs or {})
    named = examples_by_name(signature, arguments)
    inputs = inputs_from_examples(model, signature, arguments)
    inputs = stated.applied(inputs, named) if stated else inputs
    return {name: value for name, value in named.items() if name in inputs.arguments}, inputs


def _bound(
    model: nn.Module, signature: inspect.Signature, example_inputs: Any, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the example arguments by name; an object is taken as a batch is."""
    one = is_object(example_inputs) and (is_named_tuple(example_inputs) or not isinstance(example_inputs, tuple | list))
    if isinstance(model, CompiledGNN):
        inputs = inputs_of(model)
        given = (example_inputs,) if one else example_inputs
        args = tuple(given) if isinstance(given, tuple | list) else ()
        if inputs.objects and has_objects(args, kwargs, inputs.objects):
            return taken_apart(inputs.objects, inputs.call, inputs.arguments, args, kwargs)[0]
    elif one and not (isinstance(example_inputs, Data) and _takes_attributes(signature)):
        example_inputs, more = arguments_of(example_inputs, model)
        kwargs = {**more, **kwargs}
    return bind(signature, example_inputs, kwargs)


def takes_objects(model: nn.Module) -> bool:
    """Whether ``forward()`` seems to take an object, such as a ``Data``, by the names of its arguments."""
    return not isinstance(model, CompiledGNN) and bool(_objects_of(signature_of(model)))


def _takes_attributes(signature: inspect.Signature) -> bool:
    """Whether ``forward()`` names the attributes of a ``Data``, as in forward(x, edge_index)."""
    parameters = list(signature.parameters.values())
    return len(parameters) > 1 and not names_object(parameters[0])


def _from_conventions(model: nn.Module, signature: inspect.Signature) -> Iterator[ModelInputs]:
    """Describe arguments by PyG's names and by declared widths (in_channels, in_features, edge_dim, ...)."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    required = [
        name
        for name, p in signature.parameters.items()
        if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    edge_width, relations = _declared(model, "edge_dim"), _declared(model, "num_relations")
    widths = _declared_widths(model)
    objects = _objects_of(signature)
    if objects:

        def spec_of(name: str, width: int) -> TensorSpec | None:
            return _conventional_spec(name, width, dtype, edge_width, relations)

        rest = [name for name in required if name not in objects]
        if all(spec_of(name, 1) is not None for name in rest):
            yield from guess_objects(
                model,
                list(signature.parameters),
                objects,
                lambda width: {n: spec_of(n, width) for n in rest},
                widths,
                spec_of,
            )
            return
    for width in widths:
        arguments: dict[str, Any] = {}
        for name in sorted(required, key=objects.__contains__):
            spec = _conventional_spec(name, width, dtype, edge_width, relations)
            if spec is None:
                raise InputError(
                    f"argument '{name}' of forward{signature} has a name that does not tell its shape; pass examples, "
                    f"as in example_inputs=({', '.join(required)},)"
                )
            arguments[name] = spec
        yield ModelInputs(arguments, tuple(signature.parameters), device_of(model), tuple(arguments))
    if not widths:
        raise InputError(
            f"no module declares an input width, so the shape of '{(required or ['x'])[0]}' is unknown; pass examples, "
            f"as in example_inputs=({', '.join(required)},)"
        )


def _objects_of(signature: inspect.Signature) -> list[str]:
    """The required arguments that are objects, by their names; one named ``batch`` is, unless there are others."""
    required = [p for p in signature.parameters.values() if p.default is p.empty]
    return [p.name for p in required if names_object(p) and (p.name != "batch" or len(required) == 1)]


def _conventional_spec(
    name: str, width: int, dtype: torch.dtype, edge_width: int | None, relations: int | None
) -> TensorSpec | None:
    long = torch.long
    if name in ("x", "h"):
        return TensorSpec(("N", width), dtype)
    if name == "edge_index":
        return TensorSpec((2, "E"), long, "edges")
    if name == "edge_weight":
        return TensorSpec(("E",), dtype)
    if name == "edge_attr" and edge_width is not None:
        return TensorSpec(("E", edge_width), dtype)
    if name == "edge_type" and relations is not None:
        return TensorSpec(("E",), long, "index", torch.arange(relations))
    if name == "batch":
        return TensorSpec(("N",), long, "batch")
    if name == "pos":
        return TensorSpec(("N", 3), dtype)
    return None


def _declared(model: nn.Module, attribute: str) -> int | None:
    """Return the first integer attribute of this name in any module."""
    values = (getattr(module, attribute, None) for module in model.modules())
    return next((value for value in values if isinstance(value, int)), None)


def _declared_widths(model: nn.Module) -> list[int]:
    widths: list[int] = []
    for module in model.modules():
        for attribute in ("in_channels", "in_features", "num_features", "input_dim", "channels", "in_dim"):
            width = getattr(module, attribute, None)
            if isinstance(width, tuple | list) and width:
                width = width[0]
            if isinstance(width, int) and width > 0 and width not in widths:
                widths.append(width)
    return widths
