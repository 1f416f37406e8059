"""Train a graph neural network, prune it, and print what pruning costs and saves.

    python examples/prune_gnn.py --model sage --data cora --amount 0.5 0.75

Prints the diff of the network's graph, then a table of the trained model beside its pruned versions: by its weights
alone, with the graph as calibration data (no labels), on a budget of parameters, and fine-tuned.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import os
import runpy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import stochastic_blockmodel_graph
from tqdm import tqdm

import upscale_fx
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

MODELS = {"gcn": SimpleGCN, "sage": SAGE, "gatv2": GATv2, "transformer": GraphTransformer, "jknet": JKNet}
#: PyG's names of the graphs that it downloads when there is no folder of stored graphs.
DOWNLOADS = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
GENERATED = "generated"
STORED = Path(__file__).resolve().parents[2] / "shared" / "data"

Inputs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """One model in the table.

    Attributes:
        name: "dense", or the amount that was pruned and how.
        accuracy: share of the test nodes whose class is predicted.
        parameters: number of parameter entries.
        macs_per_node: multiply-accumulates of the dense products of one forward pass, per node.
        latency: median seconds of one forward pass over the whole graph.
        file_size: bytes of the saved state dictionary.
        difference: largest absolute difference of the logits to the masked model; None for the dense model, and for a
            fine-tuned one, whose weights are no longer the mask's.
    """

    name: str
    accuracy: float
    parameters: int
    macs_per_node: float
    latency: float
    file_size: int
    difference: float | None


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the job described by command-line arguments; return the rows of the table it prints."""
    parser = _parser()
    options = parser.parse_args(argv)
    root = _stored_graphs(parser, options.root)
    names = graph_names(root)
    if options.data not in names:
        parser.error(f"argument --data: invalid choice: {options.data!r} (choose from {', '.join(names)})")

    graph = load_graph(options.data, root)
    torch.manual_seed(options.seed)
    try:
        model = MODELS[options.model](graph.num_features, options.hidden, _number_of_classes(graph))
    except ValueError as error:
        parser.error(f"argument --hidden: {error}")
    print(f"{model}\non {graph.num_nodes:,} nodes, {graph.num_edges:,} edges")

    train(model, graph, options.epochs)
    rows = prune_and_measure(model, graph, options.amount)
    print(f"\n{format_rows(rows)}\n{summary(rows)}")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sage", type=str.lower, help="default: %(default)s")
    parser.add_argument(
        "--data", metavar="NAME", default="cora", type=str.lower, help="name of a graph (default: %(default)s)"
    )
    parser.add_argument("--amount", nargs="+", type=_amount, default=[0.5, 0.75], help="default: 0.5 0.75")
    parser.add_argument("--hidden", type=_count, default=256, help="hidden channels (default: %(default)s)")
    parser.add_argument("--epochs", type=_count, default=100, help="at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and dropout (default: %(default)s)")
    parser.add_argument("--root", type=Path, help="folder of stored graphs with a load.py (default: ../shared/data)")
    return parser


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < 1:  # NaN is not either
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in [0, 1)")
    return amount


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _stored_graphs(parser: argparse.ArgumentParser, root: Path | None) -> Path | None:
    if root is None:
        return STORED if (STORED / "load.py").is_file() else None
    if not (root / "load.py").is_file():
        parser.error(f"argument --root: there is no load.py in {root}")
    return root


# --- Data -------------------------------------------------------------------------------------------------------------


def graph_names(root: Path | None) -> tuple[str, ...]:
    """Names that `load_graph` knows, given a folder of stored graphs or None."""
    stored = DOWNLOADS if root is None else _loader(root)["NODE_NAMES"]
    return (*stored, GENERATED)


def load_graph(name: str, root: Path | None) -> Data:
    """Return a graph with train, validation and test masks: from `root`, else downloaded, else generated."""
    if name == GENERATED:
        return generated_graph()
    normalize = NormalizeFeatures()  # bags of words differ much in length
    if root is not None:
        graph: Data = normalize(_loader(root)["load"](name, str(root)))
        return graph
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "upscale_fx"
    try:
        return Planetoid(str(cache), DOWNLOADS[name], transform=normalize)[0]
    except (OSError, aiohttp.ClientError) as error:  # PyG downloads through fsspec, fsspec through aiohttp
        print(f"No stored graphs, and {DOWNLOADS[name]} cannot be downloaded ({type(error).__name__}: {error}).")
        print("Using a graph that PyG generates instead: a stochastic block model.")
        return generated_graph()


def _loader(root: Path) -> dict[str, Any]:
    """The names in the folder's own loader. Run, not imported: that would write byte code into the folder."""
    return runpy.run_path(str(root / "load.py"))


def generated_graph(nodes_per_class: int = 200, classes: int = 5, features: int = 64) -> Data:
    """Return a stochastic block model; its features predict the class poorly alone, and well with those of neighbours.

    Returns:
        `x` ``[N, features]``, `y` ``[N]``, `edge_index` ``[2, E]`` in both directions and three masks ``[N]``: 20 nodes
        per class to train, 30 to validate, the rest to test. Always the same graph.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        within, across = 6 / nodes_per_class, 0.5 / nodes_per_class  # chances of an edge: 6 and 0.5 per class expected
        chances = torch.full((classes, classes), across).fill_diagonal_(within)
        edge_index = stochastic_blockmodel_graph([nodes_per_class] * classes, chances)
        y = torch.arange(classes).repeat_interleave(nodes_per_class)
        x = 0.25 * torch.randn(classes, features)[y] + torch.randn(len(y), features)
        rank = torch.stack([torch.randperm(nodes_per_class) for _ in range(classes)]).flatten()
    masks = {"train_mask": rank < 20, "val_mask": (rank >= 20) & (rank < 50), "test_mask": rank >= 50}
    return Data(x=x, y=y, edge_index=edge_index, **masks)


def _number_of_classes(graph: Data) -> int:
    return int(graph.y.max()) + 1


# --- Training ---------------------------------------------------------------------------------------------------------


def train(model: nn.Module, graph: Data, epochs: int, patience: int = 30) -> None:
    """Train on the whole graph at once; leave the model in ``eval()`` with the weights that validated best.

    Stops early after `patience` epochs without a better validation accuracy.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
    best, best_epoch, best_state = -1.0, 0, model.state_dict()
    with tqdm(range(epochs), desc="training", unit="epoch", mininterval=0.5) as progress:
        for epoch in progress:
            loss = _train_step(model, graph, optimizer)
            validation = accuracy(model, graph, graph.val_mask)
            progress.set_postfix(loss=f"{loss:.3f}", validation=f"{validation:.1%}", refresh=False)
            if validation > best:
                best, best_epoch, best_state = validation, epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= patience:
                break
    model.load_state_dict(best_state)
    model.eval()


def _train_step(model: nn.Module, graph: Data, optimizer: torch.optim.Optimizer) -> float:
    model.train()
    optimizer.zero_grad()
    logits = model(graph.x, graph.edge_index)
    loss = F.cross_entropy(logits[graph.train_mask], graph.y[graph.train_mask])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, graph: Data, nodes: Tensor) -> float:
    """Return the share of the nodes in the mask ``[N]`` whose class is predicted."""
    model.eval()
    right = model(graph.x, graph.edge_index).argmax(dim=-1) == graph.y
    return float(right[nodes].float().mean())


# --- Pruning and measuring --------------------------------------------------------------------------------------------


def prune_and_measure(model: nn.Module, graph: Data, amounts: Sequence[float]) -> list[Row]:
    """Prune the model in every way and measure all versions in turns; prints the graph diff of the first."""
    versions = [Version(DENSE, model, None), *pruned_versions(model, graph, amounts)]
    print(f"\n{upscale_fx.diff(model, versions[1].model)}")
    inputs = (graph.x, graph.edge_index)
    measured = zip(versions, latencies([version.model for version in versions], inputs), strict=True)
    return [
        Row(
            name=version.name,
            accuracy=accuracy(version.model, graph, graph.test_mask),
            parameters=sum(parameter.numel() for parameter in version.model.parameters()),
            macs_per_node=multiply_accumulates(version.model, inputs) / graph.num_nodes,
            latency=latency,
            file_size=file_size(version.model),
            difference=version.difference,
        )
        for version, latency in measured
    ]


@dataclass(frozen=True)
class Version:
    """A model of the table, and its difference to the masked model (see :class:`Row`)."""

    name: str
    model: nn.Module
    difference: float | None


DENSE, WEIGHTS_ALONE, CALIBRATED, FINE_TUNED = "dense", "weights alone", "calibrated", "calibrated, fine-tuned"
#: The share of the parameters that the budget leaves.
BUDGET = 0.25


def pruned_versions(model: nn.Module, graph: Data, amounts: Sequence[float]) -> list[Version]:
    """Prune by each amount from weights alone and with data, then on a budget, and fine-tune the largest amount.

    The data are the graph's features and edges; only choosing the best epoch of fine-tuning looks at labels, those of
    the validation nodes.
    """
    inputs = (graph.x, graph.edge_index)
    ways: dict[str, dict[str, Any]] = {}
    for amount in amounts:
        ways[f"{amount:.4g}, {WEIGHTS_ALONE}"] = {"amount": amount, "example_inputs": inputs}
        ways[f"{amount:.4g}, {CALIBRATED}"] = {"amount": amount, "calibration": inputs}
    ways[f"budget of {BUDGET:.0%}, {CALIBRATED}"] = {
        "budget": upscale_fx.Budget(params=BUDGET),
        "calibration": inputs,
    }
    versions = []
    with tqdm(ways.items(), desc="pruning", unit="model") as progress:
        for name, options in progress:
            progress.set_postfix_str(name)
            masked = upscale_fx.mask(model, **options).eval()
            compiled = upscale_fx.prune(model, **options).eval()
            upscale_fx.verify(masked, compiled, inputs)
            versions.append(Version(name, compiled, largest_difference(masked, compiled, inputs)))
    most = f"{max(amounts):.4g}"
    tuned = copy.deepcopy(next(version.model for version in versions if version.name == f"{most}, {CALIBRATED}"))
    upscale_fx.finetune(tuned, inputs, teacher=model, validate=lambda gnn: accuracy(gnn, graph, graph.val_mask))
    return [*versions, Version(f"{most}, {FINE_TUNED}", tuned, None)]


@torch.no_grad()
def largest_difference(reference: nn.Module, compiled: nn.Module, inputs: Inputs) -> float:
    """Return the largest absolute difference between the outputs of two models."""
    return float((reference(*inputs) - compiled(*inputs)).abs().max())


@torch.no_grad()
def multiply_accumulates(model: nn.Module, inputs: Inputs) -> int:
    """Return the multiply-accumulates of the dense products in one forward pass; sums over neighbours do not count."""
    # The counter does not see in-place calls; with gradients on, there are none.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    flops = counter.get_flop_counts()["Global"]
    dense = sum(count for operation, count in flops.items() if "upscale_fx" not in str(operation))
    return int(dense) // 2  # a product and a sum are one


@torch.no_grad()
def latencies(models: Sequence[nn.Module], inputs: Inputs, runs: int = 20) -> list[float]:
    """Return the median seconds of each model's forward pass.

    Models take turns, so that a busy moment of the machine slows all of them and their ratios stay fair.
    """
    seconds: list[list[float]] = [[] for _ in models]
    for run in range(-3, runs):  # the first three warm up
        for model, measured in zip(models, seconds, strict=True):
            start = time.perf_counter()
            model(*inputs)
            if run >= 0:
                measured.append(time.perf_counter() - start)
    return [median(measured) for measured in seconds]


def file_size(model: nn.Module) -> int:
    """Return the bytes that the model's state dictionary takes on disk."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def format_rows(rows: Sequence[Row]) -> str:
    """Return the table as text, with the meaning of its columns."""
    dense = rows[0]

    def relative(value: float, reference: float, text: str) -> str:
        return text if value == reference else f"{text} ({value / reference:.0%})"

    table = [
        {
            "model": row.name,
            "test accuracy": f"{row.accuracy:.1%}",
            "parameters": relative(row.parameters, dense.parameters, f"{row.parameters:,}"),
            "MACs per node": relative(row.macs_per_node, dense.macs_per_node, f"{row.macs_per_node:,.0f}"),
            "latency": relative(row.latency, dense.latency, f"{1e3 * row.latency:.1f} ms"),
            "file": relative(row.file_size, dense.file_size, f"{row.file_size / 1e6:.2f} MB"),
            "difference to masked": "" if row.difference is None else f"{row.difference:.1e}",
        }
        for row in rows
    ]
    text = tabulate(table, headers="keys", stralign="right", colalign=("left",), disable_numparse=True)
    return f"{text}\nMACs: dense products. Latency: median of 20 passes over the graph. Difference: largest, of a logit"


def summary(rows: Sequence[Row]) -> str:
    """Say what calibration saves: the points of accuracy that the same amounts cost with and without it."""
    dense = rows[0].accuracy
    lost = {row.name: f"{100 * (dense - row.accuracy):.1f}" for row in rows}
    amounts = [name.partition(", ")[0] for name in lost if name.endswith(WEIGHTS_ALONE)]
    return "\n".join(
        f"Points of accuracy lost at {amount}: {lost[f'{amount}, {CALIBRATED}']} with the graph as calibration data, "
        f"{lost[f'{amount}, {WEIGHTS_ALONE}']} from weights alone"
        for amount in amounts
    )


if __name__ == "__main__":
    main()
