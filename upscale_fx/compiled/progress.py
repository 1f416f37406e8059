"""Progress bars, shown where a user asked for them and standard error is a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    shown: bool,
    desc: str,
    unit: str = "it",
    total: int | None = None,
    leave: bool = True,
) -> tqdm[Any]:
    """A progress bar over items, or one that is moved on by ``update``; written to standard error.

    Args:
        items: what the bar goes over, if anything.
        shown: the user's ``progress``: False shows nothing, True a bar where standard error is a terminal.
        desc: what is going on, such as ``"pruning"``.
        unit: what is counted.
        total: how many there are, where ``items`` does not say.
        leave: whether the bar stays when it is full.
    """
    return tqdm(items, desc=desc, unit=unit, total=total, leave=leave, disable=None if shown else True)
