"""What the names and values of arguments say: edge indices, graph numbers, types of nodes and edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from upscale_fx.errors import InputError

NODE_ARGUMENTS = ("x", "pos", "z", "h", "x_0")
EDGE_INDEX = "edge_index"


def is_features(value: Any) -> bool:
    """Whether an argument is a tensor of numbers per row."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


#: Parts of argument names that mean types: every graph has the same number of types, even where they are sorted.
_KINDS = ("type", "kind", "label", "cat", "class", "rel", "token")


def numbers_graphs(name: str, value: Tensor) -> bool:
    """Whether integers give the graph of each row: by their name, or because they are sorted from 0 without gaps.

    Numbers of rows by their name (``node_id``), or 0, 1, 2, ... each once, do not, and neither do integers with several
    axes: words of every node, neighbours of every seed.
    """
    if value.dim() != 1:
        return False
    if "batch" in name or name == "index":
        return True
    of_rows = name.rpartition("_")[2] in ("id", "ids", "nid", "nids", "idx")
    if of_rows and not any(word in name for word in ("graph", "mol", "sample")):
        return False
    if len(value) < 2 or int(value[0]) != 0 or any(kind in name for kind in _KINDS):
        return False
    steps = value[1:] - value[:-1]
    return bool(((steps == 0) | (steps == 1)).all()) and 0 < int(value[-1]) < len(steps)


def names_categories(name: str) -> bool:
    """Whether a name says that integers are categories, and not numbers of rows."""
    return any(kind in name for kind in _KINDS) and not any(word in name for word in ("index", "idx", "ids"))


def is_relation(key: Any) -> bool:
    """Whether a key of a dictionary is a type of edges."""
    return (isinstance(key, tuple) and len(key) > 1) or (isinstance(key, str) and "__" in key)


def ends_of(relation: Any) -> tuple[Any, Any]:
    """Return the types of source and target nodes of a type of edges."""
    parts = relation if isinstance(relation, tuple) else relation.split("__")
    return parts[0], parts[-1]


def numbered(letter: str, types: Mapping[Any, str], relations: bool) -> str:
    """Return the symbol of the next type of nodes or edges."""
    count = sum(is_relation(key) is relations for key in types)
    return f"{letter}{count}" if count else letter


def is_edge_index(name: str, value: Tensor) -> bool:
    """Whether a tensor is an index ``[2, E]``; raises InputError if it is named so but has another shape."""
    integral = not value.is_floating_point() and value.dtype != torch.bool
    fits = integral and value.dim() == 2 and value.shape[0] == 2
    if name == EDGE_INDEX and not fits and value.layout == torch.strided:
        raise InputError(
            f"argument '{name}' must be an integer tensor of shape [2, E], "
            f"got {value.dtype} of shape {list(value.shape)}"
        )
    return fits
