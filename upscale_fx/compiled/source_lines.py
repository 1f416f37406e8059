"""Where in a user's code something happened."""

from __future__ import annotations

import sys
from types import FrameType

# This package and torch: not where a user would look. (PyG is: its layers are what a model is made of.)
_PACKAGES = (__package__.partition(".")[0] + ".", "torch.")


def source_line() -> str:
    """The innermost line of model code: not of this package, not of torch's own machinery."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(_PACKAGES) and name != "operator":
            return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """The innermost line of model code that an exception came through."""
    frame, found = error.__traceback__, "unknown line"
    while frame is not None:
        name = frame.tb_frame.f_globals.get("__name__", "")
        if not name.startswith(_PACKAGES):
            found = f"{frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}"
        frame = frame.tb_next
    return found
