"""Random changes with rows that are known for every version: what a store holds after a crash is compared with them."""

import numpy as np
import torch

from upscale_fx.running.serving.stores.base import TableSpec

ROWS = 90
SPECS = {
    "wide": TableSpec((120,), torch.float32, ROWS),
    "layer/0.x": TableSpec((2, 8), torch.float32, ROWS),
    "narrow": TableSpec((), torch.float32, ROWS),
}


class Story:
    """Changes one after another; each touches some rows, and gives them new values, unlike those of any other change.

    Attributes:
        committed: how many changes ``commit`` has returned for.
    """

    def __init__(self, seed, specs=None):
        self.specs = SPECS if specs is None else specs
        self.random = np.random.default_rng(seed)
        self.committed = 0
        self._changes = []
        self._nonce = 0

    def change(self, size=None, touched=25):
        """Make up the next change; return its bytes and the rows that it touches."""
        rows = {
            name: np.sort(self.random.choice(spec.rows, self.random.integers(0, touched + 1), replace=False))
            for name, spec in self.specs.items()
        }
        payload = self.random.bytes(self.random.integers(0, 6000) if size is None else size)
        self._nonce += 1
        self._changes.append((self._nonce, payload, rows))
        return payload, rows

    def value(self, name, ids, version):
        """Return rows as they are at a version."""
        last = np.zeros(self.specs[name].rows, dtype=np.int64)
        for nonce, _, rows in self._changes[:version]:
            last[rows[name]] = nonce
        shape = self.specs[name].shape
        first = torch.from_numpy(ids * 1000.0 + last[ids]).reshape(-1, *[1] * len(shape))
        within = torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape) / 512
        return (first + within).to(self.specs[name].dtype)

    def state(self, version):
        """Return the graph of a version."""
        return {"edges": np.full((2, 300), version), "x": np.full(3, version, dtype=np.float32)}

    def begin(self, store):
        """Open an empty store."""
        assert store.open(self.specs, "model") is None
        store.checkpoint(0, self.state(0))

    def step(self, store, before=None, after=None, **options):
        """Do one thing that a server does: mostly, compute rows or change the graph."""
        what = self.random.choice(["write", "write", "write", "commit", "commit", "evict", "checkpoint"])
        name = self.random.choice(list(self.specs))
        if what == "write":
            self.write(store, name, self.random.choice(self.specs[name].rows, self.random.integers(1, 30), False))
        elif what == "commit":
            self.commit(store, before, after, **options)
        elif what == "evict":
            store.forget(name, self.random.choice(self.specs[name].rows, 10, False))
        elif self.random.random() < 0.3:
            store.checkpoint(self.committed, self.state(self.committed))

    def write(self, store, name, ids):
        """Write rows of the version as it is."""
        store.write(name, ids, self.value(name, ids, self.committed))

    def commit(self, store, before=None, after=None, **options):
        """Commit the next change."""
        payload, rows = self.change(**options)
        if before is not None:
            before(len(self._changes))
        # A server may leave out what is not held.
        store.commit(len(self._changes), payload, {name: ids[store.held(name, ids)] for name, ids in rows.items()})
        self.committed = len(self._changes)
        for name, ids in rows.items():
            store.forget(name, ids)
        if after is not None:
            after(self.committed)

    def check(self, store, recovered, least=None, most=None):
        """Check that a store that was just opened holds all changes and no wrong row; return the newest version."""
        assert recovered is not None
        versions = [recovered.version + 1 + number for number in range(len(recovered.changes))]
        newest = recovered.version + len(versions)
        assert (self.committed if least is None else least) <= newest
        assert newest <= (len(self._changes) if most is None else most)
        assert [version for version, _ in recovered.changes] == versions
        for version, payload in recovered.changes:
            assert payload == self._changes[version - 1][1]
        for key, array in self.state(recovered.version).items():
            assert np.array_equal(recovered.state[key], array)
        self.check_rows(store, newest)
        return newest

    def check_rows(self, store, version):
        """Check that rows that are held are those of a version; return how many there are."""
        count = 0
        for name in self.specs:
            ids = store.held_ids(name)
            assert torch.equal(store.read(name, ids), self.value(name, ids, version)), name
            count += len(ids)
        return count

    def go_back(self, version):
        """Changes after a version were lost."""
        del self._changes[version:]
        self.committed = version
