"""Which kernels a graph runs on."""

from __future__ import annotations

import itertools

from upscale_fx import operators
from upscale_fx.compiled.module import CompiledGNN, all_nodes
from upscale_fx.operators import kernels


def kernels_in_use(compiled: CompiledGNN) -> str:
    """``"numba"`` or ``"torch"``, by dtype and device of the parameters; empty for a graph without fused operators."""
    fused = {getattr(operators, name) for name in operators.__all__}
    if not any(node.target in fused for node in all_nodes(compiled)):
        return ""
    tensors = itertools.chain(compiled.parameters(), compiled.buffers())
    return kernels.name(next((tensor for tensor in tensors if tensor.is_floating_point()), None))
