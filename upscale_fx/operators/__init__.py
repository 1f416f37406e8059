"""Operators on graphs sorted by target: gather, message and aggregation in one call, without ``[E, C]`` messages.

A graph with N targets, M sources and E edges is given as ``rowptr [N + 1]`` and ``col [E]``, both int64: the edges of
target i are ``rowptr[i]`` to ``rowptr[i + 1]``, and ``col`` holds their sources. :func:`csr` sorts a graph.

All operators are registered with torch as ``torch.ops.upscale_fx.*``, with shapes for fake tensors and with gradients:
they work under ``torch.compile(fullgraph=True, dynamic=True)`` and in training. ``operators.kernels`` chooses the
kernels for each call.
"""

from upscale_fx.operators.attention import attend, edge_softmax
from upscale_fx.operators.edges import edge_add, edge_additive_dot
from upscale_fx.operators.flops import register_flops
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

register_flops()
