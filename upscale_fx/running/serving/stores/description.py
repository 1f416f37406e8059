"""What a folder was written for: the model, the tables, and how often it was opened for writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.base import TableSpec
from upscale_fx.running.serving.stores.files import Files

_FORMAT = 1
#: Name, shape and dtype of each table, in order.
Tables = list[list[object]]


@dataclass(frozen=True)
class Description:
    """The description of a folder; ``opening`` is the number of its last opening."""

    identity: str
    tables: Tables
    opening: int


def describe_tables(tables: Mapping[str, TableSpec]) -> Tables:
    """Return tables as a description has them."""
    return [[name, list(spec.shape), str(spec.dtype)] for name, spec in tables.items()]


def write_description(files: Files, path: Path, description: Description) -> None:
    """Put a description in the place of the one before."""
    facts = {"format": _FORMAT, **vars(description)}
    files.write_whole(path, [json.dumps(facts, indent=1).encode()])


def read_description(files: Files, path: Path, wanted: Description) -> Description | None:
    """Return the description at ``path``, None if there is none.

    Raises:
        ServerError: it is of something else than is wanted, cannot be read, or was written by another version of the
            library.
    """
    try:
        file = files.open(path, write=False)
    except FileNotFoundError:
        return None
    try:
        text = files.read(file, files.size(file), 0)
    finally:
        files.close(file)
    try:
        facts = json.loads(text)
        if facts["format"] != _FORMAT:
            raise ServerError(
                f"{path} has format {facts['format']}, and this version of upscale_fx writes {_FORMAT}: "
                "delete the folder or choose another"
            )
        found = Description(str(facts["identity"]), list(facts["tables"]), int(facts["opening"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{path} is damaged ({error}): delete the folder or choose another") from error
    _check(found, path.parent, wanted.identity, wanted.tables)
    return found


def _check(found: Description, folder: Path, identity: str, tables: Tables) -> None:
    if found.identity != identity:
        raise ServerError(
            f"the store in {folder} was written for the model {found.identity}, and this is {identity}: "
            "delete the folder or choose another"
        )
    if found.tables != tables:
        differing = [f"{old} is now {new}" for old, new in zip(found.tables, tables, strict=False) if old != new]
        what = ", ".join(differing) or f"{len(found.tables)} tables are now {len(tables)}"
        raise ServerError(
            f"the store in {folder} holds other rows (name, shape, dtype): {what}: delete the folder or choose another"
        )
