"""Pure calls: they return the same result whenever they run, so they may be merged, moved or computed beforehand."""

from __future__ import annotations

from functools import cache

import torch
import torch_geometric.utils as pyg
from torch import fx
from torch.nn import functional as F

from upscale_fx.compiled import functions
from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.check_inputs import check_inputs

#: Functions that draw random numbers and are no operators of torch.
_RANDOM = {"rrelu", "dropout1d", "dropout2d", "dropout3d", "gumbel_softmax", "alpha_dropout", "feature_alpha_dropout"}
_IMPURE = {check_inputs, functions.set_item, functions.changed_copy, pyg.dropout_edge, pyg.dropout_node, F.dropout}


def is_pure(node: fx.Node) -> bool:
    """Whether a call of a function or method returns the same result whenever it runs, and has no side effects."""
    name = target_name(node.target)
    changes = node.target in _IMPURE or (name.endswith("_") and not name.endswith("__"))
    return not changes and name not in _RANDOM and not _draws(name)


@cache
def _draws(name: str) -> bool:
    """Whether torch has an operator of this name that draws random numbers."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or not hasattr(packet, "overloads"):
        return False
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags for overload in packet.overloads())
