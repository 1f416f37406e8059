"""Writes the pages: tables of the cells, and findings as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from accuracy.columns import COLUMNS, DENSE
from accuracy.findings import findings, missing
from accuracy.store import Cell, Key
from accuracy.tables import Results, column_title, data_title, markdown, model_title, number, with_spread

_IMAGES = "digits"

_TRAINING = """\
Graphs are trained on whole, with Adam on the cross entropy of the training nodes, features normalised to rows
that sum to 1, and Planetoid's public splits or 20 training and 30 validation nodes per class (Photo, CS,
Physics). Training stops early by validation accuracy, and the best epoch's weights are kept. What is trained is
the model compiled with nothing pruned: the same numbers in less time and memory. Products with the features leave
out their zeros, which changes rounding only. Dense and narrow models are trained by the same recipe, with the
same seeds."""

_IMAGE_TRAINING = """\
ViG (`upscale_fx.models.ViG`, two blocks of patches of 2 x 2 pixels, 4 neighbours) on the 1,797 handwritten digits
of 8 x 8 pixels that come with scikit-learn: 60 % to train, 20 % to validate, 20 % to test. Adam on the cross
entropy of batches of 64, early stopping by validation accuracy; dense and narrow models by the same recipe, with
the same seeds."""


def write_pages(folder: Path, keys: Sequence[Key], cells: Mapping[Key, Cell], command: str) -> list[Path]:
    """Write `baseline.md`, `results.md` and `vig_results.md`, each if it has cells.

    Args:
        folder: the folder of the pages; made if needed.
        keys: the cells of the pages.
        cells: the cells that are filled.
        command: the command that makes the pages.

    Returns:
        The pages that were written.
    """
    graphs = Results([key for key in keys if key.data != _IMAGES], cells)
    images = Results([key for key in keys if key.data == _IMAGES], cells)
    pages = {
        "baseline.md": _baseline(Results(keys, cells), command),
        "results.md": _results("What pruning costs in accuracy", _TRAINING, graphs, command) if graphs.keys else "",
        "vig_results.md": _results("Vision GNN, pruned", _IMAGE_TRAINING, images, command) if images.keys else "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name, text in pages.items() if text]
    for path in written:
        path.write_text(pages[path.name], encoding="utf-8")
    return written


def _origin(results: Results, command: str) -> str:
    """The origin of the page: command, cells, seeds and versions."""
    seeds: dict[str, list[str]] = {}
    for name in results.datasets:
        used = sorted({key.seed for key in results.keys if key.data == name})
        seeds.setdefault(", ".join(map(str, used)), []).append(data_title(name))
    versions = sorted({cell.versions for cell in results.cells.values() if cell.versions})
    lines = [
        f"Written by `{command}`; do not edit.",
        f"{len(results.cells):,} of {len(results.keys):,} cells are filled. Seeds: "
        + "; ".join(f"{used} on {', '.join(names)}" for used, names in seeds.items())
        + ". A spread (±) is the standard deviation over seeds; where there is none, there is one seed.",
        f"Versions: {'; '.join(versions) or 'nothing was run yet'}.",
    ]
    return "\n".join(lines)


def _recipes(results: Results) -> str:
    recipes = {key.data: key.recipe for key in results.keys}
    return markdown([{"data": data_title(name), "recipe": text} for name, text in recipes.items()])


def _baseline(results: Results, command: str) -> str:
    sections = ["# Dense models", _origin(_only_dense(results), command), _TRAINING]
    if _IMAGES in results.datasets:
        sections.append(_IMAGE_TRAINING)
    sections += [_recipes(results), "MACs are multiply-accumulates of products with weights, per node or per image."]
    for name in results.datasets:
        sections += [f"## {data_title(name)}", markdown(_dense_rows(results, name))]
    return _joined(sections)


def _only_dense(results: Results) -> Results:
    return Results([key for key in results.keys if key.column == DENSE], results.cells)


def _dense_rows(results: Results, data: str) -> list[dict[str, str]]:
    rows = []
    for model in results.models:
        keys = [key for key in results.keys if (key.model, key.data, key.column) == (model, data, DENSE)]
        cells = [results.cells[key] for key in keys if key in results.cells]
        scored = [cell for cell in cells if cell.accuracy is not None]
        row = {"model": model_title(model)}
        if scored:
            row["test accuracy, %"] = with_spread([100 * (cell.accuracy or 0.0) for cell in scored])
            row["seeds"] = str(len(scored))
            row["parameters"] = f"{scored[0].parameters or 0:,}"
            row["MACs"] = f"{scored[0].macs or 0:,.0f}"
            row["training"] = " / ".join(cell.note for cell in scored)
        elif keys:
            row["test accuracy, %"] = f"error: {cells[0].error}" if cells else "not run"
        if keys:
            rows.append(row)
    return rows


def _results(title: str, training: str, results: Results, command: str) -> str:
    sections = [f"# {title}", _origin(results, command), _columns(results), training, _recipes(results)]
    sections += ["## Accuracy lost", _AVERAGES, markdown(_average_rows(results))]
    sections += ["## Cell by cell", _PAIRS]
    for reference in ("obs", "obs-finetuned"):
        if rows := _pair_rows(results, reference):
            sections += [f"### {column_title(reference)} beside the others", markdown(rows)]
    if rows := _complete_rows(results, "obs-shared", ("obs", "obs-shared", "budget")):
        sections += ["## A budget beside its two ends", _ENDS, markdown(rows)]
    if rows := _complete_rows(results, "narrow", ("obs", "obs-finetuned", "budget", "narrow")):
        sections += ["## Pruned or narrow from the start", _NARROW, markdown(rows)]
    sections += ["## What is left", "Parameters, and MACs per node or image, of the dense model's; means over cells."]
    sections += [markdown(_share_rows(results, "parameters")), markdown(_share_rows(results, "macs"))]
    if timed := [key for key in results.keys if _latency(results, key) is not None]:
        where = ", ".join(dict.fromkeys(data_title(key.data) for key in timed))
        sections += [
            f"Latency over that of the fused dense model, medians of calls in turns; means over the {len(timed):,} "
            f"cells that were timed ({where})."
        ]
        sections += [markdown(_amount_rows(results, lambda key: _latency(results, key)))]
    sections += ["## What did not go well", findings(results), missing(results)]
    for name in results.datasets:
        sections += [f"## {data_title(name)}", "Points of accuracy lost.", markdown(_case_rows(results, name))]
    return _joined(sections)


_AVERAGES = """\
Points of test accuracy below the dense model of the same seed: means over all models and data; ± is how much a
cell typically varies over seeds (root mean square of the standard deviations). Numbers in brackets: of so many
cells only, so that such a mean is not comparable with the others; cell by cell they are compared below."""
_PAIRS = """\
Each column beside another on the cells that both have: by how many points the first is the more accurate on
average, how many parameters it has of the other's, and in how many cells it is better, equal and worse. Cells are
counted seed by seed. Torch-Pruning, budget, shared sets and narrow dense have the parameters of OBS, or as near as
they get; the others are asked for the same share of channels, which leaves more parameters or fewer."""
_ENDS = """\
Of the same parameters: the same share of every layer, each reader choosing for itself (OBS) or all readers of a
tensor together (shared sets), and a budget, which decides layer by layer how much goes and where sets are shared.
Points of accuracy lost, on the cells that all three have."""
_NARROW = """\
The narrow model is trained from scratch on the labels at about the parameters of OBS; points of accuracy lost, on
the cells that all of these columns have. It is not taught by the dense model, as fine-tuning is."""


def _columns(results: Results) -> str:
    lines = [
        "Amounts are shares of every consumer's hidden input channels. A consumer is a layer, or another contraction, "
        "that reads channels; raw features stay. Calibration is one call on all inputs without labels. The columns:",
        "",
    ]
    return "\n".join([*lines, *(f"- **{column_title(name)}**: {COLUMNS[name].meaning}" for name in results.columns)])


def _average_rows(results: Results) -> list[dict[str, str]]:
    return [
        {"amount": f"{amount:g}", **{column_title(name): results.average(amount, name) for name in results.columns}}
        for amount in results.amounts
    ]


def _pair_rows(results: Results, reference: str) -> list[dict[str, str]]:
    rows = []
    for column in results.columns:
        differences = [difference for _, difference in results.pairs(reference, column)]
        if column != reference and differences:
            row = {f"{column_title(reference)} beside": column_title(column), "cells": str(len(differences))}
            row["points better"] = f"{fmean(differences):+.2f}"
            row["parameters"] = _ratio(results, reference, column)
            row["better"] = str(sum(difference > 0 for difference in differences))
            row["equal"] = str(sum(difference == 0 for difference in differences))
            row["worse"] = str(sum(difference < 0 for difference in differences))
            rows.append(row)
    return rows


def _ratio(results: Results, reference: str, column: str) -> str:
    """Mean ratio of one column's parameters to the other's, on the cells that both have."""
    keys = [key for key, _ in results.pairs(reference, column)]
    shares = [
        (results.share(key, "parameters"), results.share(replace(key, column=column), "parameters")) for key in keys
    ]
    return f"{fmean((mine or 0.0) / other for mine, other in shares if other):.0%}"


def _complete_rows(results: Results, needed: str, rivals: Sequence[str]) -> list[dict[str, str]]:
    """Mean drops by amount on the cells that all rivals have; no rows where `needed` is not among the columns."""
    rivals = [name for name in rivals if name in results.columns]
    rows = []
    for amount in results.amounts if needed in rivals else ():
        keys = [key for key in results.keys if key.column == needed and key.amount == amount]
        drops = [[results.drop(replace(key, column=name)) for name in rivals] for key in keys]
        complete = [[drop for drop in row if drop is not None] for row in drops if None not in row]
        if complete:
            means = [number(fmean(column), 2) for column in zip(*complete, strict=True)]
            row = {"amount": f"{amount:g}", "cells": str(len(complete))}
            rows.append(row | dict(zip(map(column_title, rivals), means, strict=True)))
    return rows


def _share_rows(results: Results, name: str) -> list[dict[str, str]]:
    title = {"parameters": "parameters", "macs": "MACs"}[name]
    return [
        {f"{title} left, amount": row.pop("amount"), **row}
        for row in _amount_rows(results, lambda key: results.share(key, name))
    ]


def _amount_rows(results: Results, value: Callable[[Key], float | None]) -> list[dict[str, str]]:
    rows = []
    for amount in results.amounts:
        row = {"amount": f"{amount:g}"}
        for name in results.columns:
            means = [results.mean(case, name, value) for case in results.cases if case.amount == amount]
            known = [mean for mean in means if mean is not None]
            row[column_title(name)] = f"{fmean(known):.0%}" if known else "-"
        rows.append(row)
    return rows


def _latency(results: Results, key: Key) -> float | None:
    cell = results.cells.get(key)
    return None if cell is None else cell.latency


def _case_rows(results: Results, data: str) -> list[dict[str, str]]:
    return [
        {"model": model_title(case.model), "amount": f"{case.amount:g}"}
        | {column_title(name): results.text(case, name) for name in results.columns}
        for case in results.cases
        if case.data == data
    ]


def _joined(sections: Sequence[str]) -> str:
    return "\n\n".join(section for section in sections if section) + "\n"
