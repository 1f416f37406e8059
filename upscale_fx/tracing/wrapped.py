"""Parts of a model that are wrapped or compiled: calls of them are traced as calls of what they were made from.

``torch.jit.script`` and ``torch.jit.trace`` keep the Python function behind a compiled function, and checkpointing
calls one. A scripted module has no Python code left: it becomes one node. ``torch.compile`` is switched off while
examples run (:mod:`upscale_fx.compiled.undisturbed`), so that compiled parts run their own Python code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch._functorch import apis, eager_transforms

from upscale_fx.compiled.undisturbed import attributes_replaced
from upscale_fx.tracing.modules.gradients import gradients_text
from upscale_fx.tracing.proxy import CannotTrace, any_proxy

#: The functions behind torch.func.grad, grad_and_value, vjp, jacrev, jvp and jacfwd.
_TAKE_GRADIENTS = ("grad_impl", "grad_and_value_impl", "_vjp_with_argnums", "_jvp_with_argnums")


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: Any = None,
    context_fn: Any = None,
    determinism_check: Any = None,
    debug: Any = None,
    early_stop: Any = None,
    preserve_rng_state: Any = None,
    **kwargs: Any,
) -> Any:
    """Call the function: checkpointing saves memory in training and changes no value."""
    return function(*args, **kwargs)


@contextmanager
def wrappers_opened() -> Iterator[None]:
    """Within the block, calls with proxies of scripted functions and of checkpoints run the Python code behind them."""
    scripted, method = torch.jit.ScriptFunction, torch._C.ScriptMethod
    replaced = (
        (scripted, "__call__"), (method, "__call__"), (torch.utils.checkpoint, "checkpoint"),
        (apis, "vmap_impl"), *((eager_transforms, name) for name in _TAKE_GRADIENTS),
    )  # fmt: skip
    original = {(owner, name): vars(owner)[name] for owner, name in replaced if name in vars(owner)}

    def call_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not any_proxy((args, kwargs)):
            return original[scripted, "__call__"](self, *args, **kwargs)
        python = getattr(self, "_torchdynamo_inline", None)
        if python is None:
            raise CannotTrace(f"the TorchScript function '{self.name}' is called; call the Python function instead")
        return python(*args, **kwargs)

    def call_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any_proxy((args, kwargs)):
            raise CannotTrace(
                f"the method '{self.name}' of a TorchScript module is called; use the module from before torch.jit"
            )
        return original[method, "__call__"](self, *args, **kwargs)

    def opaque(owner: Any, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if any_proxy((args, kwargs)):
                if name == "vmap_impl":
                    raise CannotTrace("torch.vmap is opaque; call the function on whole tensors")
                raise CannotTrace(gradients_text("torch.func.grad and the like"))
            return original[owner, name](*args, **kwargs)

        return call

    replacements: dict[tuple[Any, str], Any] = {
        (scripted, "__call__"): call_function, (method, "__call__"): call_method,
        (torch.utils.checkpoint, "checkpoint"): checkpoint,
        (apis, "vmap_impl"): opaque(apis, "vmap_impl"),
        **{(eager_transforms, name): opaque(eager_transforms, name) for name in _TAKE_GRADIENTS},
    }  # fmt: skip
    with attributes_replaced({place: replacements[place] for place in original}):
        yield
