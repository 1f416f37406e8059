"""Compiled loops over targets that compute one number per edge and head. Each thread has a range of targets.

Arguments: ``rowptr``, ``col`` (``identity``: unused, edge e reads row e); ``left[i * ls + h * lh + c]`` is channel c of
head h of target i; ``right[j * rs + h * rh + c]`` that of source j < m; ``out [E, H]``, contiguous; targets ``lo`` to
``hi``.
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
    unsigned,
)


@compile_loop
def edge_dot(
    rowptr: Any, col: Any, identity: bool, num_edges: int, left: Any, ls: int, lh: int,
    right: Any, rs: int, rh: int, m: int, heads: int, channels: int, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Compute the dot product of the two ends of every edge."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    distance = ahead(right, heads * channels)
    fetched = 0 if identity else num_edges - distance
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch_heads(right, col[e + distance] * rs, rh, heads, channels)
            for h in range(heads):
                a, b = unsigned(i * ls + h * lh), unsigned(j * rs + h * rh)
                total = out.dtype.type(0)
                for c in range(unsigned(channels)):
                    total += left[a + c] * right[b + c]
                out[e * heads + h] = total
    return OK


@compile_loop
def edge_additive_dot(
    rowptr: Any, col: Any, identity: bool, num_edges: int, left: Any, ls: int, lh: int,
    right: Any, rs: int, rh: int, m: int, heads: int, channels: int, vector: Any, negative_slope: float,
    out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Compute the dot product of a vector with the leaky ReLU of the sum of both ends."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    slope = out.dtype.type(negative_slope)
    distance = ahead(right, heads * channels)
    fetched = 0 if identity else num_edges - distance
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            if e < fetched:
                fetch_heads(right, col[e + distance] * rs, rh, heads, channels)
            for h in range(heads):
                a, b, first = unsigned(i * ls + h * lh), unsigned(j * rs + h * rh), unsigned(h * channels)
                total = out.dtype.type(0)
                for c in range(unsigned(channels)):
                    v = left[a + c] + right[b + c]
                    total += vector[first + c] * (v if v > 0 else slope * v)
                out[e * heads + h] = total
    return OK


@compile_loop
def edge_add(
    rowptr: Any, col: Any, identity: bool, num_edges: int, left: Any, right: Any, m: int, heads: int,
    negative_slope: float, out: Any, lo: int, hi: int,
) -> int:  # fmt: skip
    """Compute the leaky ReLU of the sum of both ends; ``left [N, H]`` and ``right [M, H]`` are contiguous."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    slope = out.dtype.type(negative_slope)
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        for e in range(start, stop):
            j = e if identity else col[e]
            if j < 0 or j >= m:
                return e
            for h in range(heads):
                v = left[i * heads + h] + right[j * heads + h]
                out[e * heads + h] = v if v > 0 else slope * v
    return OK


@compile_loop
def edge_softmax(rowptr: Any, num_edges: int, scores: Any, heads: int, out: Any, lo: int, hi: int) -> int:
    """Compute the softmax over the edges of every target; ``scores [E, H]`` is contiguous."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    largest, total = np.empty(heads, out.dtype), np.empty(heads, out.dtype)
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        find_largest(scores, heads, 1, start, stop, largest)
        fill(total, 0, heads, 0)
        for e in range(start, stop):
            for h in range(heads):
                v = math.exp(scores[e * heads + h] - largest[h])
                total[h] += v
                out[e * heads + h] = v
        for h in range(heads):
            total[h] += out.dtype.type(1e-16)
        for e in range(start, stop):
            for h in range(heads):
                out[e * heads + h] /= total[h]
    return OK


@compile_loop
def edge_softmax_backward(
    rowptr: Any, num_edges: int, softmax: Any, grad: Any, heads: int, out: Any, lo: int, hi: int
) -> int:
    """Compute the gradient of the scores; all tensors are ``[E, H]`` and contiguous."""
    if not covers(rowptr, lo, hi, num_edges):
        return ROWPTR
    total = np.empty(heads, out.dtype)
    for i in range(lo, hi):
        start, stop = rowptr[i], rowptr[i + 1]
        if not inside(start, stop, num_edges):
            return ROWPTR
        fill(total, 0, heads, 0)
        for e in range(start, stop):
            for h in range(heads):
                total[h] += softmax[e * heads + h] * grad[e * heads + h]
        for e in range(start, stop):
            for h in range(heads):
                out[e * heads + h] = softmax[e * heads + h] * (grad[e * heads + h] - total[h])
    return OK
