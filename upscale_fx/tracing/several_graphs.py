"""Several graphs in one call: which arguments belong to which (``x_s``, ``edge_index_s``, ``x_t``, ``edge_index_t``).

An edge index and node features belong together if they (1) lie in one container, ``(x, edge_index)``; (2) have the
same rest of their names, after words such as ``x`` and ``edge_index``; or (3) follow each other in the signature. Edge
indices without node features of their own share those of another one: two kinds of edges of one graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from upscale_fx.tracing.argument_names import is_edge_index

#: The name of an argument, and the keys and positions on the way to a tensor in it.
Leaf = tuple[Any, ...]

#: Words of names that say what a tensor is, and not to which graph it belongs.
_WORDS = frozenset(
    "x h z pos feat feats feature features node nodes e ei edge edges index indices attr attrs weight weights batch "
    "ptr type types adj graph graphs data inputs input".split()
)


@dataclass
class OneGraph:
    """The arguments of one of several graphs.

    Attributes:
        nodes: its number of nodes in the example.
        edges: its numbers of edges, by leaf of an edge index.
        leaves: all its arguments.
    """

    nodes: int
    edges: dict[Leaf, int] = field(default_factory=dict)
    leaves: set[Leaf] = field(default_factory=set)


def leaves_of(arguments: Mapping[str, Any]) -> dict[Leaf, Tensor]:
    """Return all tensors in arguments, by the way to them."""
    found = pytree.tree_flatten_with_path(dict(arguments))[0]
    paths = ((tuple(getattr(step, "key", getattr(step, "idx", None)) for step in path), value) for path, value in found)
    return {path: value for path, value in paths if isinstance(value, Tensor)}


def edge_indices(arguments: Mapping[str, Any]) -> dict[Leaf, Tensor]:
    """Return the edge indices in arguments that are not empty, but those of types of edges."""
    found = leaves_of(arguments).items()
    return {leaf: v for leaf, v in found if not _is_typed(leaf) and is_edge_index(str(leaf[0]), v) and v.numel()}


def several_graphs(arguments: Mapping[str, Any]) -> list[OneGraph]:
    """Return the graphs of a call, in the order of their edges; empty unless there are at least two."""
    leaves = leaves_of(arguments)
    edges = {leaf: value for leaf, value in leaves.items() if _is_edges(leaf, value)}
    if len(edges) < 2 or any(_is_typed(leaf) for leaf in leaves):
        return []
    owners: Mapping[Leaf, Leaf | None] = {leaf: _owner(leaf, edges, leaves) for leaf in edges}
    if len(set(owners.values())) == 1:
        owners = _by_rank(edges, leaves) or owners
    graphs: dict[Leaf, OneGraph] = {}  # by the leaf of the node features
    for leaf, owner in owners.items():
        if owner is None:
            return []
        graph = graphs.setdefault(owner, OneGraph(leaves[owner].shape[0]))
        graph.edges[leaf] = edges[leaf].shape[1]
        graph.leaves |= {owner, leaf, *_beside(leaf, owner, leaves)}
    return list(graphs.values()) if len(graphs) > 1 else []


def _beside(leaf: Leaf, owner: Leaf, leaves: Mapping[Leaf, Tensor]) -> set[Leaf]:
    """Return the other arguments of a graph: in the same container, or of the same tag."""
    if len(leaf) > 1 and leaf[:-1] == owner[:-1]:
        return {other for other in leaves if other[:-1] == leaf[:-1]}
    tag = _tag(leaf)
    return {other for other in leaves if tag and _tag(other) == tag}


def _owner(leaf: Leaf, edges: Mapping[Leaf, Tensor], leaves: Mapping[Leaf, Tensor]) -> Leaf | None:
    """Return the node features that an edge index belongs to, None if there are none that are long enough."""
    rows = _node_like(leaf, edges, leaves)
    features = [other for other in rows if leaves[other].is_floating_point()]
    inside = [other for other in (*features, *rows) if len(leaf) > 1 and other[:-1] == leaf[:-1]]
    named = [other for other in (*features, *rows) if _tag(leaf) and _tag(other) == _tag(leaf)]
    order = list(leaves)
    before = [other for other in features if order.index(other) < order.index(leaf) and leaves[other].dim() > 1]
    return next(iter([*inside, *named, *before[::-1], *features]), None)


def _by_rank(edges: Mapping[Leaf, Tensor], leaves: Mapping[Leaf, Tensor]) -> dict[Leaf, Leaf] | None:
    """Pair edge indices with node features by their order, if there are as many and their sizes differ."""
    rows = {other for leaf in edges for other in _node_like(leaf, edges, leaves)}
    features = [leaf for leaf in leaves if leaf in rows and leaves[leaf].is_floating_point() and leaves[leaf].dim() > 1]
    sizes = [leaves[leaf].shape[0] for leaf in features]
    fits = all(size >= _least(value) for size, value in zip(sizes, edges.values(), strict=False))
    if len(features) != len(edges) or len(set(sizes)) == 1 or not fits:
        return None
    return dict(zip(edges, features, strict=True))


def _node_like(leaf: Leaf, edges: Mapping[Leaf, Tensor], leaves: Mapping[Leaf, Tensor]) -> list[Leaf]:
    """Return the tensors that have a row for every node that an edge index names, but none for every edge."""
    lengths = {value.shape[1] for value in edges.values()}
    rows = {other: value.shape[0] for other, value in leaves.items() if value.dim() and other not in edges}
    long = [other for other, count in rows.items() if count >= _least(edges[leaf])]
    return [other for other in long if rows[other] not in lengths] or long


def _least(edge_index: Tensor) -> int:
    return int(edge_index.max()) + 1 if edge_index.numel() else 0


def _is_edges(leaf: Leaf, value: Tensor) -> bool:
    integral = not value.is_floating_point() and value.dtype.is_signed and not value.is_complex()
    return integral and value.dim() == 2 and value.shape[0] == 2 and "hyperedge" not in str(leaf[0])


def _is_typed(leaf: Leaf) -> bool:
    """Whether a tensor lies under a type of edges, as in ``edge_index_dict``."""
    return any(isinstance(key, tuple) or (isinstance(key, str) and "__" in key) for key in leaf[1:])


def _tag(leaf: Leaf) -> tuple[str, ...]:
    """Return the words of a name that tell graphs apart: ``("s",)`` for ``x_s_batch``, ``("2",)`` for ``x2``."""
    if len(leaf) > 1 and isinstance(leaf[-1], int):
        return (str(leaf[-1]),)  # lists of features and of edge indices, one of each per graph
    words = re.findall(r"[a-z]+|\d+", " ".join(str(key) for key in leaf).lower().replace("_", " "))
    return tuple(word for word in words if word not in _WORDS)
