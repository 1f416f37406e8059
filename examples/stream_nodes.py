"""Classify users as they arrive: each one brings edges to those who are there, and is answered for at once.

    python examples/stream_nodes.py
    python examples/stream_nodes.py --data generated --arrivals 60 --picture stream.png

Trains a graph neural network on the part of a graph that is known at first, prunes it by 75 % and on a budget, and lets
the other nodes arrive one by one, and then in bursts. Their labels are hidden until they have been classified. Prints
how long answers and updates took for the dense and the pruned models, with stored rows and without.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import subgraph
from tqdm import tqdm

import prune_gnn
import upscale_fx
from upscale_fx.compiled.module import CompiledGNN

MODELS = ("gcn", "sage")
AMOUNT, BUDGET = 0.75, 0.25


@dataclass
class Stream:
    """A graph of which a part is known at first.

    Attributes:
        known: that part, with masks for training; its nodes come first.
        x: features of all nodes ``[N, C]``.
        y: classes ``[N]``, hidden until a node has been classified.
        edges: by arrival, its edges ``[2, k]`` to those that are there, in both directions.
    """

    known: Data
    x: Tensor
    y: Tensor
    edges: list[Tensor]

    def arrivals(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Features ``[k, C]`` and all edges of arrivals ``start`` to ``end``."""
        first = self.known.num_nodes
        return self.x[first + start : first + end], torch.cat(self.edges[start:end], dim=1)


@dataclass
class Row:
    """What one model did, with a store or without.

    Attributes:
        name: of the model, and whether it stores rows.
        answers: seconds of each answer for a user who has just arrived.
        updates: seconds of each update, of one user.
        bursts: seconds of the first answer after each burst.
        read, computed: rows per answer, read from the store and computed, of all stages.
        right: share of the users who were classified right.
        users: how many were.
        difference: largest difference of the last answers to a pass over the whole graph.
    """

    name: str
    answers: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    bursts: list[float] = field(default_factory=list)
    read: float = 0.0
    computed: float = 0.0
    right: float = 0.0
    users: int = 0
    difference: float = 0.0


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the job described by command-line arguments; return the rows of the table it prints."""
    parser = _parser()
    options = parser.parse_args(argv)
    graph = _graph(parser, options)
    singles, users = options.arrivals, options.arrivals + options.bursts * options.burst
    if users > graph.num_nodes // 2:
        parser.error(f"argument --arrivals: {users:,} users arrive with those of bursts, of {graph.num_nodes:,} in all")
    stream = arriving(graph, users, options.seed)
    print(
        f"{stream.known.num_nodes:,} users are known, with {stream.known.num_edges:,} edges; {singles:,} arrive alone,"
    )
    print(f"then {options.bursts} bursts of {options.burst}; all bring {sum(e.size(1) for e in stream.edges):,} edges")

    torch.manual_seed(options.seed)
    model = prune_gnn.MODELS[options.model](graph.num_features, options.hidden, int(graph.y.max()) + 1, num_layers=2)
    prune_gnn.train(model, stream.known, options.epochs)
    rows = []
    for name, compiled in versions(model, stream.known).items():
        rows.append(serve(f"{name}, stored", compiled, stream, options, singles))
        rows.append(serve(f"{name}, no store", compiled, stream, options, min(singles, options.unstored)))
    print(f"\n{format_rows(rows)}")
    if options.picture is not None:
        draw(rows, options.picture)
        print(f"\n{options.picture}")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", default="github", type=str.lower, metavar="NAME", help="a stored graph, or generated (%(default)s)")
    add("--root", type=Path, default=prune_gnn.STORED, help="folder of stored graphs with a load.py (../shared/data)")
    add("--model", choices=MODELS, default="gcn", type=str.lower, help="default: %(default)s")
    add("--hidden", type=_count, default=128, help="hidden channels (default: %(default)s)")
    add("--epochs", type=_count, default=60, help="at most (default: %(default)s)")
    add("--arrivals", type=_count, default=1000, help="users who arrive one by one (default: %(default)s)")
    add("--bursts", type=_count, default=20, help="times that many arrive at once, afterwards (default: %(default)s)")
    add("--burst", type=_count, default=50, help="users of each (default: %(default)s)")
    add(
        "--unstored",
        type=_count,
        default=100,
        help="of the single users, those answered without a store, which is slow",
    )
    add("--seed", type=int, default=0, help="of weights and of the order of arrival (default: %(default)s)")
    add("--picture", type=Path, metavar="FILE", help="draw the latencies (.png, .svg, .pdf); needs matplotlib")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _graph(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Data:
    if options.data == prune_gnn.GENERATED:
        return prune_gnn.generated_graph()
    if not (options.root / "load.py").is_file():
        parser.error(
            f"there is no load.py in {options.root}, so {options.data} cannot be loaded: name a folder of stored "
            f"graphs with --root, or try a generated graph with --data generated"
        )
    names = prune_gnn.graph_names(options.root)
    if options.data not in names:
        parser.error(f"argument --data: {options.data!r} is none of {', '.join(names)}")
    # Not with rows that sum to one, as in prune_gnn.py: on GitHub its recipe then learns the larger class alone.
    graph: Data = runpy.run_path(str(options.root / "load.py"))["load"](options.data, str(options.root))
    return graph


# --- The stream -------------------------------------------------------------------------------------------------------


def arriving(graph: Data, users: int, seed: int) -> Stream:
    """Let some nodes outside of the training mask arrive last, in a random order; all others are known."""
    draw = torch.Generator().manual_seed(seed)
    candidates = torch.nonzero(graph.test_mask).flatten()
    last = candidates[torch.randperm(candidates.numel(), generator=draw)[:users]]
    is_known = torch.ones(graph.num_nodes, dtype=torch.bool)
    is_known[last] = False
    order = torch.cat([torch.nonzero(is_known).flatten(), last])
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel())
    edges, first = place[graph.edge_index], int(is_known.sum())
    masks = {name: graph[name][order[:first]] for name in ("train_mask", "val_mask", "test_mask")}
    inside = subgraph(torch.arange(first), edges)[0]
    known = Data(x=graph.x[order[:first]], y=graph.y[order[:first]], edge_index=inside, **masks)
    comes = edges.max(dim=0).values - first  # an edge comes with the later of its ends
    later = torch.nonzero(comes >= 0).flatten()
    later = later[comes[later].argsort(stable=True)]
    counts = torch.bincount(comes[later], minlength=users).tolist()
    return Stream(known, graph.x[order], graph.y[order], list(torch.split(edges[:, later], counts, dim=1)))


def versions(model: nn.Module, known: Data) -> dict[str, CompiledGNN]:
    """The dense model and two pruned ones, compiled; the known graph is the calibration data, without its labels."""
    inputs = known.x, known.edge_index
    pruned = {
        "dense": upscale_fx.optimize(upscale_fx.trace(model)),
        f"{AMOUNT:.0%} pruned": upscale_fx.prune(model, AMOUNT, calibration=inputs),
        f"budget {BUDGET:.0%}": upscale_fx.prune(model, budget=upscale_fx.Budget(params=BUDGET), calibration=inputs),
    }
    return {name: upscale_fx.optimize(compiled, inference=True).eval() for name, compiled in pruned.items()}


def serve(name: str, compiled: CompiledGNN, stream: Stream, options: argparse.Namespace, singles: int) -> Row:
    """Let users arrive, and ask for each one at once; only for the first ``singles`` of those who come one by one."""
    row, stored = Row(name), name.endswith(", stored")
    known = stream.known.x, stream.known.edge_index
    first = stream.known.num_nodes
    # Rows fit into no byte: every answer computes all that it needs.
    with upscale_fx.Server(compiled, *known, capacity=None if stored else 1) as server:
        if stored:
            server.warm()
        server(range(8))  # the first call of a process compiles kernels
        server.reset_stats()
        right = 0
        with tqdm(total=singles + options.bursts, desc=name, unit="answer", mininterval=0.5) as progress:
            for start, end in _parts(singles, options):
                ids, took = _arrive(server, stream, start, end)
                if singles <= start < options.arrivals:  # skipped
                    continue
                begin = time.perf_counter()
                logits = server(ids[:1])
                answered = time.perf_counter() - begin
                if end - start == 1:
                    row.updates.append(took)
                    row.answers.append(answered)
                else:
                    row.bursts.append(answered)
                    logits = torch.cat([logits, server(ids[1:])])
                right += int((logits.argmax(dim=-1) == stream.y[first + start : first + end]).sum())
                row.users += end - start
                progress.update()
        stats = server.stats
        row.read, row.computed = sum(stats.rows_read) / stats.answers, sum(stats.rows_computed) / stats.answers
        row.right = right / row.users
        with torch.no_grad():
            row.difference = float((server(ids) - compiled(*server.inputs())[ids]).abs().max())
    return row


def _parts(singles: int, options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """The first and last arrival of each update: single ones, then those that are skipped at once, then bursts."""
    yield from ((user, user + 1) for user in range(singles))
    if singles < options.arrivals:
        yield singles, options.arrivals
    for number in range(options.bursts):
        start = options.arrivals + number * options.burst
        yield start, start + options.burst


def _arrive(server: upscale_fx.Server, stream: Stream, start: int, end: int) -> tuple[Tensor, float]:
    """Add users with their edges as one version; return their numbers, and the seconds it took."""
    x, edges = stream.arrivals(start, end)
    begin = time.perf_counter()
    with server.transaction():
        ids = server.add_nodes(x)
        if edges.numel():
            server.add_edges(edges)
    return ids, time.perf_counter() - begin


# --- What it took -----------------------------------------------------------------------------------------------------


def format_rows(rows: Sequence[Row]) -> str:
    """Return the table as text, with the meaning of its columns."""
    table = [
        {
            "model": row.name,
            "users/s": f"{len(row.answers) / (sum(row.answers) + sum(row.updates)):,.0f}",
            "answers: p50, p95, p99 ms": _percentiles(row.answers),
            "updates: p50, p95, p99 ms": _percentiles(row.updates),
            "after a burst": f"{1e3 * float(np.median(row.bursts)):.2f}",
            "rows read": f"{row.read:,.0f}",
            "computed": f"{row.computed:,.0f}",
            "accuracy": f"{row.right:.1%} of {row.users:,}",
            "off by": f"{row.difference:.0e}",
        }
        for row in rows
    ]
    text = tabulate(table, headers="keys", stralign="right", colalign=("left",), disable_numparse=True)
    return (
        f"{text}\nAfter a burst: ms of the first answer, median. Rows: per answer, read ones with padding.\n"
        f"Off by: the last answers, beside a pass over the whole graph.\n"
        f"Without a store, only the first users and those of bursts are asked for."
    )


def _percentiles(seconds: Sequence[float]) -> str:
    return "  ".join(f"{1e3 * value:.2f}" for value in np.percentile(seconds, (50, 95, 99)))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw how many of the answers and of the updates took at most so long."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("answers", "updates"), strict=True):
        for number, row in enumerate(rows):
            seconds = np.sort(getattr(row, kind))
            share = np.arange(1, seconds.size + 1) / seconds.size
            axes.step(1e3 * seconds, 100 * share, "--" if number % 2 else "-", color=f"C{number // 2}", label=row.name)
        axes.set_xscale("log")
        axes.set_xlabel(f"milliseconds of {kind}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("% that took at most so long")
    panels[1].legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
