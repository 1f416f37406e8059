"""Compiled loops that add to sources. Each thread has a range of channels and visits all edges.

So no two threads write to the same number, the order of sums does not depend on the number of threads, and no
transposed graph is needed. Arguments are those of ``sum_loops``, but ``lo`` to ``hi`` are channels, counted over all
heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from upscale_fx.operators.kernels.jit import OK, ROWPTR, ahead, compile_loop, covers, fetch, inside, unsigned


@compile_loop
def csr(index: Any, num_rows: int, rowptr: Any, order: Any) -> int:
    """Stable counting sort; ``rowptr`` must be zeros. Returns OK or an edge whose target does not exist."""
    for e in range(index.size):
        i = index[e]
        if i < 0 or i >= num_rows:
            return e
        rowptr[i + 1] += 1
    for i in range(num_rows):
        rowptr[i + 1] += rowptr[i]
    place = rowptr.copy()
    for e in range(index.size):
        i = index[e]
        order[place[i]] = e
        place[i] += 1
    return OK


@compile_loop
def spmm_transposed(
    rowptr: Any, col: Any, identity: bool, num_edges: int, w: Any, ws: int, wh: int,
    g: Any, gs: int, gh: int, m: int, heads: int, channels: int, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Add weighted values of targets to their sources; ``out [M, H, C]`` must be zeros."""
    last_row = rowptr.size - 1
    if not covers(rowptr, 0, last_row, num_edges):
        return ROWPTR
    width = heads * channels
    distance = ahead(out, hi - lo)
    fetched = 0 if identity else num_edges - distance
    for i in range(last_row):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch(out, col[e + distance] * width + lo, hi - lo)
            for h in range(lo // channels, (hi - 1) // channels + 1):
                scale = w[e * ws + h * wh]
                first, last = max(lo, h * channels), min(hi, (h + 1) * channels)
                a, b = unsigned(i * gs + h * (gh - channels) + first), unsigned(j * width + first)
                for c in range(unsigned(last - first)):
                    out[b + c] += scale * g[a + c]
    return OK


@compile_loop
def edge_add_backward(
    rowptr: Any, col: Any, identity: bool, num_edges: int, left: Any, right: Any, m: int, heads: int,
    negative_slope: float, grad: Any, out_left: Any, out_right: Any,
) -> int:  # fmt: skip
    """Gradients of both ends of a leaky ReLU of their sum; both must be zeros. One thread, because heads are few."""
    last_row = rowptr.size - 1
    if not covers(rowptr, 0, last_row, num_edges):
        return ROWPTR
    slope = out_left.dtype.type(negative_slope)
    for i in range(last_row):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            for h in range(heads):
                v = grad[e * heads + h]
                if not left[i * heads + h] + right[j * heads + h] > 0:
                    v *= slope
                out_left[i * heads + h] += v
                out_right[j * heads + h] += v
    return OK


@compile_loop
def edge_additive_dot_backward(
    rowptr: Any, col: Any, identity: bool, num_edges: int, left: Any, ls: int, lh: int,
    right: Any, rs: int, rh: int, m: int, heads: int, channels: int, vector: Any, negative_slope: float, grad: Any,
    out_left: Any, out_right: Any, out_vector: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Gradients of both ends and of the vector; all must be zeros."""
    last_row = rowptr.size - 1
    if not covers(rowptr, 0, last_row, num_edges):
        return ROWPTR
    width, slope = heads * channels, out_left.dtype.type(negative_slope)
    inner = np.empty(channels, out_left.dtype)
    row_sum, total = np.zeros(hi - lo, out_left.dtype), np.zeros(hi - lo)  # double precision, as it sums all edges
    distance = ahead(out_right, hi - lo)
    fetched = 0 if identity else num_edges - distance
    for i in range(last_row):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch(right, col[e + distance] * rs + lo, hi - lo)
                fetch(out_right, col[e + distance] * width + lo, hi - lo)
            for h in range(lo // channels, (hi - 1) // channels + 1):
                outer = grad[e * heads + h]
                first, last = max(lo, h * channels), min(hi, (h + 1) * channels)
                a, b = unsigned(i * ls + h * (lh - channels) + first), unsigned(j * rs + h * (rh - channels) + first)
                p, q, r = unsigned(i * width + first), unsigned(j * width + first), unsigned(first)
                k = unsigned(first - lo)
                for c in range(unsigned(last - first)):
                    v = left[a + c] + right[b + c]
                    inner[c] = outer if v > 0 else slope * outer
                    row_sum[k + c] += inner[c] * v
                for c in range(unsigned(last - first)):  # a second loop: with more arrays, one loop is not vectorised
                    v = inner[c] * vector[r + c]
                    out_left[p + c] += v
                    out_right[q + c] += v
        for c in range(hi - lo):
            total[c] += row_sum[c]
            row_sum[c] = 0
    for c in range(hi - lo):
        out_vector[lo + c] = total[c]
    return OK
