"""Compiled loops for the gradients of max and min aggregation. Arguments are those of ``sum_loops``.

Messages are computed again and compared with the ``result [N, H, C]``: all edges that tie for it get an equal share of
``grad [N, H, C]``. A result of 0 counts one more tie. A result of NaN ties with no edge, so its gradient is NaN. This
is what torch's scatter_reduce does, so compiled models train like eager ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from upscale_fx.operators.kernels.jit import OK, ROWPTR, ahead, compile_loop, covers, fetch, inline, inside, unsigned


@compile_loop
def extreme_sources(
    rowptr: Any, col: Any, identity: bool, num_edges: int, w: Any, ws: int, wh: int,
    x: Any, xs: int, hs: int, m: int, heads: int, channels: int, result: Any, grad: Any, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Gradient of the sources, ``out [M, H, C]``, which must be zeros. Each thread has a range of channels."""
    last_row = rowptr.size - 1
    if not covers(rowptr, 0, last_row, num_edges):
        return ROWPTR
    width, one, zero = heads * channels, out.dtype.type(1), out.dtype.type(0)
    share = np.empty(hi - lo, out.dtype)
    distance = ahead(out, hi - lo)
    fetched = 0 if identity else num_edges - distance
    for i in range(last_row):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        outcome = _share_among_ties(
            start, stop, num_edges, col, identity, w, ws, wh,
            x, xs, hs, m, channels, result, grad, i * width, share, lo, hi,
        )  # fmt: skip
        if outcome != OK:
            return outcome
        for e in range(start, stop):
            j = e if identity else col[e]
            if e < fetched:
                fetch(out, col[e + distance] * width + lo, hi - lo)
            for h in range(lo // channels, (hi - 1) // channels + 1):
                scale = w[e * ws + h * wh]
                first, last = max(lo, h * channels), min(hi, (h + 1) * channels)
                a, b = unsigned(j * xs + h * (hs - channels) + first), unsigned(i * width + first)
                k, t = unsigned(first - lo), unsigned(j * width + first)
                for c in range(unsigned(last - first)):
                    hit = one if scale * x[a + c] == result[b + c] else zero
                    out[t + c] += hit * share[k + c] * scale
    return OK


@compile_loop
def extreme_weights(
    rowptr: Any, col: Any, identity: bool, num_edges: int, w: Any, ws: int, wh: int,
    x: Any, xs: int, hs: int, m: int, heads: int, channels: int, result: Any, grad: Any, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Gradient of the weights, ``out[e * ws + h * wh]``, which must be zeros. Each thread has a range of targets."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    width, one, zero = heads * channels, out.dtype.type(1), out.dtype.type(0)
    share = np.empty(width, out.dtype)
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        outcome = _share_among_ties(
            start, stop, num_edges, col, identity, w, ws, wh,
            x, xs, hs, m, channels, result, grad, i * width, share, 0, width,
        )  # fmt: skip
        if outcome != OK:
            return outcome
        for e in range(start, stop):
            j = e if identity else col[e]
            for h in range(heads):
                scale, total = w[e * ws + h * wh], zero
                k = unsigned(h * channels)
                a, b = unsigned(j * xs + h * hs), unsigned(i * width) + k
                for c in range(unsigned(channels)):
                    hit = one if scale * x[a + c] == result[b + c] else zero
                    total += hit * share[k + c] * x[a + c]
                out[e * ws + h * wh] += total
    return OK


@inline
def _share_among_ties(
    start: int, stop: int, num_edges: int, col: Any, identity: bool, w: Any, ws: int, wh: int,
    x: Any, xs: int, hs: int, m: int, channels: int, result: Any, grad: Any, row: int, share: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Set ``share`` to the gradient of each tying edge in channels lo to hi; the target's channels begin at ``row``."""
    one, zero = share.dtype.type(1), share.dtype.type(0)
    distance = ahead(x, hi - lo)
    fetched = 0 if identity else num_edges - distance
    for k in range(hi - lo):
        share[k] = one if result[row + lo + k] == 0 else zero
    for e in range(start, stop):
        j = e if identity else col[e]
        if j < 0 or j >= m:
            return e
        if e < fetched:
            fetch(x, col[e + distance] * xs + lo, hi - lo)
        for h in range(lo // channels, (hi - 1) // channels + 1):
            scale = w[e * ws + h * wh]
            first, last = max(lo, h * channels), min(hi, (h + 1) * channels)
            a, b = unsigned(j * xs + h * (hs - channels) + first), unsigned(row + first)
            p = unsigned(first - lo)
            for c in range(unsigned(last - first)):
                share[p + c] += one if scale * x[a + c] == result[b + c] else zero
    for k in range(hi - lo):
        share[k] = grad[row + lo + k] / share[k]
    return OK
