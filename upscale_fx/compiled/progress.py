"""Progress bars, shown if the user asks for them and standard error is a terminal."""

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
