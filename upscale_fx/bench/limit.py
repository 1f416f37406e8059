"""The machine's limit for a model: the sum of the times of its products, each run alone on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from upscale_fx.bench.adjacency import sparse_matrix
from upscale_fx.bench.graphs import Graph
from upscale_fx.bench.timing import seconds
from upscale_fx.bench.work import Dense, Product, Sparse, Work
from upscale_fx.operators import spmm

_RUNS = 3
#: Operands of at most this many numbers stay in memory between timings; larger ones would take it from models.
_KEPT = 1 << 28


def limit_of(work: Work, times: Mapping[Product, list[float]]) -> float:
    """Seconds of all products of a model, one after the other, from the median seconds of each."""
    return sum(count * median(times[product]) for product, count in work.items())


@dataclass
class Machine:
    """Times products on this machine.

    Attributes:
        graph: the graph whose edges are used for sums over neighbours.
    """

    graph: Graph
    _fastest: dict[Product, int] = field(default_factory=dict)
    _numbers: dict[str, Tensor] = field(default_factory=dict)
    _matrices: dict[int, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device it computes on."""
        return self.graph.x.device.type

    def time(self, product: Product) -> float:
        """Seconds of one product, without making its operands; the first call chooses the fastest kernel."""
        runs = [self._dense(product)] if isinstance(product, Dense) else self._sparse(product)
        if product not in self._fastest:
            medians = [self.median_of(run) for run in runs]
            self._fastest[product] = medians.index(min(medians))
        return seconds(runs[self._fastest[product]], self.device)

    def median_of(self, run: Callable[[], object]) -> float:
        """Median seconds of a call, after one to warm up."""
        run()
        return median(seconds(run, self.device) for _ in range(_RUNS))

    def products_per_second(self, size: int = 2048) -> float:
        """Multiply-adds per second of a large dense product in float32."""
        product = Dense(1, size, size, size)
        return product.macs / self.median_of(self._dense(product))

    def bytes_per_second(self, numbers: int = 1 << 26) -> float:
        """Bytes read and written per second by a copy."""
        source = torch.ones(numbers, device=self.device)
        target = torch.empty_like(source)
        return 2 * 4 * numbers / self.median_of(lambda: target.copy_(source))

    def _dense(self, product: Dense) -> Callable[[], object]:
        left = self._array("left", product.batch, product.rows, product.inner)
        right = self._array("right", product.batch, product.columns, product.inner)  # as linear layers store weights
        out = self._array("out", product.batch, product.rows, product.columns)
        if product.batch == 1:
            return lambda: torch.mm(left[0], right[0].t(), out=out[0])
        return lambda: torch.bmm(left, right.mT, out=out)

    def _sparse(self, product: Sparse) -> list[Callable[[], object]]:
        matrix = self._matrix(product.edges)
        rowptr, source = matrix.crow_indices(), matrix.col_indices()
        if not product.gathered:
            rows = self._array("left", product.edges, product.width)
            return [lambda: spmm(rowptr, None, None, rows, "sum")]
        x = self._array("left", self.graph.num_nodes, product.width)
        runs: list[Callable[[], object]] = [lambda: torch.sparse.mm(matrix, x)]
        if self.device == "cpu":
            runs.append(lambda: torch.sparse.mm(matrix, x, "sum"))
        weight = self._array("right", product.edges, product.heads) if product.heads > 1 else None
        if weight is not None:
            heads = x.view(len(x), product.heads, -1)
            return [*runs, lambda: spmm(rowptr, source, weight, heads, "sum")]
        scale = matrix.values() if product.heads else None
        return [*runs, lambda: spmm(rowptr, source, scale, x, "sum")]

    def _array(self, name: str, *shape: int) -> Tensor:
        """A tensor of random numbers; tensors of one name share memory."""
        count = torch.Size(shape).numel()
        kept = self._numbers.get(name)
        if kept is None or kept.numel() < count:
            block = torch.randn(1 << 10, device=self.device)
            kept = block.repeat(-(-count // block.numel()))
            if count <= _KEPT:
                self._numbers[name] = kept
        return kept[:count].view(shape)

    def _matrix(self, edges: int) -> Tensor:
        """The first edges of :meth:`_edges` as a sparse matrix ``[N, N]``."""
        if edges not in self._matrices:
            weight = torch.rand(edges, device=self.device)
            self._matrices[edges] = sparse_matrix(self._edges(edges), self.graph.num_nodes, weight)
        return self._matrices[edges]

    def _edges(self, count: int) -> Tensor:
        """``count`` edges: those of the graph, then self loops, then all of these again."""
        loops = torch.arange(self.graph.num_nodes, device=self.device).expand(2, -1)
        edges = torch.cat([self.graph.edge_index, loops], dim=1)
        while edges.size(1) < count:
            edges = torch.cat([edges, edges], dim=1)
        return edges[:, :count]
