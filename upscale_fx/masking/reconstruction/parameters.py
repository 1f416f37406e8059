"""Reads and sets entries of parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from upscale_fx.channels.positions import Positions
from upscale_fx.masking.consumers.consumer import own_parameter


def entries_of(root: nn.Module, name: str, entries: Positions) -> Tensor:
    """Entries of the flat parameter, in float64 and in the shape of ``entries``."""
    flat = root.get_parameter(name).detach().reshape(-1)
    return flat[torch.from_numpy(entries.copy()).to(flat.device)].double().cpu()


def set_entries(root: nn.Module, name: str, entries: Positions, value: Tensor) -> None:
    """Set entries of the flat parameter, in place, to values in the shape of ``entries``."""
    parameter = root.get_parameter(name)
    with torch.no_grad():
        flat = parameter.reshape(-1).clone()
        flat[torch.from_numpy(entries.copy()).to(flat.device)] = value.to(flat)
        parameter.copy_(flat.view(parameter.shape))


def set_parameter(root: nn.Module, name: str, value: Tensor) -> None:
    """Set a whole parameter by the name it has after ``torch.nn.utils.prune.remove``, in place."""
    parameter = own_parameter(root, name)
    with torch.no_grad():
        parameter.copy_(value.to(parameter))
