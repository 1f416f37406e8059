"""Processes that know nothing of the tests: forks of one that imported torch and PyG, which is what takes time."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
SERVER = "import tests.fresh; tests.fresh.serve()"


class FreshProcesses:
    """Runs code, each in a fork of one process that has imported torch and torch_geometric, and nothing of ours."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def run(self, code: str, arguments: Sequence[Any] = (), environment: dict[str, str] | None = None) -> list[str]:
        """Run code in a process of its own; returns the lines it printed.

        Args:
            code: what runs as ``__main__``.
            arguments: ``sys.argv`` behind the first, as text.
            environment: variables beside those of this process.

        Raises:
            AssertionError: it raised; the traceback is the message.
        """
        given = [str(argument) for argument in arguments]
        answer: str = self._ask(("run", code, given, environment or {}))
        return answer.splitlines()

    def call(self, model: Any, inputs: dict[str, Any]) -> Any:
        """What a model returns in one process for all calls, which imports upscale_fx only to unpickle them."""
        return self._ask(("call", pickle.dumps((model, inputs))))

    def close(self) -> None:
        """End all processes."""
        self._server.communicate()

    def _ask(self, question: Any) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        _send(question, self._server.stdin)
        right, answer = pickle.load(self._server.stdout)
        assert right, answer
        return answer


def serve() -> None:
    """The process that is forked."""
    import torch  # noqa: F401
    import torch_geometric  # noqa: F401

    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by mistake goes nowhere else
    calls: tuple[IO[bytes], IO[bytes]] | None = None
    while True:
        try:
            kind, *question = pickle.load(questions)
        except EOFError:
            return
        if kind == "run":
            _send(_run(*question), answers)
        else:
            calls = calls or _start_calls()
            _send(question[0], calls[0])
            _send(pickle.load(calls[1]), answers)


def _run(code: str, arguments: list[str], environment: dict[str, str]) -> tuple[bool, str]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(write, 1)
        os.environ.update(environment)
        sys.argv = ["", *arguments]
        sys.stdout = os.fdopen(1, "w")
        status = 0
        try:
            exec(compile(code, "<fresh process>", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            status = 1
        sys.stdout.flush()
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as printed:
        text = printed.read()
    return os.waitpid(child, 0)[1] == 0, text


def _start_calls() -> tuple[IO[bytes], IO[bytes]]:
    """Fork the process that calls models; returns where it is asked and where it answers."""
    (asked, ask), (answered, answer) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(ask)
        with os.fdopen(asked, "rb") as questions, os.fdopen(answer, "wb") as answers:
            while True:
                try:
                    _send(_call(pickle.load(questions)), answers)
                except EOFError:
                    os._exit(0)
    return os.fdopen(ask, "wb"), os.fdopen(answered, "rb")


def _call(pickled: bytes) -> tuple[bool, Any]:
    try:
        model, inputs = pickle.loads(pickled)
        result = model(**inputs)
    except Exception:
        return False, traceback.format_exc()
    strange = [name for name in sys.modules if name.startswith("tests.") and name != __name__]
    return not strange, strange or result


def _send(message: Any, stream: IO[bytes]) -> None:
    pickle.dump(message, stream)
    stream.flush()
