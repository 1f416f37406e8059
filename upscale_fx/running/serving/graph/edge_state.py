"""All edges as plain arrays, for checkpoints."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upscale_fx.running.serving.graph import checks
from upscale_fx.running.serving.graph.edge_slots import EdgeSlots
from upscale_fx.running.serving.stores.base import State

# Values by name are called "values.<dtype>.<name>".
_VALUES = "values"


def arrays(slots: EdgeSlots, sizes: tuple[int, int]) -> dict[str, NDArray[np.generic]]:
    """Return copies of the living edges: their ends, ids and values, and how many nodes there are on each side."""
    living = slots.slots()
    state: dict[str, NDArray[np.generic]] = {
        "sizes": np.array([*sizes, slots.next_id], np.int64),
        "ends": np.stack([end[living] for end in slots.ends]),
        "ids": slots.ids(living).copy(),
    }
    for name, value in slots.values(living).items():
        dtype = str(value.dtype).removeprefix("torch.")
        # As bytes along a last axis, because numpy lacks bfloat16.
        state[f"{_VALUES}.{dtype}.{name}"] = value.unsqueeze(-1).view(torch.uint8).numpy()
    return state


def restored(state: State) -> tuple[EdgeSlots, tuple[int, int]]:
    """Return what :func:`arrays` was given, without the edges that are gone.

    Raises:
        InputError: the arrays do not fit each other.
    """
    num_sources, num_targets, next_id = (int(number) for number in state["sizes"])
    ends = checks.ends(torch.from_numpy(state["ends"].astype(np.int64)), num_sources, num_targets)
    values = {}
    for key, array in state.items():
        if key.startswith(f"{_VALUES}."):
            _, dtype, name = key.split(".", 2)
            values[name] = _from_bytes(array, getattr(torch, dtype))
    checks.specs(values, ends[0].size)
    slots = EdgeSlots((ends[0].astype(np.int32), ends[1].astype(np.int32)), values, None, next_id)
    return slots.numbered(checks.numbers(state["ids"], "ids"), next_id), (num_sources, num_targets)


def _from_bytes(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    if array.size == 0:  # numpy gives these strides of 0, which torch does not view
        return torch.empty(array.shape[:-1], dtype=dtype)
    return torch.from_numpy(np.array(array)).view(dtype).squeeze(-1)
