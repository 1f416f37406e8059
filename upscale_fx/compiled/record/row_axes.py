"""Row axes as pairs of sizes in the two example graphs, and their symbols (``N``, ``E``, ``E+N``, ...)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations_with_replacement

from upscale_fx.compiled.inputs import GROWTHS, LARGE, SMALL

#: The sizes of a value's row axes in the two example graphs.
RowAxes = tuple[tuple[int, int], ...]


def _pairs() -> dict[tuple[int, int], str]:
    """The sizes in the two example graphs of nodes, edges and graphs, of their sums, and with one more."""
    pairs: dict[tuple[int, int], str] = {}
    for growth in (0, *GROWTHS):
        small, large = ({s: rows[s] + (growth if s != "B" else 0) for s in rows} for rows in (SMALL, LARGE))
        for symbol in small:
            pairs.setdefault((small[symbol], large[symbol]), symbol)
        for a, b in combinations_with_replacement("NEB", 2):
            text = "E+N" if (a, b) == ("N", "E") else f"{a}+{b}"
            pairs.setdefault((small[a] + small[b], large[a] + large[b]), text)
        for symbol in small:
            pairs.setdefault((small[symbol] + 1, large[symbol] + 1), f"{symbol}+1")
    return pairs


_PAIRS = _pairs()
#: The pairs of nodes, edges and graphs themselves.
_SINGLE = {pair: symbol for pair, symbol in _PAIRS.items() if symbol in SMALL}


def row_symbol(pair: tuple[int, int]) -> str:
    """Return ``N`` for nodes, ``E`` for edges, ``B`` for graphs, a sum or multiple of these, or ``*`` for others."""
    if pair in _PAIRS:
        return _PAIRS[pair]
    for (small, large), symbol in _SINGLE.items():
        if pair[0] * large == pair[1] * small and pair[0] % small == 0:
            return f"{pair[0] // small}{symbol}"
    return "*"


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
