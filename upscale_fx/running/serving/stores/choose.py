"""The store that a user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upscale_fx.errors import InputError
from upscale_fx.running.serving.stores.base import Store
from upscale_fx.running.serving.stores.folder import FolderStore
from upscale_fx.running.serving.stores.memory import MemoryStore


def make_store(store: Any) -> Store:
    """Return the store: in memory for None, a folder for a path, else the object itself."""
    if store is None:
        return MemoryStore()
    if isinstance(store, str | Path):
        return FolderStore(store)
    if hasattr(store, "held_ids"):
        return store  # type: ignore[no-any-return]
    raise InputError(f"store is None, a path or a store, got {type(store).__name__}")
