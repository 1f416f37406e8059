"""Every store does what the protocol says; durable ones still do when they are opened again."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.testing import MyFeatureStore

from tests.serving.story import Story
from upscale_fx.running.serving.stores.base import TableSpec
from upscale_fx.running.serving.stores.bounded import bounded
from upscale_fx.running.serving.stores.feature_store import FeatureStoreAdapter
from upscale_fx.running.serving.stores.folder import FolderStore
from upscale_fx.running.serving.stores.lmdb import LMDBStore
from upscale_fx.running.serving.stores.memory import MemoryStore
from upscale_fx.running.serving.stores.reduced import reduced

STORES = {
    "memory": lambda path: MemoryStore(),
    "folder": FolderStore,
    "lmdb": LMDBStore,
    "data": lambda path: FeatureStoreAdapter(Data()),
    "hetero": lambda path: FeatureStoreAdapter(HeteroData()),
    "replacing": lambda path: FeatureStoreAdapter(MyFeatureStore()),
    "bounded": lambda path: bounded(FolderStore(path), 1 << 30, lambda table, ids: np.ones(len(ids))),
    # Numbers in the tests of rows are such that bfloat16 has them.
    "reduced": lambda path: reduced(FolderStore(path), torch.bfloat16),
}
DURABLE = ("folder", "lmdb", "bounded")
SPECS = {
    "wide": TableSpec((3, 50), torch.float32, 40),
    "one": TableSpec((), torch.float64, 40),
    "flags": TableSpec((5,), torch.bool, 40),
    "none": TableSpec((0,), torch.float32, 40),
    "half": TableSpec((7,), torch.bfloat16, 40),
}


@pytest.fixture(params=list(STORES))
def make(request, tmp_path):
    return lambda: STORES[request.param](tmp_path / "store")


@pytest.fixture(params=[name for name in STORES if name != "reduced"])
def make_exact(request, tmp_path):
    return lambda: STORES[request.param](tmp_path / "store")


@pytest.fixture(params=DURABLE)
def make_durable(request, tmp_path):
    return lambda: STORES[request.param](tmp_path / "store")


def ids(*numbers):
    return np.array(numbers, dtype=np.int64)


def rows(name, some, spec, more=0):
    numbers = (torch.from_numpy(some) % 50 + more).reshape(-1, *[1] * len(spec.shape))
    return numbers.expand(-1, *spec.shape).to(spec.dtype)


def test_rows_are_held_from_write_to_forget(make):
    store = make()
    assert store.open(SPECS, "model") is None
    assert store.writes
    for name, spec in SPECS.items():
        assert not store.held(name, np.arange(40)).any()
        some = ids(3, 17, 4, 39)
        store.write(name, some, rows(name, some, spec))
        assert store.held(name, ids(4, 5, 39, 4)).tolist() == [True, False, True, True]
        assert store.held_ids(name).tolist() == [3, 4, 17, 39]
        asked = ids(39, 3, 3, 17, 4)
        assert torch.equal(store.read(name, asked), rows(name, asked, spec))
        assert store.read(name, asked).dtype == spec.dtype
        assert store.read(name, ids()).shape == (0, *spec.shape)
        store.write(name, ids(4, 5), rows(name, ids(4, 5), spec, more=1))
        assert torch.equal(
            store.read(name, ids(4, 17)), torch.cat([rows(name, ids(4), spec, 1), rows(name, ids(17), spec)])
        )
        assert store.forget(name, ids(3, 6, 39)) == 2
        assert store.forget(name, ids(3, 6, 39)) == 0
        assert store.held_ids(name).tolist() == [4, 5, 17]
        store.write(name, ids(), rows(name, ids(), spec))
    assert store.nbytes > 0
    store.close()


def test_tables_grow(make):
    store = make()
    store.open(SPECS, "model")
    for name, spec in SPECS.items():
        store.write(name, np.arange(40), rows(name, np.arange(40), spec))
        store.grow(name, 41)
        store.grow(name, 1000)
        assert not store.held(name, np.arange(40, 1000)).any()
        store.write(name, ids(999, 40), rows(name, ids(999, 40), spec))
        everything = np.append(np.arange(41), 999)
        assert np.array_equal(store.held_ids(name), everything)
        assert torch.equal(store.read(name, everything), rows(name, everything, spec))
    store.close()


def test_a_commit_does_not_hide_what_forget_counts(make):
    store = make()
    store.open(SPECS, "model")
    store.checkpoint(0, {})
    some = np.arange(10)
    store.write("wide", some, rows("wide", some, SPECS["wide"]))
    store.commit(1, b"change", {"wide": ids(2, 3, 30)})
    assert store.forget("wide", ids(2, 3, 30)) == 2
    assert store.held_ids("wide").tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    store.close()


def test_a_random_story(make_exact):
    story = Story(0)
    store = make_exact()
    story.begin(store)
    for _ in range(60):
        story.step(store)
        story.check_rows(store, story.committed)
    store.close()


def test_a_random_story_is_continued(make_durable):
    story = Story(1)
    store = make_durable()
    story.begin(store)
    for step in range(100):
        story.step(store)
        if step % 7 == 6:
            held = {name: store.held_ids(name).tolist() for name in story.specs}
            store.close()
            store = make_durable()
            recovered = store.open(story.specs, "model")
            story.check(store, recovered)
            assert held == {name: store.held_ids(name).tolist() for name in story.specs}
    store.close()
