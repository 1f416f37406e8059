"""How loops are compiled, and the pieces they share. This file and its peers named ``*_loops`` need numba.

All loops take flat arrays and strides, so that a slice of a wider tensor is read where it lies, and so that there is
one signature per dtype. They return OK, ROWPTR, or the first edge whose source does not exist: no index is trusted.
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

#: What loops return when all went well, and when ``rowptr`` is not that of these edges.
OK, ROWPTR = -1, -2
#: Bytes that a gather asks for before it needs them, measured: half or double are no faster.
_BYTES_AHEAD = 8192
_CACHE_LINE = 64

#: Unsigned positions need no check for negative ones, which would keep loops from vectorising.
unsigned: Any = numba.uint64

_F = TypeVar("_F", bound=Callable[..., Any])

# Sums may be reordered, so that they vectorise. NaN and infinity keep their meaning: neither "nnan" nor "ninf" is here.
_FAST = {"contract", "nsz", "reassoc"}
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": _FAST}
# Compiled loops are kept under this name: numba would not notice that what they share, in this file, has changed.
_VERSION = f".{zlib.crc32(Path(__file__).read_bytes()):08x}"


class CompiledLoop:
    """A loop over edges, compiled when it is first called with float32 and with float64, each under a name of its own.

    One name would be one index on disk for both: of two processes that compile at the same time, one could then be
    given what the other compiled.
    """

    def __init__(self, loop: Callable[..., int]) -> None:
        self._loop = loop
        self._compiled: dict[str, Callable[..., int]] = {}

    def __call__(self, *arguments: Any) -> int:
        """Run the loop; its arrays of floating-point numbers are all of one kind.

        Raises:
            CompilationError: numba could not compile the loop.
        """
        kinds = (given.dtype.name for given in arguments if isinstance(given, np.ndarray) and given.dtype.kind == "f")
        kind = next(kinds, "")
        try:
            if kind not in self._compiled:
                self._compiled[kind] = _compile(self._loop, kind)
            return self._compiled[kind](*arguments)
        except MemoryError:
            raise
        except Exception as error:  # loops return what goes wrong in them: only compiling them raises
            loop, cause = self._loop.__qualname__, f"{type(error).__name__}: {error}"
            raise CompilationError(f"numba {numba.__version__} cannot compile {loop}: {cause}") from error


def compile_loop(loop: Callable[..., int]) -> CompiledLoop:
    """Compile a loop over edges, to run without the interpreter's lock; kept on disk if there is a place."""
    return CompiledLoop(loop)


def _compile(loop: Any, kind: str) -> Callable[..., int]:
    own = FunctionType(loop.__code__, loop.__globals__, loop.__name__)
    own.__qualname__ = f"{loop.__qualname__}_{kind}{_VERSION}"
    try:
        return cast(Callable[..., int], numba.njit(cache=True, **_OPTIONS)(own))
    except RuntimeError:  # nowhere to write
        return cast(Callable[..., int], numba.njit(**_OPTIONS)(own))


def inline(part: _F) -> _F:
    """Compile a part of loops into each of them: calls would cost more than what they do."""
    return cast(_F, numba.njit(forceinline=True, **_OPTIONS)(part))


def _prefetch(typing: Any, array: Any, position: Any) -> Any:
    """Ask for the cache line of ``array[position]``; any position is safe, nothing is read."""

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
    """How many edges ahead to fetch rows of ``width`` numbers."""
    return max(2, min(32, _BYTES_AHEAD // max(1, width * x.itemsize)))


@inline
def fetch(x: Any, position: int, width: int) -> None:
    """Ask for ``x[position:position + width]``: gathers from memory run up to three times as fast."""
    stop = position + width
    while position < stop:  # costs nothing, a range does
        prefetch(x, position)
        position += _CACHE_LINE // x.itemsize


@inline
def fetch_heads(x: Any, position: int, stride: int, heads: int, channels: int) -> None:
    """Ask for the rows of all heads, which may lie apart."""
    if stride == channels:
        fetch(x, position, heads * channels)
    else:
        for h in range(heads):
            fetch(x, position + h * stride, channels)


@inline
def covers(rowptr: Any, lo: int, hi: int, num_edges: int) -> Any:
    """Whether rows lo to hi begin and end where the first and last row must."""
    last = rowptr.size - 1
    return (lo > 0 or rowptr[0] == 0) and (hi < last or rowptr[last] == num_edges)


@inline
def inside(start: int, stop: int, num_edges: Any) -> Any:
    """Whether a row's edges exist."""
    return 0 <= start <= stop <= num_edges


@inline
def larger(v: Any, best: Any) -> Any:
    """The larger of two; NaN wins, as in torch."""
    return v if v > best or math.isnan(v) else best


@inline
def smaller(v: Any, best: Any) -> Any:
    """The smaller of two; NaN wins, as in torch."""
    return v if v < best or math.isnan(v) else best


@inline
def fill(out: Any, start: int, stop: int, value: float) -> None:
    """What ``out[start:stop] = value`` does, for less."""
    for k in range(unsigned(start), unsigned(stop)):
        out[k] = value


@inline
def find_largest(scores: Any, stride: int, head: int, start: int, stop: int, largest: Any) -> None:
    """Per head, the largest of ``scores[e * stride + h * head]`` over edges start to stop."""
    fill(largest, 0, largest.size, -math.inf)
    for e in range(start, stop):
        for h in range(largest.size):
            largest[h] = larger(scores[e * stride + h * head], largest[h])
