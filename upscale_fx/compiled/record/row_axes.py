"""Row axes, by their sizes in the two example graphs, and the symbols that people know them by."""

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
    """``N`` nodes, ``E`` edges, ``B`` graphs, their sums and multiples, or ``*`` for another row count."""
    if pair in _PAIRS:
        return _PAIRS[pair]
    times = next((s for s in SMALL if pair[0] * LARGE[s] == pair[1] * SMALL[s] and pair[0] % SMALL[s] == 0), None)
    return "*" if times is None else f"{pair[0] // SMALL[times]}{times}"


def symbols_of(rows: RowAxes) -> str:
    """The symbols of row axes, multiplied."""
    return "*".join(map(row_symbol, rows)) or "call"


def rows_of_symbol(symbol: str, rows: Mapping[str, float]) -> float | None:
    """The rows that a symbol of :class:`Size` stands for (``E``, ``E+N``, ``2N``, ``N+1``, ``N*N``, ...).

    None for a count that is none of nodes, edges and graphs, or that the call does not have.
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
    found = re.fullmatch(r"(\d*)([A-Z]?)", term)
    if found is None or not term:
        return None
    times, kind = found.groups()
    if not kind:
        return float(times)
    count = rows.get(kind)
    return None if count is None else float(times or 1) * count
