"""Operators on graphs that are sorted by target: gather, message and aggregation in one, nothing per edge and channel.

The layout of a graph with N targets, M sources and E edges is ``rowptr [N + 1]`` and ``col [E]``, both int64: the edges
of target i are ``rowptr[i]`` to ``rowptr[i + 1]``, and ``col`` names their sources. :func:`csr` makes it.

All are registered with torch as ``torch.ops.upscale_fx.*``, with shapes for fake tensors and gradients: they compile
with ``torch.compile(fullgraph=True, dynamic=True)`` and train. What they run on is chosen per call, see
``operators.kernels``.
"""

from upscale_fx.operators.attention import attend, edge_softmax
from upscale_fx.operators.edges import edge_add, edge_additive_dot
from upscale_fx.operators.linear import edge_dot, spmm, spmm_transposed
from upscale_fx.operators.structure import csr

__all__ = [
    "attend",
    "csr",
    "edge_add",
    "edge_additive_dot",
    "edge_dot",
    "edge_softmax",
    "spmm",
    "spmm_transposed",
]
