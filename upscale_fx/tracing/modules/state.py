"""State that a model keeps on itself from call to call: hidden states, counters, lists of embeddings, caches.

A graph has no such state. What ``forward`` leaves on the model is harmless if no later output depends on it, such as
``self.last_attention = alpha``. It is not if (1) a second call gives other outputs than a first one, or fails, or (2) a
number that changes from call to call decides a branch. ``check_state`` looks for both on example graphs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.tracing.modules.counters import counting

#: Values without parts that could change.
_ATOMS = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, str, bytes, torch.dtype, torch.device)
#: What nn.Module keeps its tensors and parts in; its other own attributes (modes, hooks) are no state.
_KEPT = ("_buffers", "_parameters", "_modules")
_OWN = frozenset(nn.Module().__dict__) - frozenset(_KEPT)


class State:
    """Everything that the modules of a model hold, to find out what changed since and to put it back.

    Containers and the attributes of objects are followed; tensors are compared and restored by value.

    Attributes:
        changed: whether the last example run changed anything; it is put back.
        kept_by: a description of arguments with which a call in ``eval()`` was seen to change nothing.
    """

    def __init__(self, root: nn.Module) -> None:
        self.changed = False
        self.kept_by: Any = None
        self._places: list[tuple[str, Any, Any]] = []  # path, container, what it held
        self._tensors: list[tuple[str, Tensor, Tensor, Tensor]] = []  # path, tensor, its memory, its values
        self._seen: dict[int, Any] = {}
        for path, module in root.named_modules():
            self._look(path, {k: v for k, v in module.__dict__.items() if k not in _OWN}, module.__dict__)

    def _look(self, path: str, value: Any, owner: Any = None) -> None:
        value_id = id(value) if owner is None else id(owner)
        if value is None or isinstance(value, (*_ATOMS, nn.Module, int, float)) or value_id in self._seen:
            return
        self._seen[value_id] = value if owner is None else owner
        if isinstance(value, Tensor):
            if not torch.nn.parameter.is_lazy(value) and value.layout == torch.strided and not value.is_quantized:
                self._tensors.append((path, value, value.data, value.detach().clone()))
        elif isinstance(value, torch.Generator):
            self._places.append((path, value, value.get_state()))
        elif isinstance(value, dict):
            self._places.append((path, value if owner is None else owner, dict(value)))
            for key, part in value.items():
                self._look(_joined(path, key), part)
        elif isinstance(value, list | deque | set):
            self._places.append((path, value, list(value)))
            for part in value:
                self._look(path, part)
        elif isinstance(value, tuple | frozenset):
            for part in value:
                self._look(path, part)
        elif type(getattr(value, "__dict__", None)) is dict and "inspector" not in type(value).__module__:
            self._look(path, value.__dict__)

    def changes(self) -> list[str]:
        """Return the names of what changed, such as ``"h"`` or ``"memory.last_update"``, each once."""
        found = [path for path, tensor, _, values in self._tensors if not _equal(tensor.detach(), values)]
        for path, container, held in self._places:
            if isinstance(container, torch.Generator):
                found += [path] * (not torch.equal(container.get_state(), held))
            elif isinstance(held, dict):
                now = {key: value for key, value in container.items() if container is held or key not in _OWN}
                keys = [*held, *(key for key in now if key not in held)]
                found += [
                    _joined(path, key) for key in keys if not _same(held.get(key, _ABSENT), now.get(key, _ABSENT))
                ]
            elif len(container) != len(held) or not all(map(_same, container, held)):
                found.append(path)
        return list(dict.fromkeys(found))

    def restore(self) -> None:
        """Put everything back as it was."""
        for _, container, held in self._places:
            if isinstance(container, torch.Generator):
                container.set_state(held)
            elif isinstance(held, dict):
                for key in [key for key in container if key not in held and key not in _OWN]:
                    del container[key]
                container.update(held)
            else:
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(held)
        with torch.no_grad():
            for _, tensor, memory, values in self._tensors:
                if tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape:
                    tensor.data = memory
                if not _equal(tensor, values):
                    tensor.data.copy_(values)

    def adopt(self, module: nn.Module, names: Iterable[str]) -> None:
        """Count these attributes of a module, added since, as part of the state that is put back."""
        for _, container, held in self._places:
            if container is module.__dict__:
                held.update({name: container[name] for name in names if name in container})

    def numbers(self) -> Iterator[tuple[dict[Any, Any], Any, Any]]:
        """Yield the numbers that changed: the dictionary that holds one, its key, and what it was."""
        for _, container, held in self._places:
            if isinstance(held, dict):
                for key, value in held.items():
                    if type(value) in (int, float) and not _same(container.get(key), value):
                        yield container, key, value


_ABSENT = object()


def _joined(path: str, key: Any) -> str:
    if key in _KEPT:
        return path
    return f"{path}.{key}" if path else str(key)


def _same(now: Any, before: Any) -> bool:
    """Whether an entry is what it was; tensors that were replaced are compared by value, others are looked at alone."""
    if now is before:
        return True
    if isinstance(now, Tensor) and isinstance(before, Tensor):
        return _equal(now.detach(), before.detach())
    if type(now) is not type(before) or not isinstance(now, int | float | str | tuple):
        return False
    if isinstance(now, tuple):
        return len(now) == len(before) and all(map(_same, now, before))
    return bool(now == before) or (isinstance(now, float) and isnan(now) and isnan(before))


def _equal(now: Tensor, before: Tensor) -> bool:
    if now.shape != before.shape or now.dtype != before.dtype or now.device != before.device:
        return False
    return torch.equal(now, before) or bool(((now == before) | (now.isnan() & before.isnan())).all())


@contextmanager
def state_kept(root: nn.Module) -> Iterator[State]:
    """Put back at the end of the block whatever the modules of a model hold."""
    state = State(root)
    try:
        yield state
    finally:
        state.restore()


def dependence(root: nn.Module, run: Callable[[int], Any]) -> tuple[str | None, frozenset[str]]:
    """Return how the outputs of a model depend on earlier calls, None if they do not, and what calls change.

    Args:
        root: the model; it stays as it is.
        run: runs it on an example graph: ``run(0)`` and ``run(1)`` on two of different sizes.
    """
    with state_kept(root) as state:
        first = run(0)
        names = state.changes()
        if not names:
            return None, frozenset()
        numbers = list(state.numbers())
        state.restore()
        alone = run(1)
        state.restore()
        reason = _changed(lambda: (run(0), run(1))[1], alone, state)
        reason = reason or _changed(lambda: (run(0), run(0))[1], first, state)
        reason = reason or _counted(lambda: run(0), first, numbers, state)
    return reason and f"forward() keeps state on self ({quoted(names)}): {reason}", frozenset(names)


def carried_over(root: nn.Module, train: Callable[[int], Any], evaluate: Callable[[int], Any]) -> str | None:
    """Return which state, other than running statistics, calls in ``train()`` leave for calls in ``eval()``."""
    with state_kept(root) as state:
        expected = evaluate(1)
        state.restore()
        statistics = [State(module) for module in root.modules() if isinstance(module, _BatchNorm)]
        train(0)
        for layer in statistics:
            layer.restore()
        names = state.changes()
        reason = _changed(lambda: evaluate(1), expected, state) if names else None
    return f"forward() keeps state on self in train() ({quoted(names)}) and reads it in eval()" if reason else None


def quoted(names: Sequence[str]) -> str:
    """Return the first few names, in quotation marks."""
    return ", ".join(f"'{name}'" for name in names[:4]) + (", ..." if len(names) > 4 else "")


def _changed(second_call: Callable[[], Any], expected: Any, state: State) -> str | None:
    try:
        gap = largest_difference(expected, second_call())
    except Exception as error:
        return f"a second call, on another graph, fails ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
    finally:
        state.restore()
    return None if gap <= 1e-7 else f"a second call gives other outputs than a first one (by {gap:.2g})"


def _counted(
    call: Callable[[], Any], expected: Any, numbers: list[tuple[dict[Any, Any], Any, Any]], state: State
) -> str | None:
    """Whether numbers that change from call to call matter: in a branch, or for outputs at some other value."""
    uses: list[str] = []
    for container, key, value in numbers:
        container[key] = counting(value, str(key), uses)
    reason = _changed(call, expected, state)
    if uses:
        return f"'{uses[0]}', which changes from call to call, decides a branch"
    for container, key, value in numbers:
        container[key] = value * 1.7 + 0.3 if isinstance(value, float) else value + 1_000_003
    return reason or _changed(call, expected, state)
