"""Which functions are the whole forward() of a module, and of which."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from upscale_fx.compiled import functions
from upscale_fx.operators.kernels import memory


@dataclass(frozen=True)
class Call:
    """A call of a function that reads the tensors of one module.

    Attributes:
        owner: the path of the module.
        module: its class.
        x: what it is called with.
        tensors: names of the module's tensors that the call reads.
        constants: the other arguments of the function, by name.
        total: what the result is added to, if the function does that too.
        bias: what is added to every row, if it is no tensor of the module: fusing merges biases.
    """

    owner: str
    module: type[nn.Module]
    x: fx.Node
    tensors: frozenset[str]
    constants: Mapping[str, Any]
    total: fx.Node | None = None
    bias: fx.Node | None = None


@dataclass(frozen=True)
class _Kind:
    """How a function is called, and how its module is made.

    Attributes:
        arguments: names of the function's arguments, in order; ``input`` is what the module is called with.
        module: the class of the module.
        make: makes the module on a device, of its tensors and of the function's other arguments.
        defaults: values of arguments that a call may leave out.
    """

    arguments: tuple[str, ...]
    module: type[nn.Module]
    make: Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _linear(tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> nn.Module:
    outputs, inputs = tensors["weight"].shape
    return nn.Linear(inputs, outputs, bias="bias" in tensors, device="meta")


def _embedding(tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> nn.Module:
    rows, width = tensors["weight"].shape
    return nn.Embedding(rows, width, **constants, device="meta")


def _layer_norm(tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> nn.Module:
    shape = list(constants["normalized_shape"])
    return nn.LayerNorm(shape, constants["eps"], bias="bias" in tensors, device="meta")


def _prelu(tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> nn.Module:
    return nn.PReLU(tensors["weight"].numel(), device="meta")


def _convolution(kind: type[nn.Module]) -> Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]:
    def make(tensors: Mapping[str, Tensor], constants: Mapping[str, Any]) -> nn.Module:
        outputs, inputs, *size = tensors["weight"].shape
        inputs *= constants["groups"]
        return kind(inputs, outputs, tuple(size), bias="bias" in tensors, device="meta", **constants)

    return make


_LINEAR = _Kind(("input", "weight", "bias"), nn.Linear, _linear, {"bias": None})
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_PLAIN = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_KINDS: dict[Any, _Kind] = {
    F.linear: _LINEAR,
    memory.linear: _LINEAR,
    functions.add_linear: _Kind(("total", "input", "weight"), nn.Linear, _linear),
    F.embedding: _Kind(
        ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
        nn.Embedding,
        _embedding,
        {"padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False},
    ),
    F.layer_norm: _Kind(
        ("input", "normalized_shape", "weight", "bias", "eps"), nn.LayerNorm, _layer_norm, {"bias": None, "eps": 1e-5}
    ),
    torch.prelu: _Kind(("input", "weight"), nn.PReLU, _prelu),
    F.conv1d: _Kind(_CONVOLUTION, nn.Conv1d, _convolution(nn.Conv1d), _PLAIN),
    F.conv2d: _Kind(_CONVOLUTION, nn.Conv2d, _convolution(nn.Conv2d), _PLAIN),
    F.conv3d: _Kind(_CONVOLUTION, nn.Conv3d, _convolution(nn.Conv3d), _PLAIN),
}

#: The classes that modules of a graph get.
LAYERS = tuple({kind.module: None for kind in _KINDS.values()})


def layer_call(node: fx.Node) -> Call | None:
    """Return the call of a module that a node is; None if it is none."""
    kind = _KINDS.get(node.target) if node.op == "call_function" else None
    if kind is None or len(node.args) > len(kind.arguments) or not node.kwargs.keys() <= set(kind.arguments):
        return None
    bound = {**kind.defaults, **dict(zip(kind.arguments, node.args, strict=False)), **node.kwargs}
    x, total = bound.pop("input", None), bound.pop("total", None)
    reads = {name: bound.pop(name) for name in ("weight", "bias") if bound.get(name) is not None}
    bound.pop("bias", None)
    others = set(kind.arguments) - {"total", "input", "weight", "bias"}
    if not isinstance(x, fx.Node) or "weight" not in reads or bound.keys() != others:
        return None
    bias = None
    if kind is _LINEAR and "bias" in reads and _owner(reads["bias"], "bias") != _owner(reads["weight"], "weight"):
        bias = reads.pop("bias")
    owners = {_owner(read, name) for name, read in reads.items()}
    if len(owners) != 1 or not (owner := owners.pop()) or any(isinstance(v, fx.Node) for v in _leaves(bound)):
        return None
    return Call(owner, kind.module, x, frozenset(reads), bound, total, bias)


def made_of(call: Call, tensors: Mapping[str, Tensor]) -> nn.Module | None:
    """Return a module without values that does what the call does with these tensors; None if there is none."""
    kind = next(kind for kind in _KINDS.values() if kind.module is call.module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of tensors without entries; nothing is initialised here
            made = kind.make(tensors, call.constants)
    except (TypeError, ValueError, RuntimeError):  # such as a stride that the layer itself does not allow
        return None
    own = {name: tuple(value.shape) for name, value in made._parameters.items() if value is not None}
    return made if own == {name: tuple(value.shape) for name, value in tensors.items()} else None


def _owner(read: Any, name: str) -> str:
    """The path of the module whose tensor of that name is read; empty if none is."""
    if not isinstance(read, fx.Node) or read.op != "get_attr":
        return ""
    owner, _, last = str(read.target).rpartition(".")
    return owner if last == name else ""


def _leaves(values: Mapping[str, Any]) -> list[Any]:
    return [leaf for value in values.values() for leaf in (value if isinstance(value, tuple | list) else (value,))]
