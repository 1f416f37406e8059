"""After a loss of power, whatever pages it leaves, a folder opens, has every change, and holds no torn or stale row."""

import itertools
import shutil

import numpy as np
import pytest

from tests.serving.recording import Disk, RecordingFiles, UnsafeFiles
from tests.serving.story import Story
from upscale_fx.running.serving.stores.folder import FolderStore


def opened(folder, story):
    store = FolderStore(folder, files=UnsafeFiles())
    return store, store.open(story.specs, "model")


def record(story, folder, steps):
    """Play a story; note in the events how far it had come."""
    files = RecordingFiles()
    store = FolderStore(folder, files=files)
    story.begin(store)
    files.events.append(("kept", ""))
    marks = {
        "before": lambda version: files.events.append(("committing", "", version)),
        "after": lambda version: files.events.append(("committed", "", version)),
    }
    for step in range(steps):
        story.step(store, **marks)
        if step % 15 == 14:
            store.close()
            store = FolderStore(folder, files=files)
            store.open(story.specs, "model")
    store.close()
    return files.events


def lose_power(story, folder, events, random, chance):
    """Try random disks after random events; return how many rows survived on all of them together."""
    disk, kept, least, most, survived = Disk(), False, 0, 0, 0
    for number, event in enumerate(events):
        disk.apply(event)
        kept = kept or event[0] == "kept"
        least = event[2] if event[0] == "committed" else least
        most = event[2] if event[0] in ("committing", "committed") else most
        if random.random() > chance:
            continue
        fates = random.choice(["new", "old", "torn"], len(disk.dirty()), p=random.dirichlet([1, 1, 1]))
        left = folder / str(number)
        disk.leave(left, fates, random)
        store, recovered = opened(left, story)
        if recovered is None:
            assert not kept
            assert all(len(store.held_ids(name)) == 0 for name in story.specs)
        else:
            newest = story.check(store, recovered, least, most)
            survived += story.check_rows(store, newest)
        store.close()
        shutil.rmtree(left)
    return survived


@pytest.mark.parametrize(
    ("seed", "chance"), [(0, 0.5), *(pytest.param(seed, 1.0, marks=pytest.mark.slow) for seed in range(1, 21))]
)
def test_random_pages_are_lost(tmp_path, seed, chance):
    story = Story(seed)
    events = record(story, tmp_path / "first", 100)
    assert lose_power(story, tmp_path, events, np.random.default_rng(seed), chance) > 1000


def test_every_subset_of_pages_is_lost(tmp_path):
    """A commit, before and after it is safe, and rows before and after it, of which none are safe."""
    story = Story(0)
    files = RecordingFiles()
    store = FolderStore(tmp_path / "first", files=files)
    story.begin(store)
    everything = {name: np.arange(spec.rows) for name, spec in story.specs.items()}
    story.write(store, "layer/0.x", everything["layer/0.x"])
    story.write(store, "narrow", everything["narrow"])
    story.commit(store, size=4200)
    story.write(store, "layer/0.x", everything["layer/0.x"][::2])
    story.commit(store, size=5000)
    story.write(store, "layer/0.x", everything["layer/0.x"])
    story.write(store, "narrow", everything["narrow"][1::2])
    disk, random = Disk(), np.random.default_rng(0)
    # The last commit is the last event of the log: all but the sync at its end.
    last = max(number for number, event in enumerate(files.events) if event == ("sync", "log"))
    for number, event in enumerate(files.events):
        if number == last:
            break
        disk.apply(event)
    rows_after = files.events[last + 1 :]
    tried = 0
    for synced in (False, True):
        if synced:
            for event in (files.events[last], *rows_after):
                disk.apply(event)
        pages = disk.dirty()
        assert len(pages) == (3 if synced else 5)
        for fates in itertools.product(["new", "old", "torn"], repeat=len(pages)):
            left = tmp_path / "left"
            disk.leave(left, fates, random)
            reopened, recovered = opened(left, story)
            newest = story.check(reopened, recovered, 2 if synced else 1, 2)
            log = {fate for fate, (name, _) in zip(fates, pages, strict=True) if name == "log"}
            assert newest == 1 or "old" not in log
            reopened.close()
            shutil.rmtree(left)
            tried += 1
    store.close()
    assert tried == 3**3 + 3**5


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 11))])
def test_the_log_is_cut_at_every_byte(tmp_path, seed):
    """Rows of the versions that are lost stay lost, even once other versions have got their numbers."""
    story = Story(seed)
    store = FolderStore(tmp_path / "first")
    story.begin(store)
    ends = []
    for _ in range(7):
        for name, spec in story.specs.items():
            story.write(store, name, np.arange(spec.rows))
        story.commit(store, size=20, touched=4)
        ends.append(store.log_bytes)
    for name, spec in story.specs.items():
        story.write(store, name, np.arange(spec.rows))
    store.close()
    whole = (tmp_path / "first" / "log").read_bytes()
    assert len(whole) == ends[-1]
    changes = list(story._changes)
    for cut in range(ends[-4], len(whole) + 1):
        left = tmp_path / "left"
        shutil.copytree(tmp_path / "first", left)
        (left / "log").write_bytes(whole[:cut])
        lost = sum(end > cut for end in ends)
        again, recovered = opened(left, story)
        assert story.check(again, recovered, 7 - lost, 7 - lost) == 7 - lost
        story.go_back(7 - lost)
        for _ in range(lost + 1):
            story.commit(again, size=5, touched=1)
        again.close()
        again, recovered = opened(left, story)
        story.check(again, recovered)
        again.close()
        shutil.rmtree(left)
        story._changes, story.committed = list(changes), 7
