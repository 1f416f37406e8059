"""The arguments that forward() takes, and example arguments by name."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
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


def with_entry(model: nn.Module, method: str) -> nn.Module:
    """Return a module that shares everything with the model and whose ``forward()`` is another method of it.

    The model's own forward hooks are left out: a call of the method does not run them.

    Raises:
        InputError: the model has no such method.
    """
    missing = getattr(model.forward, "__func__", None) is nn.Module.forward
    if method == "forward" and not missing:
        return model
    function: Any = getattr(type(model), method, None)
    if (missing and method == "forward") or not callable(function or model.__dict__.get(method)):
        own = [name for name, value in vars(type(model)).items() if callable(value) and not name.startswith("_")]
        raise InputError(
            f"{type(model).__name__} has no method '{method}' to trace; pass method=, one of "
            f"its own: {', '.join(own) or 'none'}"
        )
    entry = type(model).__new__(type(model))
    entry.__dict__.update(model.__dict__)
    pruned = {key: hook for key, hook in model._forward_pre_hooks.items() if isinstance(hook, BasePruningMethod)}
    entry.__dict__.update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict(pruned))
    entry.__dict__["forward"] = model.__dict__.get(method) or MethodType(function, entry)
    return entry


#: Names of arguments that are a graph with all its attributes.
_OBJECTS = ("data", "batch", "graph", "graphs", "g", "input", "inputs", "sample", "minibatch", "mini_batch", "mol")


def names_object(parameter: inspect.Parameter) -> bool:
    """Whether an argument is an object with attributes, such as a ``Data``, by its annotation or its name."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return False
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if any(kind in text for kind in ("Tensor", "Adj", "int", "float", "bool", "dict", "Dict")):
        return False
    if parameter.annotation is not parameter.empty and any(kind in text for kind in ("Data", "Batch")):
        return True
    return parameter.name in _OBJECTS or parameter.name.endswith(("data", "_graph", "_batch"))


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
    # NumPy's numbers count as Python's: the code of a graph could not spell them
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in bound.arguments.items()}


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
