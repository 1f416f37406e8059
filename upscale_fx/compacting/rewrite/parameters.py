"""Cutting parameters, buffers and per-channel modules to the channels that are kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from upscale_fx.channels.positions import Positions


def lookup(root: nn.Module, target: str) -> Tensor:
    """A parameter or buffer by its dotted name."""
    path, _, name = target.rpartition(".")
    value: Tensor = getattr(root.get_submodule(path), name)
    return value


def cut_tensor(value: Tensor, layout: Positions) -> Tensor:
    """A parameter or buffer cut to a layout; a parameter stays one, frozen if it was."""
    index = torch.from_numpy(layout.reshape(-1)).to(value.device)
    cut = value.detach().reshape(-1)[index].reshape(layout.shape)
    return nn.Parameter(cut, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else cut


def place(root: nn.Module, target: str, value: Any, persistent: bool = True) -> None:
    """Put a parameter, buffer or module under a dotted name, making the containers on the way."""
    *path, name = target.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    elif isinstance(value, Tensor):
        owner.register_buffer(name, value, persistent=persistent)
    else:
        owner.add_module(name, value)


def cut_module(module: nn.Module, channels: Positions | None) -> nn.Module:
    """A copy of a per-channel module (batch norm) for some of its channels."""
    new = copy.deepcopy(module)
    if channels is None:
        return new
    pick = torch.from_numpy(channels.copy())
    for name, parameter in list(new._parameters.items()):
        if parameter is not None:
            cut = parameter.detach()[pick.to(parameter.device)].clone()
            new._parameters[name] = nn.Parameter(cut, requires_grad=parameter.requires_grad)
    for name, buffer in list(new._buffers.items()):
        if buffer is not None and buffer.dim() == 1:
            new._buffers[name] = buffer[pick.to(buffer.device)].clone()
    new.num_features = len(channels)  # type: ignore[assignment]
    return new


def narrow_inputs(module: nn.Module, weights: Sequence[str], columns: Positions) -> None:
    """Cut the input weights ``[.., I]`` of a recurrent module, in place, to some of its input channels."""
    pick = torch.from_numpy(columns.copy())
    for name in weights:
        weight = module.get_parameter(name)
        cut = weight.detach().index_select(1, pick.to(weight.device))
        setattr(module, name, nn.Parameter(cut, requires_grad=weight.requires_grad))
    module.input_size = len(columns)  # type: ignore[assignment]
