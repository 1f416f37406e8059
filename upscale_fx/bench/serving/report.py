"""Tables of the benchmark of servers, and everything as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tabulate import tabulate

from upscale_fx.bench.serving.answers import Cell, Cells
from upscale_fx.bench.serving.columns import BASELINE
from upscale_fx.bench.serving.fanouts import Sampled
from upscale_fx.bench.serving.updates import Updates

LEGEND = {
    BASELINE: "PyG's model on the nodes and edges that the answer depends on, found by a CSR and run in every layer",
    "full pass": "the pruned model on the whole graph, prepared once",
    "no store": "a server that forgets all rows before each answer",
    "warm": "a server with all rows",
    "updates": "warm, and another thread adds and removes random edges; eager: it computes the rows again at once",
    "answers/s": "nodes answered per second, from the median",
    "x PyG, x pass": "median of PyG, and of the full pass, divided by the median; 'best' by minima",
    "nodes": "different nodes of which an answer reads features or stored rows",
    "computed": "rows computed before the outputs",
    "MMACs": "millions of multiply-adds of an answer",
    "KB read": "of features and stored rows, without padding",
    "MB stored": "rows that are kept between answers",
    "off by": "largest difference to the reference, relative to a node's largest logit (or the median node's)",
    "fan-outs": "drawing neighbours is timed for servers, and not for PyG, whose layers alone run on blocks that are "
    "there; both draw for themselves, as many",
    "durable": "each transaction is synced to a folder before it returns; lazily: rows are forgotten, eagerly: "
    "computed again, incrementally: sums take differences",
}


def answers_table(model: str, cells: Cells) -> str:
    """One table per size of questions."""
    return "\n\n".join(_answers(f"{model}, {size} node{'s' if size > 1 else ''}", cells[size]) for size in cells)


def _answers(title: str, cells: Mapping[str, Cell]) -> str:
    base = cells[BASELINE]
    whole = next(cell for name, cell in cells.items() if name.endswith("full pass"))
    rows = []
    for name, cell in cells.items():
        effort, middle = cell.effort, cell.percentile(50)
        assert effort is not None
        rows.append(
            {
                title: name,
                "best ms": _ms(min(cell.seconds)),
                "p50": _ms(middle),
                "p99": _ms(cell.percentile(99)),
                "asked": f"{len(cell.seconds):,}",
                "answers/s": f"{int(title.split(', ')[1].split(maxsplit=1)[0]) / middle:,.0f}",
                "x PyG": _times(base.percentile(50), middle),
                "x PyG, best": _times(min(base.seconds), min(cell.seconds)),
                "x pass": _times(whole.percentile(50), middle),
                "nodes": f"{effort.nodes:,}",
                "computed": f"{effort.computed:,}",
                "MMACs": f"{1e-6 * effort.macs:,.3g}" if effort.macs < 1e9 else f"{1e-6 * effort.macs:,.0f}",
                "KB read": f"{1e-3 * effort.bytes:,.0f}",
                "MB stored": f"{1e-6 * cell.stored:,.1f}" if cell.stored else "-",
                "off by": f"{cell.difference:.0e}",
            }
        )
    return _table(rows)


def updates_table(model: str, found: Mapping[str, Updates]) -> str:
    """The table of durable transactions."""
    rows = []
    for way, updates in found.items():
        p50, p99 = np.percentile(updates.seconds, (50, 99))
        every, middle = updates.rates()
        rows.append(
            {
                f"{model}, transactions of {updates.edges:,} edges": way,
                "edges/s": f"{every:,.0f}",
                "from p50": f"{middle:,.0f}",
                "p50 ms": _ms(p50),
                "p99": _ms(p99),
                "max": _ms(max(updates.seconds)),
                "rows stale, p50": f"{np.median(updates.rows):,.0f}",
                "max rows": f"{max(updates.rows):,}",
                "64 nodes next, p50 ms": _ms(float(np.median(updates.first))),
                "off by": f"{updates.verified:.0e}",
            }
        )
    return _table(rows)


def fanouts_table(title: str, found: Mapping[str, Sampled]) -> str:
    """The table of answers from drawn neighbours."""
    first = next(iter(found.values()))
    rows = []
    for way, sampled in found.items():
        middle = float(np.median(sampled.seconds))
        rows.append(
            {
                title: way,
                "best ms": _ms(min(sampled.seconds)),
                "p50 ms": _ms(middle),
                "x PyG": _times(float(np.median(first.seconds)), middle),
                "accuracy": f"{100 * sampled.right:.2f} %",
                "points lost": f"{100 * (first.right - sampled.right):.2f}",
            }
        )
    return _table(rows)


def answers_json(cells: Cells) -> dict[str, Any]:
    """All measurements of answers, with raw times."""
    return {str(size): {name: asdict(cell) for name, cell in row.items()} for size, row in cells.items()}


def as_json(found: Mapping[str, Updates] | Mapping[str, Sampled]) -> dict[str, Any]:
    """All measurements of updates or fan-outs, with raw times."""
    return {name: asdict(values) for name, values in found.items()}


def legend_text() -> str:
    """The meaning of columns and figures, one per line."""
    width = max(map(len, LEGEND))
    return "\n".join(f"{name:<{width}}  {meaning}" for name, meaning in LEGEND.items())


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    align = ("left", *["right"] * (len(rows[0]) - 1))
    return tabulate([list(row.values()) for row in rows], headers=list(rows[0]), disable_numparse=True, colalign=align)


def _ms(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _times(above: float, below: float) -> str:
    ratio = above / below
    return f"{ratio:.3g}x" if ratio < 100 else f"{ratio:,.0f}x"
