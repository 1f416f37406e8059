"""Gradients that forward() itself takes, such as the forces of an energy: no graph of tensors can hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd import functional

from upscale_fx.compiled.source_lines import line_of
from upscale_fx.errors import TraceError
from upscale_fx.tracing.modules.remedies import GRADIENTS

#: The functions that take gradients; the method ``Tensor.backward`` does so, too.
TAKE_GRADIENTS: tuple[Callable[..., Any], ...] = (
    torch.autograd.grad, torch.autograd.backward, functional.jacobian, functional.hessian, functional.vjp,
    functional.jvp, functional.hvp, functional.vhp,
)  # fmt: skip
_METHOD = "Tensor.backward"
_NAMES = {(function.__module__, function.__name__) for function in TAKE_GRADIENTS} | {("torch._tensor", "backward")}
#: Modules of the transforms of torch.func, which take gradients too.
_TRANSFORMS = "torch._functorch."


def gradients_text(function: Any) -> str:
    """Say that forward() takes gradients with a function, given itself or by name, and what to do instead."""
    name = function if isinstance(function, str) else f"{function.__module__}.{function.__name__}"
    return (
        f"forward() takes gradients ({_METHOD if name == 'backward' else name}), which no graph can hold; {GRADIENTS}"
    )


def refusal_of_gradients(root: nn.Module, error: BaseException) -> TraceError | None:
    """Return the refusal of a model that failed because it takes gradients, which examples do not record; else None."""
    frames = list(_frames(error.__traceback__))
    taken = next((name for name in frames if name[:2] in _NAMES or name[0].startswith(_TRANSFORMS)), None)
    if taken is None or "grad" not in str(error):
        return None
    modules = {id(module): (path, module) for path, module in root.named_modules()}
    path, module = next((modules[owner] for _, _, owner in reversed(frames) if owner in modules), ("", root))
    function = _METHOD if taken[0] == "torch._tensor" else f"{taken[0]}.{taken[1]}"
    where = f"{path or '(model)'} ({type(module).__name__})"
    return TraceError(f"cannot trace {type(root).__name__}: in {where}, {line_of(error)}: {gradients_text(function)}")


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str, int]]:
    """The module and the function of every frame, and the id of its ``self``, the outermost first."""
    while traceback is not None:
        frame = traceback.tb_frame
        yield frame.f_globals.get("__name__", ""), frame.f_code.co_name, id(frame.f_locals.get("self"))
        traceback = traceback.tb_next
