"""Processes that are forked, say how far they have come, and are killed."""

import os
import signal
import time
import warnings


class Fork:
    """A fork that runs ``body(say)``; what it says, lines, is heard here."""

    def __init__(self, body):
        self._ear, mouth = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forks beside threads; the threads of torch and numba that may run here hold no locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process = os.fork()
        if self.process == 0:
            try:
                body(lambda *words: os.write(mouth, (" ".join(map(str, words)) + "\n").encode()))
            except BaseException as error:
                os.write(mouth, f"failed {error!r}\n".encode())
            finally:
                os._exit(0)
        os.close(mouth)
        self._heard = b""

    def wait(self, word):
        """Wait until it has said a line that begins with a word; return all lines until now."""
        while not any(line.startswith(word) for line in self.lines()):
            more = os.read(self._ear, 65536)
            assert more, f"it ended without saying {word}: {self.lines()}"
            self._heard += more
        return self.lines()

    def lines(self):
        """Return what was heard until now."""
        return self._heard.decode().split("\n")[:-1]

    def kill(self, after=0.0):
        """Kill it after some seconds; return all that it said."""
        time.sleep(after)
        os.kill(self.process, signal.SIGKILL)
        return self.end()

    def end(self):
        """Wait for its end; return all that it said."""
        while more := os.read(self._ear, 65536):
            self._heard += more
        os.waitpid(self.process, 0)
        os.close(self._ear)
        assert not any(line.startswith("failed") for line in self.lines()), self.lines()
        return self.lines()
