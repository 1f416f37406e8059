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
from tests.conformance.whole_models import MODELS

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

WHOLE = """\
## Whole models

Every row of `tests/conformance/whole_models` is a model as users write it, in words of its own, with the architecture
of a public package or paper. It is traced, masked at 0.5 and compacted as it stands, and compared in float64 to 1e-10
on graphs of two other sizes (in float32 to 1e-4 where PyG itself needs that). *Below 0.8* counts the models that keep
less than 0.8 of their parameters. The others are listed below with what keeps their channels.
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
    parts.append("## Usages\n\n" + tabulate(USAGES, headers=["usage", "what holds", "test"], tablefmt="pipe") + "\n")
    parts.append("## How graphs are handed over\n\n" + tabulate(ARGUMENTS, headers=HEADERS, tablefmt="pipe") + "\n")
    parts.append("## What models do besides calling layers\n\n" + _pairs("kind", "held by", list(KINDS.items())) + "\n")
    parts += _whole_models()
    return "\n".join(parts)


def _whole_models() -> list[str]:
    """The section of whole models: counts by source, exceptions, refusals."""
    counted = []
    for source in dict.fromkeys(row.how for row in MODELS):
        rows = [row for row in MODELS if row.how == source]
        pruned = [row for row in rows if row.expect == "pruned"]
        small = [row for row in pruned if row.below <= 0.8]
        others = [len([row for row in rows if row.expect == outcome]) or "" for outcome in ("nothing", "refused")]
        counted.append([source, len(rows), len(pruned), len(small), *others])
    counted.append(["all", *(sum(row[column] or 0 for row in counted) for column in range(1, 6))])
    headers = ["source", "models", "pruned", "below 0.8", "nothing to prune", "refused"]
    larger = [(row.module, row.why) for row in MODELS if row.expect == "pruned" and row.below > 0.8]
    refused = sorted((row.module, row.why) for row in MODELS if row.expect == "refused")
    return [
        f"{WHOLE}\n{len(MODELS)} models.\n",
        tabulate(counted, headers=headers, tablefmt="pipe") + "\n",
        _pairs("keeps more", "reason", larger) + "\n",
        *([_pairs("refused", "reason", refused) + "\n"] if refused else []),
    ]


def _table(names: list[str], rows: dict[str, list[str]]) -> str:
    counted = [
        [name, *(rows[name].count(outcome) or "" for outcome in ("pruned", "nothing", "refused"))] for name in names
    ]
    return tabulate(counted, headers=["module", "pruned", "nothing to prune", "refused"], tablefmt="pipe")


def _pairs(first: str, second: str, pairs: list[tuple[str, str]]) -> str:
    return tabulate(pairs, headers=[first, second], tablefmt="pipe")


if __name__ == "__main__":
    PAGE.write_text(page())
