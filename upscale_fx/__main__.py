"""``python -m upscale_fx``: commands."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from upscale_fx.bench import cli as bench
from upscale_fx.bench.serving import cli as serving


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a command; return what it found."""
    parser = argparse.ArgumentParser(prog="python -m upscale_fx", description="A compiler for graph neural networks.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    benchmark = commands.add_parser("bench", help="time models in every way there is", description=bench.DESCRIPTION)
    bench.add_arguments(benchmark)
    benchmark.set_defaults(run=functools.partial(bench.main, benchmark))
    more = benchmark.add_subparsers(metavar="serving")
    servers = more.add_parser("serving", help="time servers of a graph that changes", description=serving.DESCRIPTION)
    serving.add_arguments(servers, bench.TYPES)
    servers.set_defaults(run=functools.partial(serving.main, servers))
    options = parser.parse_args(argv)
    found: dict[str, Any] = options.run(options)
    return found


if __name__ == "__main__":
    main()
