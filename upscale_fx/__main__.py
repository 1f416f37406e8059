"""``python -m upscale_fx``: commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from upscale_fx.bench import cli as bench


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a command; return what it found."""
    parser = argparse.ArgumentParser(prog="python -m upscale_fx", description="A compiler for graph neural networks.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    benchmark = commands.add_parser("bench", help="time models in every way there is", description=bench.DESCRIPTION)
    bench.add_arguments(benchmark)
    return bench.main(benchmark, parser.parse_args(argv))


if __name__ == "__main__":
    main()
