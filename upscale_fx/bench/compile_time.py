"""How long ``prune`` takes: ``python -m upscale_fx.bench.compile_time``.

Three models that are hard for the compiler, each for another reason: 64 layers that read one tensor of 256 channels,
each its own half of them, so that no order of the channels suits all; 100 layers whose results are concatenated, a
graph of a thousand nodes; and a network of wide layers as people use it. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn.models import GCN, GraphSAGE

import upscale_fx
from upscale_fx import passes
from upscale_fx.bench.threads import use_threads

DESCRIPTION = "Time prune() of models that are hard to compile: the least and the median of some runs, and its parts."
AMOUNT = 0.5


class Readers(nn.Module):
    """An encoder whose hidden channels are read by many linear layers; their results are concatenated."""

    def __init__(self, readers: int = 64, width: int = 256) -> None:
        super().__init__()
        self.encoder = nn.Linear(32, width)
        self.heads = nn.ModuleList(nn.Linear(width, 8) for _ in range(readers))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """``[N, 8 * readers]``."""
        hidden = self.encoder(x).relu()
        return torch.cat([head(hidden) for head in self.heads], dim=-1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "readers": Readers,
    "jk": lambda: GCN(32, 32, 100, 8, jk="cat"),
    "sage": lambda: GraphSAGE(128, 256, 3, 40),
}
TITLES = {
    "readers": "64 readers of 256 channels",
    "jk": "100-layer JK-cat GCN of width 32",
    "sage": "3-layer SAGE of width 256",
}


def make_model(name: str) -> nn.Module:
    """A model with the same random weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]()


def prune_once(model: nn.Module) -> None:
    """What is timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        upscale_fx.prune(model, AMOUNT)


def seconds_of(model: nn.Module, repeats: int) -> list[float]:
    """Seconds of some runs, after a warm-up."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        prune_once(model)
        found.append(time.perf_counter() - start)
    return found[1:]


#: Stages that are functions: the end of their file's path and their name.
_STAGES = {
    "trace": ("tracing/trace.py", "trace_model"),
    "survey and masks": ("masking/plan.py", "make_plan"),
    "report": ("reports/report.py", "report"),
    "(in all of these) analyses of a graph": ("analysis/dataflow.py", "analyse"),
    "(in all of these) copies of a graph": ("compiled/module.py", "__deepcopy__"),
    "(in all of these) orders of channels": ("order/ranking.py", "rank_channels"),
}


def parts_of(model: nn.Module) -> list[tuple[str, int, float]]:
    """Stages and passes of one run under a profiler: how often each ran, and its share of the time."""
    profile = cProfile.Profile()
    profile.runcall(prune_once, model)
    found = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    whole = max(entry[3] for entry in found.values())
    wanted = {("passes/" + _file_of(name), "__call__"): name for name in passes.__all__}
    wanted |= {place: name for name, place in _STAGES.items()}
    parts = [
        (title, calls, spent / whole)
        for (file, _, name), (_, calls, _, spent, _) in found.items()
        for (end, function), title in wanted.items()
        if name == function and file.endswith(end)
    ]
    return sorted(parts, key=lambda part: (part[0].startswith("("), -part[2]))


def _file_of(pass_name: str) -> str:
    """The file of a pass: each has its own, of its name."""
    letters = [f"_{letter.lower()}" if letter.isupper() else letter for letter in pass_name]
    return "".join(letters).removeprefix("_") + ".py"


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Print a table for each model; returns the seconds of all runs."""
    parser = argparse.ArgumentParser(prog="python -m upscale_fx.bench.compile_time", description=DESCRIPTION)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME",
                        help=f"of {', '.join(MODELS)} (default: all)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, after a warm-up (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: as it chooses)")
    options = parser.parse_args(argv)
    use_threads(options.threads)
    results = {}
    for name in options.models:
        model = make_model(name)
        results[name] = seconds_of(model, options.repeats)
        least, median = min(results[name]), statistics.median(results[name])
        print(f"\n{TITLES[name]}: least {least:.2f} s, median {median:.2f} s of {options.repeats}")
        for title, calls, share in parts_of(model):
            print(f"  {share:6.1%}  {calls:4d}x  {title}")
    return results


if __name__ == "__main__":
    main()
