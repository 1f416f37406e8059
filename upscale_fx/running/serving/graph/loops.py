"""Which loops run: compiled ones if numba works, those on whole arrays otherwise; chosen as the operators' kernels."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

from upscale_fx.errors import CompilationError
from upscale_fx.operators.kernels import choice
from upscale_fx.running.serving.graph import array_loops


def run(name: str, *arguments: Any) -> int:
    """Run a loop of :mod:`compiled_loops`, or its namesake of :mod:`array_loops`.

    Raises:
        CompilationError: numba was chosen by name and cannot compile the loop; nothing has run then.
    """
    if choice.name() == "numba":
        try:
            return int(getattr(_compiled(), name)(*arguments))
        except CompilationError as error:
            choice.fall_back(error)
    return int(getattr(array_loops, name)(*arguments))


@functools.cache
def _compiled() -> ModuleType:
    return importlib.import_module("upscale_fx.running.serving.graph.compiled_loops")
