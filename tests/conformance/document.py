"""Generates the coverage page of the documentation from the rows; run as a module it writes docs/coverage.md.

python -m tests.conformance.document
"""

from collections import defaultdict
from pathlib import Path

import torch_geometric.nn as gnn
from tabulate import tabulate

from tests.conformance import CASES
from tests.conformance.arguments import ARGUMENTS, HEADERS
from tests.conformance.kinds import KINDS
from tests.conformance.left_out import LEFT_OUT
from tests.conformance.usages import USAGES

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
SECTIONS = {
    "Convolutions": gnn.conv,
    "Aggregations": gnn.aggr,
    "Norms": gnn.norm,
    "Dense layers": gnn.dense,
    "Pooling": gnn.pool,
    "Models": gnn.models,
}
HEAD = """\
# Which layers are covered

Every row of `tests/conformance` builds a layer and calls it in one way that PyG documents. The test traces it, masks
half of its channels with `inputs=True`, and compacts it. Trace and module must agree, and so must the compacted and
the masked module: to 1e-10 in float64 (1e-4 for the few that run only in float32), on graphs of other sizes. The
compacted module must be smaller. *Pruned* counts the rows for which all this holds, *nothing to prune* those without
a contraction over channels, which raise `NothingToPruneError`, and *refused* those that raise a `TraceError` which
names the layer. This page is generated from the rows (`python -m tests.conformance.document`); a test compares it
with them.

k-NN graphs, top-k and sorting choose by comparing numbers: rounding may change the choice between nearly equal ones.
The rows use random data, which has no ties.
"""


def page() -> str:
    """The text of docs/coverage.md."""
    rows: dict[str, list[str]] = defaultdict(list)
    for case in CASES:
        rows[case.module].append(case.expect)
    parts = [HEAD, f"{len(CASES)} configurations of {len(rows)} modules.\n"]
    known: set[str] = set()
    for title, space in SECTIONS.items():
        names = [name for name in dict.fromkeys(space.__all__) if name in rows]
        known |= set(names)
        parts.append(f"## {title}\n\n{_table(names, rows)}\n")
    parts.append(
        f"## Other modules, and convolutions as users write them\n\n{_table(sorted(set(rows) - known), rows)}\n"
    )
    parts.append("## Kinds of calls and parts\n\n" + _pairs("kind", "held by", sorted(KINDS.items())) + "\n")
    refused = {(case.module, case.why) for case in CASES if case.expect == "refused"}
    parts.append("## Refused: these cannot be traced\n\n" + _pairs("layer", "reason", sorted(refused)) + "\n")
    parts.append("## Not covered\n\n" + _pairs("module", "reason", sorted(LEFT_OUT.items())) + "\n")
    parts.append("## Usages\n\n" + tabulate(USAGES, headers=["usage", "what holds", "test"], tablefmt="pipe") + "\n")
    parts.append("## How graphs are handed over\n\n" + tabulate(ARGUMENTS, headers=HEADERS, tablefmt="pipe") + "\n")
    parts.append("## What models do besides calling layers\n\n" + _pairs("kind", "held by", list(KINDS.items())) + "\n")
    return "\n".join(parts)


def _table(names: list[str], rows: dict[str, list[str]]) -> str:
    counted = [
        [name, *(rows[name].count(outcome) or "" for outcome in ("pruned", "nothing", "refused"))] for name in names
    ]
    return tabulate(counted, headers=["module", "pruned", "nothing to prune", "refused"], tablefmt="pipe")


def _pairs(first: str, second: str, pairs: list[tuple[str, str]]) -> str:
    return tabulate(pairs, headers=[first, second], tablefmt="pipe")


if __name__ == "__main__":
    PAGE.write_text(page())
