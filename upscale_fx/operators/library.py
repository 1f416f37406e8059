"""Register operators with torch: a schema, kernels, shapes for fake tensors, a gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from upscale_fx.errors import CompilationError
from upscale_fx.operators.kernels import fall_back

NAMESPACE = "upscale_fx"

# `define` and `impl` cost 5 us a call, `torch.library.custom_op` costs 8; this matters on small graphs.
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    save: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register an operator and return it.

    Args:
        schema: its name, arguments and results, in torch's notation.
        kernel: computes the results, on every device.
        fake: computes empty tensors of the results' shapes, for tensors without values.
        save: saves what ``backward`` needs, like ``setup_context`` of ``torch.autograd.Function``.
        backward: computes gradients of all arguments; without it, a gradient raises a NotImplementedError.
    """
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, _with_fallback(kernel), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)

    def refuse(context: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            f"{NAMESPACE}::{name} has no gradient: second derivatives exist for sums, means and edge_dot only; "
            f"optimize(compiled, fuse=False), or prune(..., fuse=False), gives a graph that has them all"
        )

    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward or refuse, setup_context=save, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default

    def call(*arguments: Any) -> Any:
        if forward_ad._current_level >= 0:  # torch would assume that the tangent is zero
            raise NotImplementedError(
                f"{NAMESPACE}::{name} has no forward-mode derivative (torch.func.jvp, jacfwd, dual numbers): "
                f"differentiate the graph that upscale_fx.trace(model) or compact() gives, which is not fused"
            )
        return operator(*arguments)

    return call


def _with_fallback(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel with a second try on torch's kernels if numba cannot compile; kernels change no argument."""

    @functools.wraps(kernel)
    def run(*arguments: Any) -> Any:
        try:
            return kernel(*arguments)
        except CompilationError as error:
            fall_back(error)
        return kernel(*arguments)

    return run


def same_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors in their common dtype, by torch's promotion."""
    dtype = tensors[0].dtype
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
