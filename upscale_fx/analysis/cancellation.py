"""Where digits cancel: differences of aggregated products, such as a variance ``E[x * x] - E[x] * E[x]``.

Half precision has 8 or 11 binary digits. A node with one neighbour has a variance of 0, and a standard deviation of 6 %
of ``x`` if the two terms are rounded to 8 digits each.
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
    """Differences whose terms are both made of aggregations and one of products, with these sums and products."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target in DIFFERENCES and len(node.all_input_nodes) == 2:
            terms = [_products_and_sums(operand) for operand in node.all_input_nodes]
            sums = all(any(part.target in _AGGREGATIONS for part in term) for term in terms)
            products = any(part.target in _PRODUCTS for term in terms for part in term)
            found |= {node}.union(*terms) if sums and products else set()
    return found


def _products_and_sums(node: fx.Node) -> set[fx.Node]:
    """The aggregations and products that a value is made of, back to the first that is neither."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if part.target in _AGGREGATIONS | _PRODUCTS and part not in found:
            found.add(part)
            waiting += part.all_input_nodes
    return found
