"""Contexts that forward() enters: those that stop gradients are traced, those that a graph cannot hold are refused.

Under ``torch.no_grad()`` results require no gradient. A graph has no such blocks, so a result that was computed in one
is read through ``detach`` outside of it. ``set_grad_enabled``, ``enable_grad`` and ``inference_mode`` switch the same
flag, which is kept here while a model is traced, because tracing itself runs without gradients. Contexts that change
no value (``record_function``, ``sdpa_kernel``, ``save_on_cpu``) are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, fx

from upscale_fx.compiled.undisturbed import attributes_replaced
from upscale_fx.tracing.proxy import CannotTrace, ExampleProxy, is_proxy

#: Calls whose results hold no gradient, whatever they are given.
_FREE = {
    "zeros", "ones", "full", "empty", "rand", "randn", "arange", "eye", "tensor", "new_zeros", "new_ones", "new_full",
    "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "detach", "one_hot", "bernoulli", "normal",
}  # fmt: skip


class Gradients:
    """Whether forward() records gradients at this moment, and how values from blocks that do not are read."""

    def __init__(self) -> None:
        self.enabled = True
        self._in_inference = False
        self._detached: dict[fx.Node, fx.Node] = {}

    @contextmanager
    def watched(self, is_paused: Callable[[], bool]) -> Iterator[None]:
        """Follow what forward() switches, for the length of the block; refuse contexts that no graph can hold.

        Raises:
            CannotTrace: in the block, when forward() enters one of these.
        """
        thread, gradients = get_ident(), self

        def is_forward() -> bool:  # and not another thread, nor an operation on examples
            return get_ident() == thread and not is_paused()

        is_enabled, set_enabled, inference_mode = (
            torch.is_grad_enabled,
            torch._C._set_grad_enabled,
            torch._C._InferenceMode,
        )

        def asked() -> bool:  # by a context that will restore it; whoever else asks is told what tracing does
            is_context = sys._getframe(1).f_globals.get("__name__") == "torch.autograd.grad_mode"
            return gradients.enabled if is_context and is_forward() else is_enabled()

        def switch(mode: bool) -> None:
            if not is_forward():
                set_enabled(mode)
            elif not gradients._in_inference:  # where enable_grad() does nothing
                gradients.enabled = mode

        def infer(mode: bool = True) -> Any:  # what torch's own makes could never be part of a graph that trains
            return gradients.inference(mode) if is_forward() else inference_mode(mode)

        replacements: dict[tuple[Any, str], Any] = {
            (torch, "is_grad_enabled"): asked,
            (torch._C, "_set_grad_enabled"): switch,
            (torch._C, "_InferenceMode"): infer,
            **_refusing(is_forward),
        }
        with attributes_replaced(replacements):
            yield

    @contextmanager
    def switched(self, enabled: bool) -> Iterator[None]:
        """Switch the recording of gradients for the length of the block."""
        before, self.enabled = self.enabled, enabled
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def inference(self, mode: bool) -> Iterator[None]:
        """Be in inference mode, or out of it, for the length of the block."""
        before, self._in_inference = self._in_inference, mode
        try:
            with self.switched(not mode):
                yield
        finally:
            self._in_inference = before

    def reading(self, target: Any, pair: tuple[Any, Any]) -> AbstractContextManager[None]:
        """Within the block, read what a call needs: values as they are, if no gradient flows through its result."""
        as_they_are = target == "detach" or not has_gradient(pair)
        return self.switched(False) if as_they_are else nullcontext()

    def read(self, proxy: ExampleProxy, record: Callable[..., fx.Node]) -> fx.Node:
        """Return the node by which a value is read: its ``detach`` if gradients are on, and were off where it was made.

        ``record`` makes a node.
        """
        if not (self.enabled and proxy.frozen and _is_floating(proxy.pair[0])):
            return proxy.node
        if proxy.node not in self._detached:
            self._detached[proxy.node] = record("call_method", "detach", (proxy.node,), {})
        return self._detached[proxy.node]

    def check_change(self, proxy: ExampleProxy) -> None:
        """Refuse an in-place change that autograd would not see, of a value that may have a gradient.

        Raises:
            CannotTrace: the value was made with gradients on, and is changed with gradients off.
        """
        name = getattr(proxy.node.target, "__name__", proxy.node.target)
        if not self.enabled and not proxy.frozen and name not in _FREE and _is_floating(proxy.pair[0]):
            raise CannotTrace(
                "a tensor that was computed outside of torch.no_grad() is changed in place inside of it, which its "
                "gradient does not see; make a new tensor (torch.where), or change x.detach()"
            )


def has_gradient(pair: tuple[Any, Any]) -> bool:
    """Whether a gradient can flow through a result: it is, or holds, floating-point numbers."""
    first = pair[0]
    items = first if isinstance(first, tuple | list) else first.values() if isinstance(first, dict) else (first,)
    return any(_is_floating(item) or isinstance(item, tuple | list | dict) for item in items)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _refusing(is_forward: Callable[[], bool]) -> dict[tuple[Any, str], Any]:
    """What to replace so that contexts are refused, by owner and name."""
    autocast, device, random = torch.autocast, torch.utils._device.DeviceContext, torch.random
    enter: Any = autocast.__enter__
    enter_device: Any = device.__init__

    def enter_autocast(context: Any) -> Any:
        if is_forward() and context._enabled:
            raise CannotTrace(
                "forward() enters torch.autocast, whose casts are not part of a graph; leave it out of forward(), and "
                "wrap the call of the compiled model instead: with torch.autocast(...): compiled(...)"
            )
        return enter(context)

    def init_device(context: Any, where: Any) -> None:
        if is_forward():
            raise CannotTrace(
                f"forward() enters torch.device({str(where)!r}), which a graph would forget; pass device= instead"
            )
        enter_device(context, where)

    def random_call(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_forward():
                raise CannotTrace(
                    f"forward() calls {name}, but the state of random numbers is not part of a graph; seed outside of "
                    f"forward()"
                )
            return original(*args, **kwargs)

        return call

    return {
        (autocast, "__enter__"): enter_autocast,
        (device, "__init__"): init_device,
        (random, "fork_rng"): random_call("torch.random.fork_rng", random.fork_rng),
        (random, "manual_seed"): random_call("torch.random.manual_seed", random.manual_seed),
        (torch, "manual_seed"): random_call("torch.manual_seed", torch.manual_seed),
    }


def set_requires_grad(proxy: ExampleProxy, mode: bool) -> ExampleProxy:
    """``x.requires_grad_(mode)``: without a gradient, ``x`` is its ``detach`` from now on.

    Raises:
        CannotTrace: it is a parameter or buffer of the model, whose flag a graph cannot change.
    """
    if proxy.node.op == "get_attr":
        raise CannotTrace(
            f"forward() sets requires_grad of '{proxy.node.target}'; set it outside of forward(), or read "
            f"{proxy.node.target}.detach()"
        )
    if not mode and not proxy.frozen:
        detached = proxy.detach()
        assert is_proxy(detached)
        proxy.node = detached.node
    return proxy
