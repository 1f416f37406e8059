"""Describing a model's arguments: from examples, or from PyG's argument names and the widths modules declare."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_geometric.data import Data
from torch_geometric.data.data import BaseData

from upscale_fx.errors import InputError
from upscale_fx.inputs import ModelInputs, RowCount, TensorSpec

_NODE_ARGUMENTS = ("x", "pos", "z", "h", "x_0")
_EDGE_INDEX = "edge_index"


def describe_inputs(
    model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None
) -> Iterator[ModelInputs]:
    """Yield candidate descriptions of the model's arguments, the likeliest first.

    With examples there is one; without, argument names and declared widths give a few to be tried.

    Raises:
        InputError: an argument is missing, unknown, or of a kind that cannot be described.
    """
    signature = inspect.signature(model.forward)
    if example_inputs is None and not example_kwargs:
        yield from _from_conventions(model, signature)
        return
    given = _bind(signature, example_inputs, example_kwargs or {})
    yield _from_examples(model, signature, given)


def bind_examples(
    model: nn.Module, example_inputs: Any, example_kwargs: Mapping[str, Any] | None
) -> tuple[dict[str, Any], ModelInputs]:
    """Example arguments by name, and their description; raises InputError where they do not fit ``forward``."""
    signature = inspect.signature(model.forward)
    given = _bind(signature, example_inputs, example_kwargs or {})
    return given, _from_examples(model, signature, given)


def _bind(signature: inspect.Signature, inputs: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
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


def _from_examples(model: nn.Module, signature: inspect.Signature, given: dict[str, Any]) -> ModelInputs:
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InputError(f"argument '*{name}' of forward{signature} cannot be traced; give it a name of its own")
        arguments[name] = value
    leaves = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    sizes = _known_sizes(arguments, leaves)
    specs = {name: _spec_tree(name, value, sizes) for name, value in arguments.items()}
    return ModelInputs(specs, tuple(signature.parameters), _device(model))


def _known_sizes(arguments: Mapping[str, Any], leaves: Sequence[Tensor]) -> dict[str, int]:
    """Row counts of the user's example graph, as far as names and dtypes tell."""
    sizes: dict[str, int] = {}
    for name, value in arguments.items():
        first = next((leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)), None)
        if first is None:
            continue
        if _is_edge_index(name, first):
            sizes.setdefault("E", first.shape[1])
        elif name in _NODE_ARGUMENTS and first.dim():
            sizes.setdefault("N", first.shape[-2] if first.dim() > 2 else first.shape[0])
    if "N" not in sizes:
        floats = [leaf for leaf in leaves if leaf.is_floating_point() and leaf.dim() > 1]
        if floats:
            sizes["N"] = floats[0].shape[-2]
    return sizes


def _is_edge_index(name: str, value: Tensor) -> bool:
    integral = not value.is_floating_point() and value.dtype != torch.bool
    fits = integral and value.dim() == 2 and value.shape[0] == 2
    if name == _EDGE_INDEX and not fits and value.layout == torch.strided:
        raise InputError(
            f"argument '{name}' must be an integer tensor of shape [2, E], "
            f"got {value.dtype} of shape {list(value.shape)}"
        )
    return fits


def _spec_tree(name: str, value: Any, sizes: dict[str, int]) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            return _tensor_spec(name, value, sizes)
        if name == _EDGE_INDEX and isinstance(value, bool | str | int | float):
            raise InputError(f"argument '{name}' must be an integer tensor of shape [2, E], got {value!r}")
        if isinstance(value, bool) or value is None or isinstance(value, str | float):
            return value
        if isinstance(value, int):
            if name in ("num_nodes", "size") or value == sizes.get("N"):
                return RowCount("N")
            return RowCount("B") if name in ("batch_size", "num_graphs") else value
        if isinstance(value, BaseData):
            raise InputError(
                f"argument '{name}' is a {type(value).__name__}; a graph takes tensors, so give the model a forward of "
                f"tensors, as in forward(x, edge_index), and call it from one that takes the {type(value).__name__}"
            )
        raise InputError(
            f"argument '{name}' is a {type(value).__name__}, which cannot be traced; pass dense tensors "
            f"(an edge_index of shape [2, E] instead of a SparseTensor)"
        )

    return pytree.tree_map(leaf, value)


def _tensor_spec(name: str, value: Tensor, sizes: dict[str, int]) -> TensorSpec:
    if value.layout != torch.strided:
        raise InputError(f"argument '{name}' is sparse ({value.layout}); trace with an edge_index of shape [2, E]")
    if _is_edge_index(name, value):
        limit = int(value.max()) + 1 if "N" not in sizes and value.numel() else None
        return TensorSpec((2, "E"), value.dtype, "edges", limit=limit)
    if value.dim() == 0:
        return TensorSpec((), value.dtype, "feature")

    def symbol(axis: int) -> str:
        size = value.shape[axis]
        order = ("E", "N") if "edge" in name else ("N", "E")
        return next((s for s in order if sizes.get(s) == size), f"R{axis}")

    integral = not value.is_floating_point() and value.dtype != torch.bool
    if integral and name in ("batch", "batch_index", "index") and value.dim() == 1:
        return TensorSpec((symbol(0),), value.dtype, "batch")
    if integral:
        pool = value.detach().cpu()[:64]
        if not len(pool):
            raise InputError(f"argument '{name}' has no rows; give an example with at least one")
        return TensorSpec((symbol(0), *value.shape[1:]), value.dtype, "index", pool)
    rows = value.dim() - 1 if value.dim() > 1 else 1
    return TensorSpec((*(symbol(a) for a in range(rows)), *value.shape[rows:]), value.dtype)


def _from_conventions(model: nn.Module, signature: inspect.Signature) -> Iterator[ModelInputs]:
    """Arguments by PyG's naming, widths by what the modules declare (in_channels, in_features, edge_dim, ...)."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    required = [
        name
        for name, p in signature.parameters.items()
        if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    edge_width, relations = _declared(model, "edge_dim"), _declared(model, "num_relations")
    widths = _declared_widths(model)
    for width in widths:
        arguments: dict[str, Any] = {}
        for name in required:
            spec = _conventional_spec(name, width, dtype, edge_width, relations)
            if spec is None:
                raise InputError(
                    f"argument '{name}' of forward{signature} is not one whose shape its name tells; pass examples, "
                    f"as in example_inputs=({', '.join(required)},)"
                )
            arguments[name] = spec
        yield ModelInputs(arguments, tuple(signature.parameters), _device(model))
    if not widths:
        raise InputError(
            f"no module declares an input width, so the shape of '{(required or ['x'])[0]}' is unknown; pass examples, "
            f"as in example_inputs=({', '.join(required)},)"
        )


def _conventional_spec(
    name: str, width: int, dtype: torch.dtype, edge_width: int | None, relations: int | None
) -> TensorSpec | None:
    long = torch.long
    if name in ("x", "h"):
        return TensorSpec(("N", width), dtype)
    if name == _EDGE_INDEX:
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
    """The first module's integer attribute of this name."""
    values = (getattr(module, attribute, None) for module in model.modules())
    return next((value for value in values if isinstance(value, int)), None)


def _declared_widths(model: nn.Module) -> list[int]:
    found: list[int] = []
    for module in model.modules():
        for attribute in ("in_channels", "in_features", "num_features", "input_dim", "channels", "in_dim"):
            width = getattr(module, attribute, None)
            if isinstance(width, tuple | list) and width:
                width = width[0]
            if isinstance(width, int) and width > 0 and width not in found:
                found.append(width)
    return found


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
