"""Run a model without changing its state: modes and random number generators are restored."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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
    modes = modes_of(model)
    try:
        yield
    finally:
        set_modes(modes)


def set_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Put modules into modes, each by itself; all modules of a model are to be given."""
    for module, mode in modes.items():
        if "training" in module.__dict__:  # set directly, since a graph may refuse train(); all modules are set
            module.__dict__["training"] = mode
        elif is_in(module, not mode):
            module.training = mode


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module into one mode within the block, and restore the modes; ``train()`` could refuse."""
    with modes_kept(model):
        set_modes(dict.fromkeys(model.modules(), training))
        yield


@contextmanager
def in_modes(model: nn.Module, trained: Collection[str]) -> Iterator[None]:
    """Put the modules of some paths into ``train()`` and all others into ``eval()``, as :func:`in_mode` does."""
    with modes_kept(model):
        set_modes({module: path in trained for path, module in model.named_modules()})
        yield


def is_in(module: nn.Module, mode: bool) -> bool:
    """Whether a module is in this mode; frozen TorchScript modules are in none."""
    return hasattr(module, "training") and bool(module.training) == mode


def modes_of(model: nn.Module) -> dict[nn.Module, bool]:
    """Return the modes of all modules but frozen TorchScript ones, which have none."""
    return {module: module.training for module in model.modules() if hasattr(module, "training")}


#: What replaced settings and attributes are is the process's: of two threads that change them at once, the last one
#: would restore the wrong ones.
_one_at_a_time = threading.RLock()
_ABSENT = object()


@contextmanager
def attributes_replaced(replacements: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """Replace attributes of classes and modules, given by owner and name, within the block; one thread at a time."""
    with _one_at_a_time:
        held = {(owner, name): vars(owner).get(name, _ABSENT) for owner, name in replacements}
        try:
            for (owner, name), value in replacements.items():
                setattr(owner, name, value)
            yield
        finally:
            for (owner, name), value in held.items():
                if value is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run example graphs on one thread, without warnings or compilation, and restore the random number generators.

    On graphs this small, waiting for other threads on busy cores would cost a thousand times the work. One thread of
    the process is in such a block at a time: tracing replaces functions of torch in it.
    """
    with _one_at_a_time:
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
