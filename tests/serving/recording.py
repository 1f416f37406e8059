"""Files that note every operation, and the disks that a loss of power after any of them can leave."""

import os

import numpy as np

from upscale_fx.running.serving.stores.files import Files

PAGE = 4096


class UnsafeFiles(Files):
    """Files that are not safe from a loss of power: tests lose it in their own way, and need not wait for disks."""

    def sync(self, file):
        """Do nothing."""

    def replace(self, source, target):
        """Rename."""
        os.replace(source, target)


class RecordingFiles(UnsafeFiles):
    """Files as they are, and a note of each change: ``events``."""

    def __init__(self):
        self.events = []
        self._paths = {}

    def open(self, path, *, write):
        """Open and note."""
        file = super().open(path, write=write)
        self._paths[file] = path.name
        if write:
            self.events.append(("make", path.name))
        return file

    def write(self, file, data, offset):
        """Write and note."""
        self.events.append(("write", self._paths[file], offset, bytes(data)))
        super().write(file, data, offset)

    def truncate(self, file, length):
        """Cut and note."""
        self.events.append(("truncate", self._paths[file], length))
        super().truncate(file, length)

    def sync(self, file):
        """Note."""
        self.events.append(("sync", self._paths[file]))

    def replace(self, source, target):
        """Rename and note."""
        self.events.append(("replace", source.name, target.name))
        super().replace(source, target)

    def remove(self, path):
        """Remove and note."""
        self.events.append(("remove", path.name))
        super().remove(path)


class Disk:
    """What is in memory of a system, and what of it is safe, after some events."""

    def __init__(self):
        self.now, self.safe, self._dirty, self._listed = {}, {}, {}, set()

    def apply(self, event):
        """Take in one event."""
        kind, name, *rest = event
        if kind == "make" and name not in self.now:
            self.now[name], self.safe[name], self._dirty[name] = bytearray(), b"", set()
        elif kind == "write":
            offset, data = rest
            content = self.now[name]
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data
            self._dirty[name].update(range(offset // PAGE, -(-(offset + len(data)) // PAGE)))
        elif kind == "truncate":
            del self.now[name][rest[0] :]
            self._dirty[name].add(rest[0] // PAGE)
        elif kind == "sync":
            self.safe[name] = bytes(self.now[name])
            self._dirty[name] = set()
        elif kind == "replace":
            for files in (self.now, self.safe, self._dirty):
                files[rest[0]] = files.pop(name)
            # The folder itself was synced, with all that is in it.
            self._listed = set(self.now)
        elif kind == "remove":
            for files in (self.now, self.safe, self._dirty):
                files.pop(name, None)
            self._listed.discard(name)

    def dirty(self):
        """Return the pages that are not safe."""
        return [(name, page) for name, pages in sorted(self._dirty.items()) for page in sorted(pages)]

    def leave(self, folder, fates, random):
        """Write what is left, with a fate for each dirty page: "new", "old" or "torn"."""
        folder.mkdir()
        fates = dict(zip(self.dirty(), fates, strict=True))
        for name, content in self.now.items():
            if name not in self._listed and "old" in fates.values() and random.random() < 0.3:
                continue
            length = len(content)
            if self._dirty[name] and random.random() < 0.3:
                length = min(length, len(self.safe[name]))
            mixed = bytearray(content)
            for page in self._dirty[name]:
                part = slice(page * PAGE, (page + 1) * PAGE)
                new, old = (bytes(whole[part]).ljust(PAGE, b"\0") for whole in (content, self.safe[name]))
                mixed[part] = _mix(new, old, fates[name, page], random)
            (folder / name).write_bytes(mixed[:length])


def _mix(new, old, fate, random):
    if fate == "torn":
        if random.random() < 0.5:
            cut = int(random.integers(1, PAGE))
            return (new[:cut] + old[cut:]) if random.random() < 0.5 else (old[:cut] + new[cut:])
        sectors = np.repeat(random.random(PAGE // 512) < 0.5, 512)
        return np.where(sectors, np.frombuffer(new, np.uint8), np.frombuffer(old, np.uint8)).tobytes()
    return new if fate == "new" else old
