"""Peak memory of one call, in a process of its own: ``python -m upscale_fx.bench.memory`` reads it from standard input.

A process keeps memory that earlier work allocated, so each column gets a fresh one. It calls the column once to warm
up, returns freed memory to the system, and then compares its largest size during a second call with its size before.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from upscale_fx.bench.columns import Case, columns
from upscale_fx.bench.graphs import make_graph
from upscale_fx.bench.networks import make_network
from upscale_fx.bench.spec import Spec, from_json
from upscale_fx.bench.threads import use_threads
from upscale_fx.bench.timing import reason_of

#: Blocks of this many bytes and more are returned to the system as soon as they are freed.
_MAPPED = str(1 << 16)
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(spec: Spec, network: str, column: str) -> int | str:
    """Peak bytes of a column in a fresh process, above those before the call, or the reason why they are not known."""
    if spec.device == "cpu" and not _CLEAR.exists():
        return "peak memory is read from /proc, which this system does not have"
    job = json.dumps({"spec": spec.to_json(), "network": network, "column": column})
    command = [sys.executable, "-m", "upscale_fx.bench.memory"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": _MAPPED, "MALLOC_TRIM_THRESHOLD_": _MAPPED}
    child = subprocess.run(command, input=job, env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        last = child.stderr.strip().splitlines()[-1:]
        return f"the process that measures memory ended with {child.returncode}: {''.join(last)}"
    answer: int | str = json.loads(child.stdout.strip().splitlines()[-1])
    return answer


def peak_of(call: Callable[[], object], device: str) -> int:
    """The most bytes held during a call, above those held before it."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5", encoding="ascii")  # resets the largest size: man 5 proc
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """A figure of this process in bytes."""
    line = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if line is None:
        raise OSError(f"{_STATUS} has no {name}")
    return 1024 * int(line[1])


def _answer(job: dict[str, str]) -> int | str:
    spec = from_json(job["spec"])
    use_threads(spec.threads)
    graph = make_graph(spec)
    case = Case(job["network"], make_network(job["network"], graph, spec.seed), graph, spec)
    try:
        built = columns(spec.amounts)[job["column"]](case)
        if isinstance(built, str):
            return built
        built.call()
        return peak_of(built.call, spec.device)
    except Exception as error:  # code of others may raise anything; the table shows the error
        return reason_of(error)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with torch.no_grad():
        print(json.dumps(_answer(json.load(sys.stdin))))
