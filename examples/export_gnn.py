"""Export a pruned graph neural network: with torch.export, and as a package compiled by AOTInductor.

    python examples/export_gnn.py --model sage --amount 0.5

Both are made from one small graph and run on another one: the numbers of nodes and edges stay dynamic. The exported
program contains upscale_fx's operators, so import upscale_fx before loading it. The package is compiled code that needs
only torch, from Python or C++. It is made from the graph before fusing, whose operations all have C++ kernels.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import upscale_fx
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

MODELS: dict[str, type[nn.Module]] = {
    "gcn": SimpleGCN, "sage": SAGE, "gatv2": GATv2, "transformer": GraphTransformer, "jknet": JKNet,
}  # fmt: skip
FEATURES, CLASSES = 64, 7


@dataclass(frozen=True)
class Export:
    """One exported file.

    Attributes:
        kind: the kind of the file.
        path: the file.
        difference: largest absolute difference to the masked model, on a graph of another size.
    """

    kind: str
    path: Path
    difference: float


def graph(nodes: int, edges: int) -> tuple[Tensor, Tensor]:
    """A random graph: features ``[nodes, FEATURES]`` and edges ``[2, edges]``."""
    return torch.randn(nodes, FEATURES), torch.randint(nodes, (2, edges))


def exported(compiled: nn.Module) -> ExportedProgram:
    """The compiled model as an exported program for graphs of any size."""
    dynamic = ({0: Dim.DYNAMIC}, {1: Dim.DYNAMIC})  # nodes are rows of x, edges are columns of edge_index
    with torch.no_grad():
        return torch.export.export(compiled, graph(100, 600), dynamic_shapes=dynamic)


def cxx_compiler() -> str | None:
    """The C++ compiler that AOTInductor uses; None if there is none."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


def difference(reference: nn.Module, loaded: Callable[..., Any]) -> float:
    """Largest absolute difference of two models on a graph of another size."""
    inputs = graph(371, 1234)
    with torch.no_grad():
        return float((loaded(*inputs) - reference(*inputs)).abs().max())


def export_model(model: nn.Module, amount: float, folder: Path) -> list[Export]:
    """Prune a model, export it in all ways that work here, load the files and compare them with the masked model."""
    masked = upscale_fx.mask(model, amount)
    path = folder / "exported.pt2"
    torch.export.save(exported(upscale_fx.prune(model, amount)), path)
    done = [Export("exported program", path, difference(masked, torch.export.load(path).module()))]
    if cxx_compiler() is None:
        print("no C++ compiler here (CXX, g++ or clang++), so there is no AOTInductor package")
        return done
    path = folder / "packaged.pt2"
    torch._inductor.aoti_compile_and_package(exported(upscale_fx.compact(masked)), package_path=str(path))
    loaded = torch._inductor.aoti_load_package(str(path))
    return [*done, Export("AOTInductor package", path, difference(masked, loaded))]


def main(arguments: Sequence[str] | None = None) -> list[Export]:
    """Export one model, and print the files and their differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="sage")
    parser.add_argument("--amount", type=float, default=0.5, help="share of the channels to remove, in [0, 1)")
    parser.add_argument("--hidden", type=int, default=128, help="width of the hidden layers")
    parser.add_argument("--folder", type=Path, help="where to leave the files; without, they are thrown away")
    chosen = parser.parse_args(arguments)
    model = MODELS[chosen.model](FEATURES, chosen.hidden, CLASSES).eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        done = export_model(model, chosen.amount, folder)
        for export in done:
            size = export.path.stat().st_size / 1e6
            print(f"{export.kind:20} {export.path.name:14} {size:5.2f} MB   difference {export.difference:.1e}")
    return done


if __name__ == "__main__":
    main()
