"""Row axes as pairs of sizes in the two example graphs, and their symbols (``N``, ``E``, ``E+N``, ...)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations_with_replacement

from upscale_fx.compiled.inputs import LARGE, SMALL

#: The sizes of a value's row axes in the two example graphs.
RowAxes = tuple[tuple[int, int], ...]


_PAIRS = {(SMALL[s], LARGE[s]): s for s in SMALL}
for _a, _b in combinations_with_replacement("NEB", 2):
    _PAIRS.setdefault((SMALL[_a] + SMALL[_b], LARGE[_a] + LARGE[_b]), "E+N" if (_a, _b) == ("N", "E") else f"{_a}+{_b}")
for _s in SMALL:
    _PAIRS.setdefault((SMALL[_s] + 1, LARGE[_s] + 1), f"{_s}+1")


def row_symbol(pair: tuple[int, int]) -> str:
    """Return ``N`` for nodes, ``E`` for edges, ``B`` for graphs, a sum or multiple of these, or ``*`` for others."""
    if pair in _PAIRS:
        return _PAIRS[pair]
    times = next((s for s in SMALL if pair[0] * LARGE[s] == pair[1] * SMALL[s] and pair[0] % SMALL[s] == 0), None)
    return "*" if times is None else f"{pair[0] // SMALL[times]}{times}"


def symbols_of(rows: RowAxes) -> str:
    """Return the product of the symbols of row axes, such as ``N*N``; ``call`` without row axes."""
    return "*".join(map(row_symbol, rows)) or "call"


def rows_of_symbol(symbol: str, rows: Mapping[str, float]) -> float | None:
    """Return the number of rows of a symbol of :class:`Size` (``E``, ``E+N``, ``2N``, ``N+1``, ``N*N``, ...).

    None for ``*``, or if ``rows`` lacks a count.
    """
    if symbol == "call":
        return 1.0
    total = 1.0
    for factor in symbol.split("*"):
        parts = [_rows_of_term(term, rows) for term in factor.split("+")]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        total *= sum(known)
    return total


def _rows_of_term(term: str, rows: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"(\d*)([A-Z]?)", term)
    if match is None or not term:
        return None
    times, kind = match.groups()
    if not kind:
        return float(times)
    count = rows.get(kind)
    return None if count is None else float(times or 1) * count
