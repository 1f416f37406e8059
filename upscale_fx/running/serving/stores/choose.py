"""The store that a user's argument stands for."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch_geometric.data import FeatureStore

from upscale_fx.errors import InputError
from upscale_fx.running.serving.stores.base import Store
from upscale_fx.running.serving.stores.feature_store import FeatureStoreAdapter
from upscale_fx.running.serving.stores.memory import MemoryStore

_METHODS = tuple(name for name in vars(Store) if not name.startswith("_"))


def make_store(store: object) -> Store:
    """Return a store.

    Args:
        store: None (in memory), the path of a folder, or of an LMDB environment if it ends in .lmdb or .mdb, a
            ``FeatureStore`` of PyG, or an object with the methods of a store.

    Raises:
        InputError: it is none of these.
        ImportError: the path ends in .lmdb or .mdb, and lmdb is not installed.
    """
    if store is None:
        return MemoryStore()
    if isinstance(store, (str, Path)):
        return _at_path(Path(store))
    if isinstance(store, FeatureStore):
        return FeatureStoreAdapter(store)
    missing = [name for name in _METHODS if not hasattr(store, name)]
    if missing or isinstance(store, type):
        raise InputError(
            f"store is {store!r}: it must be None, a path, a FeatureStore of PyG, or an object with the methods of a "
            f"store (it lacks {', '.join(missing) or 'an instance: it is a class'})"
        )
    return cast(Store, store)


def _at_path(path: Path) -> Store:
    # These are imported when they are asked for: folders need the locks of POSIX, LMDB an extra.
    if path.suffix in (".lmdb", ".mdb"):
        from upscale_fx.running.serving.stores.lmdb import LMDBStore  # noqa: PLC0415 - an optional dependency

        return LMDBStore(path)
    from upscale_fx.running.serving.stores.folder import FolderStore  # noqa: PLC0415 - needs POSIX

    return FolderStore(path)
