"""Compile loops with numba, and the functions that loops share. This file and the files ``*_loops`` need numba.

All loops take flat arrays and strides, so that they read a slice of a wider tensor in place and have one signature per
dtype. They check all indices, and return OK, ROWPTR, or the first edge whose source does not exist.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from upscale_fx.errors import CompilationError

#: Loops return OK after success, and ROWPTR if ``rowptr`` does not fit the edges.
OK, ROWPTR = -1, -2
#: Bytes that a gather prefetches. Measured: half or double are no faster.
_BYTES_AHEAD = 8192
_CACHE_LINE = 64

#: Unsigned positions need no check for negative values, which would prevent vectorisation.
unsigned: Any = numba.uint64

_F = TypeVar("_F", bound=Callable[..., Any])

# Sums may be reordered, so that they vectorise. NaN and infinity keep their meaning: "nnan" and "ninf" are left out.
_FAST = {"contract", "nsz", "reassoc"}
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": _FAST}
# Part of the name of cached loops: numba would not notice a change of the shared functions in this file.
_VERSION = f".{zlib.crc32(Path(__file__).read_bytes()):08x}"


class CompiledLoop:
    """A loop over edges, compiled at its first call with float32 and its first call with float64, under two names.

    With one name, both would share one index on disk, and processes that compile at the same time could mix them up.
    """

    def __init__(self, loop: Callable[..., int]) -> None:
        self._loop = loop
        self._compiled: dict[str, Callable[..., int]] = {}

    def __call__(self, *arguments: Any) -> int:
        """Run the loop; all its floating-point arrays have one dtype.

        Raises:
            CompilationError: numba could not compile the loop.
        """
        arrays = (argument for argument in arguments if isinstance(argument, np.ndarray))
        dtype = next((array.dtype.name for array in arrays if array.dtype.kind == "f"), "")
        try:
            if dtype not in self._compiled:
                self._compiled[dtype] = _compile(self._loop, dtype)
            return self._compiled[dtype](*arguments)
        except MemoryError:
            raise
        except Exception as error:  # loops return their errors, so only their compilation raises
            loop, cause = self._loop.__qualname__, f"{type(error).__name__}: {error}"
            raise CompilationError(f"numba {numba.__version__} cannot compile {loop}: {cause}") from error


def compile_loop(loop: Callable[..., int]) -> CompiledLoop:
    """Compile a loop over edges that runs without the interpreter's lock, with a cache on disk if possible."""
    return CompiledLoop(loop)


def _compile(loop: Any, dtype: str) -> Callable[..., int]:
    renamed = FunctionType(loop.__code__, loop.__globals__, loop.__name__)
    renamed.__qualname__ = f"{loop.__qualname__}_{dtype}{_VERSION}"
    try:
        return cast(Callable[..., int], numba.njit(cache=True, **_OPTIONS)(renamed))
    except RuntimeError:  # no directory to write to
        return cast(Callable[..., int], numba.njit(**_OPTIONS)(renamed))


def inline(part: _F) -> _F:
    """Compile a shared function into every loop that calls it, because a call would cost more than its work."""
    return cast(_F, numba.njit(forceinline=True, **_OPTIONS)(part))


def _prefetch(typing: Any, array: Any, position: Any) -> Any:
    """Prefetch the cache line of ``array[position]``; any position is safe, because nothing is read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind)
        builder.call(function, [pointer, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(array, position), generate


prefetch: Any = intrinsic(_prefetch)


@inline
def ahead(x: Any, width: int) -> Any:
    """Return how many edges ahead to prefetch rows of ``width`` numbers."""
    return max(2, min(32, _BYTES_AHEAD // max(1, width * x.itemsize)))


@inline
def fetch(x: Any, position: int, width: int) -> None:
    """Prefetch ``x[position:position + width]``: gathers from memory run up to three times as fast."""
    stop = position + width
    while position < stop:  # faster than a loop over a range
        prefetch(x, position)
        position += _CACHE_LINE // x.itemsize


@inline
def fetch_heads(x: Any, position: int, stride: int, heads: int, channels: int) -> None:
    """Prefetch the rows of all heads, which need not be adjacent."""
    if stride == channels:
        fetch(x, position, heads * channels)
    else:
        for h in range(heads):
            fetch(x, position + h * stride, channels)


@inline
def covers(rowptr: Any, lo: int, hi: int, num_edges: int) -> Any:
    """Whether ``rowptr`` starts at 0 and ends at the number of edges, as far as rows lo to hi show."""
    last = rowptr.size - 1
    return (lo > 0 or rowptr[0] == 0) and (hi < last or rowptr[last] == num_edges)


@inline
def inside(start: int, stop: int, num_edges: Any) -> Any:
    """Whether a row's edges exist."""
    return 0 <= start <= stop <= num_edges


@inline
def larger(v: Any, best: Any) -> Any:
    """Return the larger of two numbers; NaN wins, as in torch."""
    return v if v > best or math.isnan(v) else best


@inline
def smaller(v: Any, best: Any) -> Any:
    """Return the smaller of two numbers; NaN wins, as in torch."""
    return v if v < best or math.isnan(v) else best


@inline
def fill(out: Any, start: int, stop: int, value: float) -> None:
    """Do ``out[start:stop] = value``, but faster."""
    for k in range(unsigned(start), unsigned(stop)):
        out[k] = value


@inline
def find_largest(scores: Any, stride: int, head: int, start: int, stop: int, largest: Any) -> None:
    """Set ``largest[h]`` to the largest of ``scores[e * stride + h * head]`` over edges start to stop."""
    fill(largest, 0, largest.size, -math.inf)
    for e in range(start, stop):
        for h in range(largest.size):
            largest[h] = larger(scores[e * stride + h * head], largest[h])
