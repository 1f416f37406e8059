"""Results of a run for people: a table per model, and everything as JSON."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from tabulate import tabulate

from upscale_fx.bench.columns import BASELINE
from upscale_fx.bench.graphs import Graph
from upscale_fx.bench.limit import Machine
from upscale_fx.bench.run import Cell, Cells, Result, best_of
from upscale_fx.operators.kernels import name as kernels

_PACKAGES = ("torch", "torch_geometric", "torch-pruning", "numba", "numpy")


def machine_facts(graph: Graph) -> dict[str, Any]:
    """Facts that the figures depend on: machine, libraries, and two rates measured now."""
    machine = Machine(graph)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor() if machine.device == "cpu" else torch.cuda.get_device_name(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "kernels": kernels(graph.x),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": machine.device,
        "gemm_gflops": 2e-9 * machine.products_per_second(),
        "bandwidth_gb_per_s": 1e-9 * machine.bytes_per_second(),
    }


def headline(facts: Mapping[str, Any], graph: Graph) -> str:
    """Graph, machine and libraries, in three lines."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number)
    widths = "-".join(map(str, graph.dims))
    return (
        f"{graph.name}: {graph.num_nodes:,} nodes, {graph.num_edges:,} edges, widths {widths}, float32\n"
        f"{facts['processor']}, {facts['threads']} threads: {facts['gemm_gflops']:.0f} GFLOP/s (GEMM), "
        f"{facts['bandwidth_gb_per_s']:.1f} GB/s (copy)\n"
        f"{packages}; upscale_fx runs on {facts['kernels']} kernels"
    )


def table_of(title: str, cells: Cells) -> str:
    """The table of one model, without empty columns; the reasons for missing figures are listed below it."""
    baseline, best = _median(cells, BASELINE), best_of(cells)
    rows = [{title: name, **_row(cell, baseline, best)} for name, cell in cells.items()]
    headers = [header for header in rows[0] if any(row[header] != "-" for row in rows)]
    lines = [
        tabulate(
            [[row[header] for header in headers] for row in rows],
            headers=headers,
            disable_numparse=True,
            colalign=("left", *["right"] * (len(headers) - 1)),
        )
    ]
    reasons: dict[str, list[str]] = {}
    for name, cell in cells.items():
        for figure, note in {"": cell.reason, **cell.notes}.items():
            if note is not None:
                reasons.setdefault(note, []).append(f"{figure} of {name}" if figure else name)
    return "\n".join([*lines, *(f"  {'; '.join(names)}: {reason}" for reason, names in reasons.items())])


def _row(cell: Cell, baseline: float | None, best: float | None) -> dict[str, str]:
    """The figures of a column, "-" where there is none."""
    if cell.quartiles is None:
        names = ("spread", "vs PyG", "vs best", "x limit", "peak MB", "parameters", "MMACs")
        off = "-" if cell.difference is None else f"{cell.difference:.0e}"
        return {"ms": "WRONG" if cell.wrong else "-", **dict.fromkeys(names, "-"), "off by": off}
    low, middle, high = cell.quartiles
    return {
        "ms": _milliseconds(middle),
        "spread": _milliseconds(high - low),
        "vs PyG": _times(baseline, middle),
        "vs best": _times(best, middle),
        "x limit": _times(middle, cell.limit),
        "peak MB": "-" if cell.peak is None else f"{1e-6 * cell.peak:,.1f}",
        "parameters": "-" if cell.parameters is None else f"{cell.parameters:,}",
        "MMACs": "-" if cell.macs is None else f"{1e-6 * cell.macs:,.0f}",
        "off by": "-" if cell.difference is None else f"{cell.difference:.0e}",
    }


def legend_text(lines: Mapping[str, str]) -> str:
    """The meaning of columns and figures, one per line."""
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {meaning}" for name, meaning in lines.items())


def as_json(result: Result) -> dict[str, Any]:
    """All measurements of a model, with raw times."""
    return {"inference": _cells_as_json(result.inference), "training": _cells_as_json(result.training)}


def _cells_as_json(cells: Cells) -> dict[str, Any]:
    baseline, best = _median(cells, BASELINE), best_of(cells)
    return {
        name: {
            "reason": cell.reason,
            "seconds": cell.seconds,
            "quartiles": cell.quartiles,
            "vs_pyg": _ratio(baseline, cell.median),
            "vs_best": _ratio(best, cell.median),
            "limit_seconds": cell.limit,
            "to_limit": _ratio(cell.median, cell.limit),
            "peak_bytes": cell.peak,
            "prepared_bytes": cell.prepared,
            "parameters": cell.parameters,
            "macs": cell.macs,
            "wrong": cell.wrong,
            "difference": None if cell.difference is None or math.isinf(cell.difference) else cell.difference,
            "notes": cell.notes,
        }
        for name, cell in cells.items()
    }


def _median(cells: Mapping[str, Cell], name: str) -> float | None:
    return cells[name].median if name in cells else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _times(above: float | None, below: float | None) -> str:
    ratio = _ratio(above, below)
    return "-" if ratio is None else f"{ratio:.3g}x" if ratio < 100 else f"{ratio:,.0f}x"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
