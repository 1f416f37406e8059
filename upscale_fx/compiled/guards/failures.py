"""Errors of upscale_fx itself reach users as an InternalError that names the part of the model and the way out."""

from __future__ import annotations

import functools
import inspect
import sysconfig
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from torch import fx

from upscale_fx.compiled.calls import target_name
from upscale_fx.errors import InternalError, UpscaleError

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = __package__.partition(".")[0]
#: Errors that a call may mean to raise where its own arguments are wrong.
_DELIBERATE = (TypeError, ValueError, RuntimeError, NotImplementedError)
_NEVER = (UpscaleError, MemoryError, torch.OutOfMemoryError, OSError, Warning)
_LIBRARIES = tuple(set(sysconfig.get_paths().values()))


def named_failures(function: F) -> F:
    """Let errors of upscale_fx itself leave a public call as an InternalError; errors of users' functions stay."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as mistake:  # the user's
            raise TypeError(f"{function.__name__}() {mistake}") from None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not _is_ours(error):
                raise
            raise InternalError(_described(error)) from error

    return cast(F, call)


def at_node(error: Exception, node: fx.Node) -> None:
    """Note at which node of a graph an error occurred, if that was not noted before."""
    if not hasattr(error, "upscale_node"):
        error.upscale_node = node  # type: ignore[attr-defined]


def _is_ours(error: Exception) -> bool:
    """Whether an error is a bug of upscale_fx, and not of a function that a user passed or called wrongly."""
    if isinstance(error, _NEVER):
        return False
    frames = list(_frames(error.__traceback__))
    if any(not (_is_own(name) or file.startswith(("<", *_LIBRARIES))) for name, file in frames):
        return False
    raised_here = bool(frames) and _is_own(frames[-1][0])
    deliberate = isinstance(error, _DELIBERATE) and type(error).__module__ == "builtins"
    return not (deliberate and raised_here)


def _is_own(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    """Yield the module names and files of a traceback, the outermost first."""
    while traceback is not None:
        frame = traceback.tb_frame
        yield frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        traceback = traceback.tb_next


def _described(error: Exception) -> str:
    node: fx.Node | None = getattr(error, "upscale_node", None)
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    advice = "please report it with the code of the model and this message"
    if node is None:
        return f"upscale_fx failed ({what}). This is a bug of upscale_fx, not of the model: {advice}"
    call = target_name(node.target)
    place = filter(None, (call, node.meta.get("module"), node.meta.get("source")))
    return (
        f"upscale_fx failed at {node.name} ({', '.join(place)}): {what}. This is a bug of upscale_fx, "
        f"not of the model: {advice}. Until it is fixed, write that line in another way, or keep all channels of "
        f"{call} with upscale_fx.register({call})(lambda op: None)"
    )
