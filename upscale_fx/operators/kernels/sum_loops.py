"""Compiled loops over targets that reduce the messages of their sources. Each thread has a range of targets.

Arguments: ``rowptr``, ``col`` (``identity``: unused, edge e reads row e); ``w[e * ws + h * wh]`` is the weight of an
edge for head h; ``x[j * xs + h * hs + c]`` is channel c of head h of source j < m; ``heads``, ``channels``;
``out``, contiguous; targets ``lo`` to ``hi``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from upscale_fx.operators.kernels.jit import (
    OK,
    ROWPTR,
    ahead,
    compile_loop,
    covers,
    fetch_heads,
    fill,
    find_largest,
    inside,
    larger,
    smaller,
    unsigned,
)


@compile_loop
def spmm_sum(
    rowptr: Any, col: Any, identity: bool, num_edges: int, w: Any, ws: int, wh: int,
    x: Any, xs: int, hs: int, m: int, heads: int, channels: int, mean: bool, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Compute weighted sums, or means."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    width = heads * channels
    distance = ahead(x, width)
    fetched = 0 if identity else num_edges - distance
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        fill(out, i * width, (i + 1) * width, 0)
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch_heads(x, col[e + distance] * xs, hs, heads, channels)
            for h in range(heads):
                scale = w[e * ws + h * wh]
                a, b = unsigned(j * xs + h * hs), unsigned(i * width + h * channels)
                for c in range(unsigned(channels)):
                    out[b + c] += scale * x[a + c]
        if mean and stop - start > 1:
            for k in range(unsigned(i * width), unsigned((i + 1) * width)):
                out[k] /= out.dtype.type(stop - start)
    return OK


@compile_loop
def spmm_extreme(
    rowptr: Any, col: Any, identity: bool, num_edges: int, w: Any, ws: int, wh: int,
    x: Any, xs: int, hs: int, m: int, heads: int, channels: int, least: bool, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Compute the largest or least message per channel; NaN wins, as in torch."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    width = heads * channels
    distance = ahead(x, width)
    fetched = 0 if identity else num_edges - distance
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        worst = 0 if start == stop else (math.inf if least else -math.inf)
        fill(out, i * width, (i + 1) * width, worst)
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch_heads(x, col[e + distance] * xs, hs, heads, channels)
            for h in range(heads):
                scale = w[e * ws + h * wh]
                a, b = unsigned(j * xs + h * hs), unsigned(i * width + h * channels)
                if least:
                    for c in range(unsigned(channels)):
                        out[b + c] = smaller(scale * x[a + c], out[b + c])
                else:
                    for c in range(unsigned(channels)):
                        out[b + c] = larger(scale * x[a + c], out[b + c])
    return OK


@compile_loop
def attend(
    rowptr: Any, col: Any, identity: bool, num_edges: int, scores: Any, ws: int, wh: int,
    x: Any, xs: int, hs: int, m: int, heads: int, channels: int, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Compute the softmax over the edges of a target and the weighted sum, with one division at the end."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    width = heads * channels
    distance = ahead(x, width)
    fetched = 0 if identity else num_edges - distance
    largest, total = np.empty(heads, out.dtype), np.empty(heads, out.dtype)
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        fill(out, i * width, (i + 1) * width, 0)
        find_largest(scores, ws, wh, start, stop, largest)
        fill(total, 0, heads, 0)
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch_heads(x, col[e + distance] * xs, hs, heads, channels)
            for h in range(heads):
                scale = math.exp(scores[e * ws + h * wh] - largest[h])
                total[h] += scale
                a, b = unsigned(j * xs + h * hs), unsigned(i * width + h * channels)
                for c in range(unsigned(channels)):
                    out[b + c] += scale * x[a + c]
        for h in range(heads):
            total[h] += out.dtype.type(1e-16)
            b = unsigned(i * width + h * channels)
            for c in range(unsigned(channels)):
                out[b + c] /= total[h]
    return OK
