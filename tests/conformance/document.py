"""The coverage table of the documentation, made from the rows; run as a module it writes docs/coverage.md.

python -m tests.conformance.document
"""

from collections import defaultdict
from pathlib import Path

import torch_geometric.nn as gnn
from tabulate import tabulate

from tests.conformance import CASES
from tests.conformance.left_out import LEFT_OUT

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

Every row of `tests/conformance` builds a layer and calls it in one way that PyG documents. It is traced, masked by half
with `inputs=True` and compacted; trace and module, compacted and masked module must agree to 1e-10 in float64 (1e-4 for
the few that run in float32 only) on graphs of other sizes, and the compacted one must be smaller. *Pruned* counts the
rows of which all this holds, *nothing to prune* those without a contraction over channels, for which
`NothingToPruneError` is raised, and *refused* those that raise a `TraceError` which names the layer. This page is made
from the rows (`python -m tests.conformance.document`); a test compares it with them.

k-NN graphs, top-k and sorting choose by comparing numbers: where two are nearly equal, rounding may flip the choice.
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
    refused = {(case.module, case.why) for case in CASES if case.expect == "refused"}
    parts.append("## Refused: these cannot be traced\n\n" + _pairs("layer", "reason", sorted(refused)) + "\n")
    parts.append("## Not covered\n\n" + _pairs("module", "reason", sorted(LEFT_OUT.items())) + "\n")
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
