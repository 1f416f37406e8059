"""Processes that write a folder and are killed, and processes that read it meanwhile."""

import os

import numpy as np
import pytest
import torch

from tests.serving.forks import Fork
from tests.serving.story import Story
from upscale_fx.errors import ServerError
from upscale_fx.running.serving.stores.folder import FolderStore
from upscale_fx.running.serving.stores.lmdb import LMDBStore

STORES = {"folder": FolderStore, "lmdb": LMDBStore}


def write_until_killed(make, story):
    """Return what a fork does: it opens the store and goes on with the story."""

    def body(say):
        store = make()
        recovered = store.open(story.specs, "model")
        if recovered is None:
            store.checkpoint(0, story.state(0))
        say("ready")
        while True:
            story.step(store, lambda version: say("committing", version), lambda version: say("committed", version))

    return body


@pytest.mark.parametrize("kind", list(STORES))
@pytest.mark.parametrize("kills", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_while_writing(tmp_path, kind, kills):
    def make():
        return STORES[kind](tmp_path / "store")

    story, random, survived, lost = Story(0), np.random.default_rng(kills), 0, 0
    for number in range(kills):
        story.nonce, story.random = 1000 * number, np.random.default_rng(number)
        fork = Fork(write_until_killed(make, story))
        fork.wait("ready")
        lines = [line.split() for line in fork.kill(random.exponential(0.02))]
        for _ in range(sum(words[0] == "committing" for words in lines)):
            story.change()
        least = max([int(words[1]) for words in lines if words[0] == "committed"], default=story.committed)
        store = make()
        newest = story.check(store, store.open(story.specs, "model"), least)
        lost += len(story.changes()) - newest
        story.go_back(newest)
        survived += story.check_rows(store, newest)
        store.close()
    assert survived > 10 * kills
    assert story.committed > kills
    # A commit may be killed, but most were not.
    assert lost < kills


def test_a_reader_sees_whole_versions(tmp_path):
    story = Story(3)
    fork = Fork(write_until_killed(lambda: FolderStore(tmp_path), story))
    fork.wait("ready")
    reader = FolderStore(tmp_path)
    recovered = reader.open(story.specs, "model")
    assert not reader.writes
    version, seen, again = recovered.version, list(recovered.changes), 0
    for _ in range(400):
        changes = reader.refresh()
        seen += changes
        assert [number for number, _ in changes] == list(
            range(version + len(seen) - len(changes) + 1, version + len(seen) + 1)
        )
        while len(story.changes()) < version + len(seen):
            story.change()
        for number, payload in changes:
            assert story.changes()[number - 1][1] == payload
        try:
            story.check_rows(reader, version + len(seen))
        except ServerError as error:
            assert "refresh" in str(error)
            again += 1
    assert len(seen) > 20
    assert again < 200
    fork.kill()
    reader.close()


def test_a_reader_sees_rows_and_changes_of_the_writer(tmp_path):
    story = Story(0)
    writer, reader = FolderStore(tmp_path), FolderStore(tmp_path)
    story.begin(writer)
    story.write(writer, "wide", np.arange(20))
    recovered = reader.open(story.specs, "model")
    assert recovered.changes == []
    assert np.array_equal(recovered.state["edges"], story.state(0)["edges"])
    assert reader.held_ids("wide").tolist() == list(range(20))
    before = story.value("wide", np.arange(20), 0)
    story.commit(writer, touched=40)
    stale = story.changes()[0][2]["wide"]
    assert 0 < np.count_nonzero(stale < 20) < 20
    # Of version 0, for which all of them are right, until it moves on.
    assert torch.equal(reader.read("wide", np.arange(20)), before)
    story.write(writer, "wide", stale[stale < 20][:1])
    story.check_rows(reader, 0)
    assert [version for version, _ in reader.refresh()] == [1]
    assert np.array_equal(reader.held_ids("wide"), writer.held_ids("wide"))
    assert story.check_rows(reader, 1) > 0
    # Across a checkpoint, and another writer.
    story.commit(writer)
    writer.checkpoint(2, story.state(2))
    story.commit(writer)
    writer.close()
    writer = FolderStore(tmp_path)
    story.check(writer, writer.open(story.specs, "model"))
    story.commit(writer)
    assert [version for version, _ in reader.refresh()] == [2, 3, 4]
    assert reader.refresh() == []
    for _ in range(2):
        story.commit(writer)
        writer.checkpoint(story.committed, story.state(story.committed))
    with pytest.raises(ServerError, match="two checkpoints"):
        reader.refresh()
    reader.close()
    writer.close()


def test_a_row_that_is_written_again_is_not_read_half(tmp_path):
    story = Story(0)
    writer, reader = FolderStore(tmp_path, capacity_cache_bytes=0), FolderStore(tmp_path, capacity_cache_bytes=0)
    story.begin(writer)
    some = np.arange(20)
    story.write(writer, "wide", some)
    reader.open(story.specs, "model")
    assert reader.held("wide", some).all()
    story.commit(writer, touched=0)
    writer.write("wide", some, torch.zeros(20, 120))
    with pytest.raises(ServerError, match="just written again"):
        reader.read("wide", some)
    assert not reader.held("wide", some).any()
    reader.refresh()
    assert torch.equal(reader.read("wide", some), torch.zeros(20, 120))
    writer.forget("wide", some)
    writer.write("wide", some[:1], torch.ones(1, 120))
    writer.close()
    reader.close()


def test_a_reader_cannot_write(tmp_path):
    story = Story(0)
    writer, reader = FolderStore(tmp_path), FolderStore(tmp_path)
    story.begin(writer)
    story.commit(writer)
    reader.open(story.specs, "model")
    none = np.zeros(0, dtype=np.int64)
    for call in (
        lambda: reader.commit(2, b"", {}),
        lambda: reader.checkpoint(2, {}),
        lambda: reader.forget("wide", none),
        lambda: reader.write("wide", none, torch.zeros(0, 120)),
    ):
        with pytest.raises(ServerError, match=f"written by process {os.getpid()}"):
            call()
    reader.close()
    writer.close()


def test_a_folder_without_a_graph_cannot_be_read(tmp_path):
    writer = FolderStore(tmp_path)
    writer.open(Story(0).specs, "model")
    with pytest.raises(ServerError, match=f"just being made by process {os.getpid()}"):
        FolderStore(tmp_path).open(Story(0).specs, "model")
    writer.close()


def test_a_fork_of_the_writer_may_not_write(tmp_path):
    story = Story(0)
    store = FolderStore(tmp_path)
    story.begin(store)

    def body(say):
        with pytest.raises(ServerError, match="fork"):
            store.commit(1, b"", {})
        store.close()
        say("refused")

    Fork(body).wait("refused")
    story.commit(store)
    store.close()


def test_lmdb_is_for_one_process(tmp_path):
    store = LMDBStore(tmp_path / "store")
    store.open(Story(0).specs, "model")
    with pytest.raises(ServerError, match=f"opened by process {os.getpid()}"):
        LMDBStore(tmp_path / "store").open(Story(0).specs, "model")
    store.close()
