"""The line of model code (the user's or PyG's) at which something happened."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

# Frames of this package and of torch are skipped. Those of PyG are not: a model is made of its layers.
_PACKAGES = (__package__.partition(".")[0] + ".", "torch.")


def source_line() -> str:
    """Return the innermost line of model code on the stack, as ``file.py:12``; empty if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(_PACKAGES) and name != "operator":
            return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """Return the innermost line of model code in an exception's traceback."""
    frame, line = error.__traceback__, "unknown line"
    while frame is not None:
        name = frame.tb_frame.f_globals.get("__name__", "")
        if not name.startswith(_PACKAGES):
            line = f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}"
        frame = frame.tb_next
    return line


def line_of_forward(module: Any) -> str:
    """Return the line at which the ``forward`` of a module begins."""
    code = getattr(inspect.unwrap(module.forward), "__code__", None)
    return "unknown line" if code is None else f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"
