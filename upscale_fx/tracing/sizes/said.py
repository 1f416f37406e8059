"""Say which axes of an example were taken for rows, and what to state instead."""

from __future__ import annotations

from upscale_fx.compiled.inputs import ModelInputs, TensorSpec


def taken_for_rows(inputs: ModelInputs, width: int | None) -> str:
    """Return which axes were taken for rows, and how to state others; empty unless there were examples.

    ``width`` is what a layer that failed declares: an axis of this size is likely to be the width.
    """
    specs = {
        name: spec
        for name, spec in inputs.arguments.items()
        if isinstance(spec, TensorSpec) and spec.sizes and spec.role == "feature"
    }
    taken = [
        (name, axis, spec)
        for name, spec in specs.items()
        for axis, kind in enumerate(spec.axes)
        if isinstance(kind, str)
    ]
    likely = [entry for entry in taken if entry[2].sizes[entry[1]] == width]
    if not taken:
        return ""
    if likely:
        name, axis, spec = likely[0]
        others = [place for place in range(len(spec.axes)) if place != axis]
        names = dict(zip(others, ("N",) if len(others) == 1 else ("B", "N", "M", "P"), strict=False))
        return (
            f"axis {axis} of '{name}', of size {width}, for rows; state the others: dynamic_axes={{'{name}': {names}}}"
        )
    said = [f"axis {axis} of '{name}' ({spec.sizes[axis]})" for name, axis, spec in taken]
    name, axis, spec = taken[0]
    names = {place: kind for place, kind in enumerate(spec.axes) if isinstance(kind, str)}
    return (
        f"{', '.join(said)} for rows of any number; state the axes that are, and leave out those that are not: "
        f"dynamic_axes={{'{name}': {names}, ...}}"
    )


def fixed_axes(inputs: ModelInputs) -> str:
    """Return which axes of features have the fixed numbers of rows, such as ``axis 1 of 'x' is 3``."""
    sizes = {size for _, size in inputs.fixed}
    return ", ".join(
        f"axis {place} of '{name}' is {axis}"
        for name, spec in inputs.arguments.items()
        if isinstance(spec, TensorSpec) and spec.role == "feature"
        for place, axis in enumerate(spec.axes[:-1] or spec.axes)
        if axis in sizes
    )
