"""Run a model without changing its state: modes and random number generators are restored."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from upscale_fx.operators import kernels


def preserved_rng(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context that restores the random number generators of the CPU and of the model's devices."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # if not, no parameter is on CUDA
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"} if in_use else set()
    return torch.random.fork_rng(devices=sorted(devices, key=str))


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module at the end of the block."""
    modes = {module: module.training for module in _with_modes(model)}
    try:
        yield
    finally:
        _set_modes(modes)


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        if module.training != mode:
            module.training = mode


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into one mode within the block, and restore the modes; ``train()`` could refuse."""
    with modes_kept(model):
        _set_modes(dict.fromkeys(_with_modes(model), training))
        yield


def _with_modes(model: nn.Module) -> list[nn.Module]:
    """Return all modules but frozen TorchScript ones, which have no mode."""
    return [module for module in model.modules() if hasattr(module, "training")]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run example graphs on one thread, without warnings or compilation, and restore the random number generators.

    On graphs this small, waiting for other threads on busy cores would cost a thousand times the work.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with preserved_rng(model), kernels.without_warning(), uncompiled(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's own call of the model shows them
            yield
    finally:
        torch.set_num_threads(threads)


def uncompiled() -> AbstractContextManager[object]:
    """Return a context in which parts under ``torch.compile`` run as they were before."""
    if "torch._dynamo.decorators" not in sys.modules:  # nothing was compiled, and the import takes seconds
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
