"""Measure what pruning costs in accuracy, and write the results as pages.

    python examples/results.py
    python examples/results.py --models gcn sage --graphs cora --amounts 0.5 0.75 --no-vig
    python examples/results.py --retry-errors --time-limit 600   # continue for ten minutes, repeat errors

The pages are docs/baseline.md, docs/results.md and docs/vig_results.md, with the cells that the options select.

Dense models are trained once and stored. Every finished cell of the tables is stored at once, so a stopped run can be
continued. `--pages-only` writes the pages from the stored cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from accuracy.columns import COLUMNS, DENSE
from accuracy.data import GRAPHS, load_data
from accuracy.fitting import Recipe
from accuracy.images import IMAGE_RECIPE, ImageWorkload
from accuracy.pages import write_pages
from accuracy.running import Ask, Settings, fill, recipe_text
from accuracy.store import Key, Store
from accuracy.workloads import MODELS, RECIPES, NodeWorkload
from prune_gnn import GENERATED

AMOUNTS = (0.25, 0.5, 0.75, 0.875, 0.9375)
DEFAULT_GRAPHS = [name for name in GRAPHS if name != GENERATED]
#: Data on which models are trained with three seeds by default; with one seed on all other data.
SMALL = ("cora", "citeseer", "digits", GENERATED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job described by command-line arguments; return how many cells were filled."""
    parser = _parser()
    options = parser.parse_args(argv)
    filled, store = 0, Store(options.store)
    asks = list(asked(options))
    if not options.pages_only:
        settings = Settings(options.time_limit, options.latency, options.retry_errors)
        filled = fill(sorted(asks, key=_turn), store, settings)
    keys = [key for ask in asks for key in ask.keys]
    for page in write_pages(options.docs, keys, store.cells, _command(parser, options)):
        print(page)
    return filled


def asked(options: argparse.Namespace) -> Iterator[Ask]:
    """Yield the cells that the options select, in the order of the pages."""
    for name in options.graphs:
        recipe = _shortened(RECIPES[name], options)
        for seed in options.seeds or _seeds(name):
            for model in options.models:
                keys = list(_keys(model, name, seed, recipe, options))
                yield Ask(partial(_on_graph, model, name, recipe, options.root), keys)
    for seed in (options.seeds or _seeds("digits")) if options.vig else ():
        recipe = _shortened(IMAGE_RECIPE, options)
        yield Ask(partial(ImageWorkload, recipe), list(_keys("vig", "digits", seed, recipe, options)))


def _turn(ask: Ask) -> tuple[int, bool]:
    """The sort key of an ask: by seed, then small data before large data."""
    return ask.keys[0].seed, ask.keys[0].data not in SMALL


def _command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The command that selects the same cells, without folders and time limits."""
    words = ["python examples/results.py"]
    for name in ("models", "graphs", "amounts", "seeds", "columns", "epochs", "hidden"):
        value = getattr(options, name)
        if value != parser.get_default(name):
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return " ".join(words + (["--latency"] if options.latency else []) + ([] if options.vig else ["--no-vig"]))


def _on_graph(model: str, name: str, recipe: Recipe, root: Path | None) -> NodeWorkload:
    return NodeWorkload(model, load_data(name, root), recipe)


def _seeds(name: str) -> tuple[int, ...]:
    return (0, 1, 2) if name in SMALL else (0,)


def _shortened(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    changes = {name: value for name in ("epochs", "hidden") if (value := getattr(options, name)) is not None}
    return replace(recipe, **changes)


def _keys(model: str, data: str, seed: int, recipe: Recipe, options: argparse.Namespace) -> Iterator[Key]:
    text = recipe_text(recipe)
    yield Key(model, data, seed, 0.0, DENSE, text)
    for amount in options.amounts:
        for column in options.columns:
            yield Key(model, data, seed, amount, column, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    columns = [name for name in COLUMNS if name != DENSE]
    for name, known, chosen in (
        ("--models", list(MODELS), list(MODELS)),
        ("--graphs", list(GRAPHS), DEFAULT_GRAPHS),
        ("--columns", columns, columns),
    ):
        parser.add_argument(
            name,
            nargs="+",
            type=str.lower,
            metavar="NAME",
            choices=known,
            default=chosen,
            help=f"of {', '.join(known)}",
        )
    parser.add_argument("--amounts", nargs="+", type=_amount, default=AMOUNTS, metavar="SHARE", help="in (0, 1)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="default: 0 1 2 on small data, else 0")
    parser.add_argument("--vig", action=argparse.BooleanOptionalAction, default=True, help="Vision GNN on digits")
    parser.add_argument("--store", type=Path, default=Path("results"), help="folder of what is done (%(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the pages (%(default)s)")
    parser.add_argument("--root", type=Path, help="folder of stored graphs with a load.py (default: ../shared/data)")
    parser.add_argument("--epochs", type=_count, help="train for at most so many, instead of each graph's own number")
    parser.add_argument("--hidden", type=_count, help="width of the dense models, instead of each recipe's own")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="begin no further cell after so long")
    parser.add_argument("--latency", action="store_true", help="also time models; means nothing on a busy machine")
    parser.add_argument("--retry-errors", action="store_true", help="fill cells again that hold an error")
    parser.add_argument("--pages-only", action="store_true", help="write the pages from what is there")
    return parser


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < 1:  # NaN is not either
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return amount


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    main()
