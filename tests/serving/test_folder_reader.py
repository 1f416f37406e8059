"""A reader of a folder learns of rows that the writer evicted before a checkpoint, and holds none that are stale."""

import numpy as np
import pytest
import torch

from upscale_fx.running.serving.stores.base import TableSpec
from upscale_fx.running.serving.stores.folder import FolderStore

TABLES = {"h": TableSpec((3,), torch.float32, 20)}
STATE = {"x": np.arange(4)}


def ids(*numbers):
    return np.array(numbers, dtype=np.int64)


@pytest.mark.parametrize("forgotten", [ids(), ids(5)], ids=["not held then", "named"])
@pytest.mark.parametrize("refreshes", [False, True])
def test_evicted_rows_are_not_held_after_a_checkpoint(tmp_path, forgotten, refreshes):
    writer, reader = FolderStore(tmp_path), FolderStore(tmp_path)
    writer.open(TABLES, "model")
    writer.checkpoint(0, STATE)
    writer.write("h", ids(5, 6), torch.ones(2, 3))
    reader.open(TABLES, "model")
    assert not reader.writes
    assert reader.held("h", ids(5, 6)).all()
    writer.forget("h", ids(5))  # evicted: right, but no longer kept
    writer.checkpoint(0, STATE)
    if refreshes:
        reader.refresh()
    writer.commit(1, b"change", {"h": forgotten})  # after it, row 5 would be another one
    writer.forget("h", forgotten)
    assert [version for version, _ in reader.refresh()] == [1]
    assert reader.held("h", ids(5, 6)).tolist() == [False, True]
    reader.close()
    writer.close()
    again = FolderStore(tmp_path)
    again.open(TABLES, "model")
    assert again.held("h", ids(5, 6)).tolist() == [False, True]
    again.close()
