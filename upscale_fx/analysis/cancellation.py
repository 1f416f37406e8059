"""Find differences in which digits cancel: of aggregated products, such as a variance ``E[x * x] - E[x] * E[x]``.

Half precision has 8 or 11 binary digits. The variance over one neighbour is 0. If both terms are rounded to 8 digits,
the standard deviation becomes 6 % of ``x`` instead.
"""

from __future__ import annotations

import operator

import torch
import torch_geometric.utils as pyg
from torch import fx

from upscale_fx import operators
from upscale_fx.compiled.calls import DIFFERENCES, PRODUCTS

_AGGREGATIONS = {pyg.scatter, pyg.segment, operators.spmm}
_PRODUCTS = {*PRODUCTS, torch.square, "square", torch.pow, operator.pow, "pow"}


def cancelling(graph: fx.Graph) -> set[fx.Node]:
    """Return the differences of two aggregated terms, one of them made of products, with these sums and products."""
    nodes: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target in DIFFERENCES and len(node.all_input_nodes) == 2:
            terms = [_products_and_sums(operand) for operand in node.all_input_nodes]
            sums = all(any(part.target in _AGGREGATIONS for part in term) for term in terms)
            products = any(part.target in _PRODUCTS for term in terms for part in term)
            nodes |= {node}.union(*terms) if sums and products else set()
    return nodes


def _products_and_sums(node: fx.Node) -> set[fx.Node]:
    """Return the aggregations and products that compute a value, back to the first other operations."""
    parts: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if part.target in _AGGREGATIONS | _PRODUCTS and part not in parts:
            parts.add(part)
            waiting += part.all_input_nodes
    return parts
