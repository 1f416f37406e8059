"""Progress bars, shown if the user asks for them and standard error is a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

#: A call that takes less than this many seconds shows no bar of its stages.
DELAY = 2.0


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    shown: bool,
    desc: str,
    unit: str = "it",
    total: int | None = None,
    leave: bool = True,
) -> tqdm[Any]:
    """Make a progress bar over items, or one that ``update`` advances; it writes to standard error.

    Args:
        items: the items to iterate over, if any.
        shown: the user's ``progress``: False shows nothing, True shows a bar if standard error is a terminal.
        desc: the activity, such as ``"pruning"``.
        unit: the unit of counting.
        total: the number of items, if ``items`` has no length.
        leave: whether the full bar stays on the screen.
    """
    return tqdm(items, desc=desc, unit=unit, total=total, leave=leave, disable=None if shown else True)


@dataclass
class _Stages:
    """The bar of a call that goes through stages."""

    activity: str
    bar: tqdm[Any]
    begun: float

    def enter(self, name: str, total: int | None) -> None:
        self.bar.n, self.bar.last_print_n, self.bar.total = 0, 0, total
        self.bar.set_description_str(f"{self.activity}: {name}", refresh=False)
        if time.time() - self.begun >= DELAY:
            self.bar.refresh()


_now: ContextVar[_Stages | None] = ContextVar("stages", default=None)


@contextmanager
def stages(activity: str, *, shown: bool = True) -> Iterator[None]:
    """Show a bar of what goes on inside, if it takes longer than :data:`DELAY` seconds; it goes away at the end.

    Calls inside name it by :func:`stage` and move it by :func:`advance`. Inside another such context the outer one
    shows the bar.

    Args:
        activity: the call, such as ``"prune"``.
        shown: the user's ``progress``: False shows nothing, True shows a bar if standard error is a terminal.
    """
    if _now.get() is not None:
        yield
        return
    disabled = None if shown else True
    with tqdm(desc=activity, unit=" nodes", leave=False, miniters=0, delay=DELAY, disable=disabled) as bar:
        token = _now.set(_Stages(activity, bar, time.time()))
        try:
            yield
        finally:
            _now.reset(token)


def stage(name: str, total: int | None = None) -> None:
    """Begin a stage of the call that shows a bar, if one does; ``total`` is how often it will advance."""
    current = _now.get()
    if current is not None and not current.bar.disable:
        current.enter(name, total)


def advance() -> None:
    """Move the bar of the current stage, if there is one, by one."""
    current = _now.get()
    if current is not None:
        current.bar.update(1)
