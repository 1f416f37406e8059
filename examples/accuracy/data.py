"""Graphs of the tables, and products with their feature matrices, which are nearly all zeros."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_geometric.data import Data

import upscale_fx
from prune_gnn import GENERATED, STORED, load_graph

#: Graphs of the tables, smallest first, with their titles in pages.
GRAPHS = {
    "cora": "Cora",
    "citeseer": "CiteSeer",
    "pubmed": "PubMed",
    "photo": "Photo",
    "cs": "CS",
    "physics": "Physics",
    GENERATED: "a generated graph",
}


class _Product(torch.autograd.Function):
    """``x @ weight.T`` for a constant sparse `x`, with the gradient of the weight ``(x.T @ gradient).T``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        product: Tensor = torch.sparse.mm(x, weight.t())
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.sparse.mm(ctx.transposed, gradients[0].contiguous()).t(), None, None


class SparseFeatures(TorchFunctionMode):
    """While active, products with one dense feature matrix skip its zeros; sums are the same up to rounding.

    Bags of words are 0.4 to 1.3 % nonzero: an epoch on CS takes a fraction of the time. A matrix with more than a tenth
    nonzero is multiplied as usual.

    Args:
        features: ``[N, C]``, dense; the same tensor object that models are called with. Do not write into it meanwhile.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features
        self.sparse: tuple[Tensor, Tensor] | None = None
        if features.count_nonzero() <= 0.1 * features.numel():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
                self.sparse = features.to_sparse_csr(), features.t().to_sparse_csr()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.sparse is not None and func in _PRODUCTS and any(value is self.features for value in args):
            return _PRODUCTS[func](self._product, *args, **kwargs)
        return func(*args, **kwargs)

    def _product(self, weight: Tensor) -> Tensor:
        product: Tensor = _Product.apply(weight, *(self.sparse or ()))  # type: ignore[no-untyped-call]
        return product


# Each takes a function that multiplies the features with a weight [O, C], and then the arguments of torch's function.
# These are the calls that models and compiled graphs make; the last three only without gradients.

_Multiply = Callable[[Tensor], Tensor]


def _linear(multiply: _Multiply, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return multiply(weight) if bias is None else multiply(weight) + bias


def _mm(multiply: _Multiply, x: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    return multiply(columns.t()) if out is None else out.copy_(multiply(columns.t()))


def _addmm(multiply: _Multiply, bias: Tensor, x: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    total = multiply(columns.t()) + bias
    return total if out is None else out.copy_(total)


def _addmm_into(multiply: _Multiply, total: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    return total.add_(multiply(columns.t()))


_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    torch.mm: _mm,
    torch.addmm: _addmm,
    Tensor.addmm_: _addmm_into,
}


class Graph:
    """A graph, and calls of compiled models on all of it.

    Args:
        name: one of `GRAPHS`.
        data: `x` ``[N, C]``, `edge_index` ``[2, E]``, `y` ``[N]`` and three masks ``[N]``.
    """

    def __init__(self, name: str, data: Data) -> None:
        self.name, self.data, self.title = name, data, GRAPHS[name]
        self.classes = int(data.y.max()) + 1
        self.sparse_features = SparseFeatures(data.x)

    def prepare(self, compiled: nn.Module) -> Callable[[], Tensor]:
        """Return a call without arguments that gives the logits ``[N, classes]`` of a compiled model."""
        structure = upscale_fx.prepare(compiled, self.data.edge_index, self.data.num_nodes)

        def logits() -> Tensor:
            with self.sparse_features:
                result: Tensor = compiled(self.data.x, structure)
            return result

        return logits

    def share_right(self, logits: Tensor, nodes: Tensor) -> float:
        """Return the share of the nodes in the mask ``[N]`` whose largest logit is that of their class."""
        return float((logits[nodes].argmax(dim=-1) == self.data.y[nodes]).float().mean())

    @torch.no_grad()
    def accuracy(self, compiled: nn.Module, nodes: Tensor) -> float:
        """Return the share of the nodes in the mask ``[N]`` whose class a compiled model predicts, in ``eval()``."""
        return self.share_right(self.prepare(compiled.eval())(), nodes)


@lru_cache(maxsize=1)  # the largest graph takes more than a gigabyte, and cells are filled graph by graph
def load_data(name: str, root: Path | None = None) -> Graph:
    """Return a graph of `GRAPHS` with features whose rows sum to 1.

    Args:
        name: its name.
        root: folder of stored graphs with a load.py; the one beside the repository by default.

    Raises:
        FileNotFoundError: the graph must be read from `root`, and there is none.
    """
    root = STORED if root is None else root
    if name != GENERATED and not (root / "load.py").is_file():
        raise FileNotFoundError(f"there is no load.py in {root}: name the folder of stored graphs with --root")
    return Graph(name, load_graph(name, root))
