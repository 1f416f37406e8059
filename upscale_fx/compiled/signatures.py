"""The arguments that forward() takes, and example arguments by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import Sequential

from upscale_fx.errors import InputError


def signature_of(model: nn.Module) -> inspect.Signature:
    """Return the signature of forward(); torch_geometric.nn.Sequential gives its argument names in a string."""
    signature = inspect.signature(model.forward)
    if isinstance(model, Sequential) and any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(name, kind) for name in model.signature.param_dict])
    return signature


def bind(signature: inspect.Signature, inputs: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return example arguments by the names of the signature; raises InputError if they do not fit it."""
    if inputs is None:
        inputs = ()
    if isinstance(inputs, Data) and len(signature.parameters) > 1:
        kwargs = {**{k: inputs[k] for k in inputs.keys() if k in signature.parameters}, **kwargs}  # noqa: SIM118
        inputs = ()
    if isinstance(inputs, Mapping):
        kwargs, inputs = {**inputs, **kwargs}, ()
    if isinstance(inputs, Tensor) or not isinstance(inputs, Sequence):
        inputs = (inputs,)
    try:
        bound = signature.bind(*inputs, **kwargs)
    except TypeError as error:
        raise InputError(
            f"the example inputs do not fit forward{signature}: {error}; pass one value per argument, as in "
            f"example_inputs=(x, edge_index), example_kwargs={{'batch': batch}}"
        ) from None
    return dict(bound.arguments)


def named_arguments(
    signature: inspect.Signature, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Return all arguments by name, those of ``*args`` and ``**kwargs`` too; the order of names; the positional ones.

    Positional are the names before the first optional one, as users call models; forward pre-hooks see the difference.

    ``*args`` become ``args_0``, ``args_1``, ...; arguments of ``**kwargs`` keep their keyword.
    """
    named: dict[str, Any] = {}
    order: list[str] = []
    positional = _given_by_position(signature, arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            parts = {f"{name}_{i}": value for i, value in enumerate(arguments.get(name, ()))}
            if parts:
                positional = (*(earlier for earlier in order if earlier in arguments), *parts)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            parts = dict(arguments.get(name, {}))
        else:
            order.append(name)
            parts = {name: arguments[name]} if name in arguments else {}
        named |= parts
        order += [part for part in parts if part not in order]
    return named, tuple(order), positional


def _given_by_position(signature: inspect.Signature, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the required arguments before the first optional or missing one."""
    names: list[str] = []
    for name, parameter in signature.parameters.items():
        by_position = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        required = parameter.default is parameter.empty or parameter.kind is parameter.POSITIONAL_ONLY
        if not by_position or name not in arguments or not required:
            break
        names.append(name)
    return tuple(names)
