"""The command line of the benchmark: ``python -m upscale_fx bench``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from upscale_fx.bench import chart, report
from upscale_fx.bench.columns import columns, legend
from upscale_fx.bench.graphs import Graph, make_graph
from upscale_fx.bench.networks import NETWORKS, check_dims
from upscale_fx.bench.run import Result, number_of_steps, run
from upscale_fx.bench.spec import STORED, Spec
from upscale_fx.bench.threads import use_threads
from upscale_fx.operators.kernels import choose
from upscale_fx.operators.kernels import name as kernels_of

DESCRIPTION = """
Time graph neural networks in turns, run by PyTorch Geometric with edge_index and with a sparse matrix, torch.compile,
Torch-Pruning, and upscale_fx with more and more channels removed. Every output is checked before it is timed. The
default graph is synthetic, of the size of ogbn-arxiv, with skewed degrees.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the benchmark to a parser."""
    add = parser.add_argument
    graph = parser.add_mutually_exclusive_group()
    graph.add_argument("--graph", metavar="NAME", type=str.lower, help="a stored graph, such as cora")
    graph.add_argument(
        "--synthetic", nargs=2, type=_count, metavar=("NODES", "EDGES"), default=(Spec.nodes, Spec.edges),
        help=f"a generated graph (default: {Spec.nodes} {Spec.edges})",
    )  # fmt: skip
    add("--data", type=Path, default=STORED, metavar="DIR", help="folder of stored graphs (default: ../shared/data)")
    add("--dims", nargs="+", type=_count, default=Spec.dims, metavar="WIDTH",
        help="input, hidden and output widths (default: 128 256 256 40); a stored graph has its own first and last",
    )  # fmt: skip
    add("--models", nargs="+", type=_model, default=tuple(NETWORKS), metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    add("--amounts", nargs="+", type=_amount, default=Spec.amounts, metavar="AMOUNT",
        help="shares of the channels that upscale_fx removes (default: 0 0.5 0.75 0.875)",
    )  # fmt: skip
    add("--columns", nargs="+", default=(), metavar="PATTERN", help="only these, such as 'PyG*' 'upscale 75*'")
    add("--repeats", type=_count, default=Spec.repeats, help="timed rounds (default: %(default)s)")
    add("--threads", type=_count, help="threads of all libraries (default: their own choice)")
    add("--seed", type=int, default=Spec.seed, help="of graph and weights (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default=Spec.device, help="default: %(default)s")
    add("--trainable", action="store_true", help="measure the result of prune(), without optimize(inference=True)")
    add("--train", action="store_true", help="also measure an epoch of training")
    add("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    add("--json", type=_file, metavar="FILE", help="write everything there, raw times included")
    add("--chart", type=_file, metavar="FILE", help="draw a bar chart (.png, .svg, .pdf); needs matplotlib")


def main(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark with these arguments; prints tables and returns the JSON document."""
    spec = _spec(options)
    _check(parser, spec, options)
    use_threads(spec.threads)
    try:
        graph = make_graph(spec)
    except (ValueError, OSError) as error:
        parser.error(f"argument --graph: {error}")
    document = {"machine": report.machine_facts(graph), "graph": _facts(graph), "options": json.loads(spec.to_json())}
    document |= {"legend": legend(spec), "models": {}}
    choose(graph.x)  # warns where numba does not work; later warnings are ignored, for peers give many
    print(report.headline(document["machine"], graph))
    results: dict[str, Result] = {}
    with tqdm(total=number_of_steps(spec), unit="step", file=sys.stderr) as progress:

        def step(name: str) -> None:
            progress.set_description_str(name, refresh=False)
            progress.update()

        for name, result in run(spec, graph, step):
            results[name] = result
            kernels = kernels_of(graph.x)  # after each model: numba is given up if a kernel does not compile
            document["models"][name] = {"kernels": kernels, **report.as_json(result)}
            with progress.external_write_mode(sys.stdout):
                print(f"\n{_tables(name, result, kernels)}", flush=True)
            if options.json is not None:  # after every model, so that an interrupted run keeps its results
                options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\n{report.legend_text(document['legend'])}")
    if options.chart is not None:
        chart.draw(results, f"{graph.name}, {graph.num_nodes:,} nodes, {graph.num_edges:,} edges", options.chart)
    return document


def _tables(name: str, result: Result, kernels: str) -> str:
    tables = [report.table_of(f"{name} ({kernels} kernels)", result.inference)]
    if result.training:
        tables.append(report.table_of(f"{name}, epoch of training ({kernels} kernels)", result.training))
    return "\n\n".join(tables)


def _facts(graph: Graph) -> dict[str, Any]:
    return {"name": graph.name, "nodes": graph.num_nodes, "edges": graph.num_edges, "dims": graph.dims}


def _spec(options: argparse.Namespace) -> Spec:
    nodes, edges = options.synthetic
    same = ("graph", "repeats", "threads", "seed", "device", "trainable", "train", "memory")
    values: dict[str, Any] = {key: getattr(options, key) for key in same}
    values |= {key: tuple(dict.fromkeys(getattr(options, key))) for key in ("models", "amounts", "columns")}
    return Spec(nodes=nodes, edges=edges, dims=tuple(options.dims), data=str(options.data), **values)


def _check(parser: argparse.ArgumentParser, spec: Spec, options: argparse.Namespace) -> None:
    """Refuse arguments that cannot work, before anything slow happens."""
    try:
        check_dims(spec.dims)
    except ValueError as error:
        parser.error(f"argument --dims: {error}")
    if spec.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch sees no GPU here")
    known = columns(spec.amounts)
    if not any(spec.wants(name) for name in known):
        parser.error(f"argument --columns: no column is called {' or '.join(spec.columns)} ({', '.join(known)})")
    if options.chart is not None:
        try:
            chart.check_drawing(options.chart)
        except (ImportError, ValueError) as error:
            parser.error(f"argument --chart: {error}")


def _model(text: str) -> str:
    names = {name.lower(): name for name in NETWORKS}
    if text.lower() not in names:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(NETWORKS)}")
    return names[text.lower()]


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < 1:  # true for NaN too
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in [0, 1)")
    return amount


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    return path


#: Types of arguments by name, for other benchmarks.
TYPES = {"model": _model, "amount": _amount, "count": _count, "file": _file}
