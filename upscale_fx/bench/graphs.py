"""The graphs of the benchmark: generated ones with skewed degrees, and stored ones."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.transforms import NormalizeFeatures

from upscale_fx.bench.spec import Spec


@dataclass(frozen=True)
class Graph:
    """A graph whose nodes are classified.

    Attributes:
        name: its printed name.
        x: node features ``[N, C]``.
        edge_index: edges ``[2, E]``, sources first.
        y: classes ``[N]``.
        train_mask: nodes to train on, ``[N]``.
        dims: widths of a model for it, input to output.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    y: Tensor
    train_mask: Tensor
    dims: tuple[int, ...]

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.size(0)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.size(1)


def make_graph(spec: Spec) -> Graph:
    """The graph of a run, always the same for the same seed, on the device of the run.

    Raises:
        ValueError: there is no folder of stored graphs, or the graph is not in it.
    """
    graph = synthetic(spec.nodes, spec.edges, spec.dims, spec.seed) if spec.graph is None else stored(spec)
    moved = {name: getattr(graph, name).to(spec.device) for name in ("x", "edge_index", "y", "train_mask")}
    return replace(graph, **moved)


def synthetic(nodes: int, edges: int, dims: Sequence[int], seed: int) -> Graph:
    """A graph in which few nodes have most edges: both ends are drawn with Pareto-distributed weights."""
    rng = np.random.default_rng(seed)
    weight = rng.pareto(1.5, nodes) + 0.2
    chance = weight / weight.sum()
    ends = [torch.from_numpy(rng.choice(nodes, edges, p=chance)) for _ in range(2)]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, dims[0], generator=generator)
    y = torch.randint(dims[-1], (nodes,), generator=generator)
    return Graph("synthetic", x, torch.stack(ends), y, torch.ones(nodes, dtype=torch.bool), tuple(dims))


def stored(spec: Spec) -> Graph:
    """A stored graph, with features normalised as usual; unlabelled nodes are never trained on."""
    name = str(spec.graph)
    loader = _loader(Path(spec.data))
    known = [str(known) for known in loader["NODE_NAMES"]]
    if name not in known:
        raise ValueError(f"there is no graph {name!r} in {spec.data} (choose from {', '.join(known)})")
    data = NormalizeFeatures()(loader["load"](name, spec.data))
    labelled = data.train_mask & (data.y >= 0)
    dims = (data.num_features, *spec.dims[1:-1], int(data.y.max()) + 1)
    return Graph(name, data.x.contiguous(), data.edge_index.contiguous(), data.y, labelled, dims)


def _loader(folder: Path) -> dict[str, Any]:
    """The names in the folder's own loader. Run, not imported: that would write byte code into the folder."""
    script = folder / "load.py"
    if not script.is_file():
        raise ValueError(f"stored graphs need a folder with a load.py, and there is none in {folder}; name it: --data")
    return runpy.run_path(str(script))
