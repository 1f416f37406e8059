"""The command line of the benchmark of servers: ``python -m upscale_fx bench serving``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from upscale_fx.bench import chart
from upscale_fx.bench.columns import Case
from upscale_fx.bench.graphs import Graph, make_graph
from upscale_fx.bench.networks import check_dims, make_network
from upscale_fx.bench.report import headline, machine_facts
from upscale_fx.bench.serving import answers, fanouts, picture, report, updates
from upscale_fx.bench.serving.spec import SMALL, ServingSpec
from upscale_fx.bench.threads import use_threads
from upscale_fx.operators.kernels import choose

DESCRIPTION = """
Ask servers for nodes of a graph that changes, in turns with PyTorch Geometric on the k-hop subgraph and with the pruned
model on the whole graph. Then time durable transactions of random edges, and fan-outs on stored graphs. Every column is
checked. The default graph is synthetic, of the size of ogbn-arxiv, with skewed degrees.
"""
PARTS = ("answers", "updates", "fanouts")


def add_arguments(parser: argparse.ArgumentParser, types: Mapping[str, Any]) -> None:
    """Add the arguments to a parser; ``types`` are those of the usual benchmark, by name."""
    count, file, usual = types["count"], types["file"], ServingSpec()
    add = parser.add_argument
    add("--small", action="store_true", help="a tiny graph, in seconds: to see that it runs; its figures mean nothing")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    add("--models", nargs="+", type=types["model"], metavar="NAME", help="default: GCN SAGE GAT")
    add("--synthetic", nargs=2, type=count, metavar=("NODES", "EDGES"), help=f"default: {usual.nodes} {usual.edges}")
    add("--dims", nargs="+", type=count, metavar="WIDTH", help="input, hidden and output widths: 128 256 256 40")
    add("--amount", type=types["amount"], help="share of the channels that is removed (default: 0.75)")
    add("--batches", nargs="+", type=count, metavar="NODES", help="nodes of a question (default: 1 64 512)")
    add("--rounds", type=count, help=f"turns of every column (default: {usual.rounds})")
    add("--transactions", type=count, help=f"durable transactions (default: {usual.transactions})")
    add("--graphs", nargs="*", metavar="NAME", help="stored graphs for fan-outs (default: physics github, if stored)")
    add("--data", type=Path, metavar="DIR", help="folder of stored graphs (default: ../shared/data)")
    add("--folder", type=Path, metavar="DIR", help="where durable stores are made, for the time of the run")
    add("--threads", type=count, help="threads of all libraries (default: their own choice)")
    add("--seed", type=int, help="of graph, weights and draws (default: 0)")
    add("--json", type=file, metavar="FILE", help="write everything there, raw times included")
    add("--chart", type=file, metavar="FILE", help="draw a bar chart (.png, .svg, .pdf); needs matplotlib")


def main(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark with these arguments; prints tables and returns the JSON document."""
    spec = _spec(parser, options)
    use_threads(spec.threads)
    graph = make_graph(spec.as_bench("GCN"))
    choose(graph.x)
    document: dict[str, Any] = {"machine": machine_facts(graph), "options": asdict(spec), "legend": report.LEGEND}
    document |= {"models": {}, "fanouts": {}}
    print(headline(document["machine"], graph))
    drawn: dict[str, answers.Cells] = {}
    total = len(spec.models) * (
        ("answers" in options.parts) * answers.number_of_steps(spec) + ("updates" in options.parts) * spec.transactions
    ) + ("fanouts" in options.parts) * 2 * len(spec.graphs)
    with tqdm(total=total, unit="step", file=sys.stderr) as progress:

        def step(name: str) -> None:
            progress.set_description_str(name, refresh=False)
            progress.update()

        def say(text: str) -> None:
            with progress.external_write_mode(sys.stdout):
                print(f"\n{text}", flush=True)
            if options.json is not None:  # after every table, so that an interrupted run keeps its results
                options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

        for name in spec.models:
            case = Case(name, make_network(name, graph, spec.seed), graph, spec.as_bench(name))
            found = document["models"][name] = {}
            if "answers" in options.parts:
                drawn[name] = answers.measure(case, spec, step)
                found["answers"] = report.answers_json(drawn[name])
                say(report.answers_table(name, drawn[name]))
            if "updates" in options.parts:
                changed = updates.measure(case, spec, options.folder, step)
                found["updates"] = report.as_json(changed)
                say(report.updates_table(name, changed))
        for name in spec.graphs if "fanouts" in options.parts else ():
            stored, sampled = fanouts.measure(name, spec, step)
            document["fanouts"][name] = report.as_json(sampled)
            say(report.fanouts_table(_title(name, stored, spec), sampled))
    print(f"\n{report.legend_text()}")
    if options.chart is not None and drawn:
        picture.draw(drawn, f"{graph.num_nodes:,} nodes, {graph.num_edges:,} edges", options.chart)
    return document


def _title(name: str, graph: Graph, spec: ServingSpec) -> str:
    drawn = ", ".join(map(str, spec.fanouts))
    return f"{name}, SAGE {'-'.join(map(str, (graph.dims[0], spec.hidden, graph.dims[-1])))}, fan-outs {drawn}"


def _spec(parser: argparse.ArgumentParser, options: argparse.Namespace) -> ServingSpec:
    """The settings; refuses what cannot work before anything slow happens."""
    spec = SMALL if options.small else ServingSpec()
    same = ("amount", "rounds", "transactions", "threads", "seed")
    values: dict[str, Any] = {key: getattr(options, key) for key in same}
    values |= {key: _tuple(getattr(options, key)) for key in ("models", "dims", "batches", "graphs")}
    values["nodes"], values["edges"] = options.synthetic or (None, None)
    values["data"] = None if options.data is None else str(options.data)
    spec = replace(spec, **{key: value for key, value in values.items() if value is not None})
    try:
        check_dims(spec.dims)
        if options.chart is not None:
            chart.check_drawing(options.chart)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    if not (Path(spec.data) / "load.py").is_file():
        if options.graphs or options.data:
            parser.error(f"argument --data: there is no load.py in {spec.data}")
        spec = replace(spec, graphs=())
    if options.folder is not None and not options.folder.is_dir():
        parser.error(f"argument --folder: there is no folder {options.folder}")
    return spec


def _tuple(values: Any) -> tuple[Any, ...] | None:
    return (
        None
        if values is None
        else tuple(dict.fromkeys(values))
        if values and isinstance(values[0], str)
        else tuple(values)
    )
