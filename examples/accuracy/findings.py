"""Sentences made from the numbers: results against pruning, and missing cells."""

from __future__ import annotations

from collections import Counter, defaultdict

from accuracy.tables import Results, cell_title, column_title, data_title, model_title

#: Pairs of columns: the first is expected to be more accurate than the second.
_HOPES = [
    ("obs", "random"),
    ("obs", "l2"),
    ("obs", "l2-constrained"),
    ("obs", "torch-pruning"),
    ("obs", "lasso"),
    ("obs-finetuned", "obs"),
    ("obs-finetuned", "narrow"),
    ("obs", "narrow"),
    ("budget", "obs"),
    ("budget", "obs-shared"),
    ("l2", "random"),
    ("l2", "l2-constrained"),
]
_NAMED = 5


def findings(results: Results) -> str:
    """Return a list of unexpected results: where the second column of a pair is better, and the largest losses."""
    lines = [line for hoped, other in _HOPES if (line := _against(results, hoped, other))]
    for column in ("obs", "obs-finetuned"):
        if worst := _worst(results, column):
            lines.append(worst)
    return "\n".join(f"- {line}" for line in lines) or "- Nothing to compare yet."


def _against(results: Results, hoped: str, other: str) -> str:
    pairs = results.pairs(other, hoped)
    if not pairs:
        return ""
    title, rival = column_title(hoped), column_title(other)
    lost = sorted((pair for pair in pairs if pair[1] > 0), key=lambda pair: -pair[1])
    if not lost:
        return f"**{rival}** is nowhere more accurate than {title} ({len(pairs)} cells)."
    named = "; ".join(f"{cell_title(key)} (by {difference:.1f})" for key, difference in lost[:_NAMED])
    more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return f"**{rival}** is more accurate than {title} in {len(lost)} of {len(pairs)} cells: {named}{more}."


def _worst(results: Results, column: str) -> str:
    drops = [(drop, key) for key in results.keys if key.column == column and (drop := results.drop(key)) is not None]
    if not drops:
        return ""
    drop, key = max(drops, key=lambda pair: pair[0])
    if drop <= 0:
        return f"{column_title(column)} loses nowhere ({_counted(len(drops))})."
    return f"The most that {column_title(column)} loses: {drop:.1f} points, {cell_title(key)}."


def missing(results: Results) -> str:
    """Return a list of the cells without a number: reasons by column and model, and errors in full."""
    reasons: defaultdict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    errors: Counter[tuple[str, str]] = Counter()
    for key, cell in results.cells.items():
        if cell.reason:
            reasons[key.column, cell.reason][key.model, key.data] += 1
        elif cell.error:
            errors[key.column, cell.error] += 1
    lines = [f"{column_title(column)}, {reason}: {_where(cells)}." for (column, reason), cells in reasons.items()]
    lines += [
        f"{column_title(column)}, error in {_counted(count)}: `{_one_line(error)}`"
        for (column, error), count in errors.items()
    ]
    if pending := len(results.keys) - len(results.cells):
        lines.append(f"{_counted(pending)} not run yet.")
    if not lines:
        return ""
    return "Cells without a number:\n\n" + "\n".join(f"- {line}" for line in lines)


def _where(cells: Counter[tuple[str, str]]) -> str:
    by_model: defaultdict[str, list[str]] = defaultdict(list)
    total: Counter[str] = Counter()
    for (model, data), count in cells.items():
        by_model[model].append(data_title(data))
        total[model] += count
    return "; ".join(
        f"{model_title(model)} on {', '.join(names)} ({_counted(total[model])})" for model, names in by_model.items()
    )


def _counted(count: int) -> str:
    return f"{count:,} cell{'' if count == 1 else 's'}"


def _one_line(text: str, most: int = 300) -> str:
    line = " ".join(text.split()).replace("`", "'")
    return line if len(line) <= most else f"{line[:most]} ..."
