"""Other descriptions of the same arguments, for models that refuse the likeliest one on small example graphs.

Each *change* makes a description more special: more edges and nodes than usual (the 20 nearest neighbours need 21), a
fixed number of time steps, kinds of nodes in the example's order of size. Single changes are tried first, then two
together. The number of nodes is fixed last, because the graph then takes no other number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

from upscale_fx.compiled.edges.forms import BOTH_WAYS, DISTINCT, HALVES, PAIRS
from upscale_fx.compiled.inputs import GROWTHS, SMALL, ModelInputs, RowCount, TensorSpec

#: The most numbers in an example whose sizes all become part of the graph.
_MOST_GIVEN = 100_000

#: Returns a changed description, or None if there is nothing to change.
Change = Callable[[ModelInputs], ModelInputs | None]


def variants(inputs: ModelInputs) -> Iterator[ModelInputs]:
    """Yield the descriptions to try if a model refuses this one, the most general first."""
    for _, changed in (*open_variants(inputs), *fixed_variants(inputs)):
        yield changed
    yield from _changed(inputs, (as_the_example,))


def open_variants(inputs: ModelInputs) -> Iterator[tuple[ModelInputs, ModelInputs]]:
    """Yield the variants that take any number of nodes.

    Each comes with its *base*: the description without those changes that only choose sizes. A base and what is made of
    it are the same for graphs of the example's size.
    """
    changes = [change for change in CHANGES if change(inputs) is not None]
    for count in (1, 2):
        for together in combinations(changes, count):
            yield from _with_base(inputs, together)


def fixed_variants(inputs: ModelInputs) -> Iterator[tuple[ModelInputs, ModelInputs]]:
    """Yield the variants with a fixed number of nodes, each with its base."""
    changes = [change for change in CHANGES if change(inputs) is not None]
    for fix in (_with_fixed_nodes, _with_all_nodes_fixed, _with_all_rows_fixed):
        for together in ((), *((change,) for change in changes)):
            yield from _with_base(inputs, (*together, fix))


def _with_base(inputs: ModelInputs, together: tuple[Change, ...]) -> Iterator[tuple[ModelInputs, ModelInputs]]:
    base = _changed(inputs, tuple(change for change in together if change not in _OF_SIZES))
    yield from zip(base, _changed(inputs, together), strict=False)


def less_dynamic(inputs: ModelInputs) -> Iterator[ModelInputs]:
    """Yield the descriptions to try if a model runs with this one, but cannot be traced: unknown axes are fixed."""
    for change in (_with_inner_axes_held, _with_unknown_axes_held, _with_steps_held, _with_chosen_rows, *_FORMED):
        yield from _changed(inputs, (change,))


def _changed(inputs: ModelInputs, changes: tuple[Change, ...]) -> Iterator[ModelInputs]:
    changed: ModelInputs | None = inputs
    for change in changes:
        changed = change(changed) if changed is not None else None
    if changed is not None:
        yield changed


def _with_inner_axes_held(inputs: ModelInputs) -> ModelInputs | None:
    """Take axes of unknown kind, but not leading ones, for channels: components of vectors, time steps."""
    return _with_held_axes(inputs, 1)


def _with_unknown_axes_held(inputs: ModelInputs) -> ModelInputs | None:
    """Take all axes of unknown kind for channels."""
    return _with_held_axes(inputs, 0)


def _with_steps_held(inputs: ModelInputs) -> ModelInputs | None:
    """Take ``[B, N, F]`` for ``[N, T, F]``, with a fixed number of time steps, where nothing says what nodes are."""
    specs = _specs(inputs)
    known = any(leaf.role == "edges" or "N" in (*leaf.into, *leaf.axes[:1]) for leaf in specs)
    return None if known else _with_held_axes(inputs, 1, "NR")


def _with_chosen_rows(inputs: ModelInputs) -> ModelInputs | None:
    """Take numbers of selected rows that are the same in both examples for the model's choice."""
    return replace(inputs, chosen=True)


def _with_held_axes(inputs: ModelInputs, first: int, unknown: str = "R") -> ModelInputs | None:
    """Fix the axes of unknown kind from axis ``first`` on; the other axes of the same kind too."""
    kinds: dict[str, int] = {}
    for leaf in _specs(inputs):
        for axis, size in list(zip(leaf.axes, leaf.sizes, strict=False))[first:]:
            if len(leaf.axes) > 2 and isinstance(axis, str) and axis[0] in unknown and axis not in inputs.stated:
                kinds[axis] = size
    if not kinds:
        return None
    held = [
        f"axis {place} of '{name}' is {kinds[axis]}"
        for name, spec in inputs.arguments.items()
        if isinstance(spec, TensorSpec)
        for place, axis in enumerate(spec.axes)
        if axis in kinds
    ]
    return inputs.map_leaves(lambda leaf: _with_sizes(leaf, kinds), held=(*inputs.held, *held))


def _with_equal_nodes(inputs: ModelInputs) -> ModelInputs | None:
    """Take kinds of nodes, or of edges, for one where the example has as many of both (two views of one graph)."""
    names: dict[str, str] = {}
    first: dict[tuple[str, int], str] = {}
    for symbol, size in sorted(inputs.symbols().items()):
        if symbol[0] in "NE" and size and symbol not in inputs.stated:
            names[symbol] = first.setdefault((symbol[0], size), symbol)
    if all(old == new for old, new in names.items()):
        return None
    return inputs.map_leaves(lambda leaf: _renamed(leaf, names))


def _with_regular_edges(inputs: ModelInputs) -> ModelInputs | None:
    """Give all nodes the same degree, with sorted edges (meshes)."""
    if not inputs.degree or "E" in inputs.stated:
        return None
    return inputs.map_leaves(lambda leaf: _renamed(leaf, {"E": f"K{inputs.degree}"}))


def _grown(growth: int) -> Change:
    def grow(inputs: ModelInputs) -> ModelInputs | None:
        return replace(inputs, growth=growth) if not inputs.growth else None

    return grow


def _in_order_of_size(inputs: ModelInputs) -> ModelInputs | None:
    """Let kinds of nodes have the example's order of size: by default there are fewer targets than sources."""
    sizes = {symbol: size for symbol, size in inputs.symbols().items() if symbol[0] == "N" and size}
    counts = inputs.counts(SMALL)
    ascending = tuple(sorted(sizes, key=lambda symbol: (sizes[symbol], counts[symbol])))
    unordered = any(counts[a] > counts[b] for a, b in pairwise(ascending))
    return replace(inputs, ascending=ascending) if unordered and not inputs.ascending else None


def _with_values_of_the_example(inputs: ModelInputs) -> ModelInputs | None:
    """Take integers for categories that only have the values seen, even where they may number rows."""
    return _with_indices(inputs, lambda leaf: ())


def _with_values_in_the_fewest_rows(inputs: ModelInputs) -> ModelInputs | None:
    """Let integers stay below the number of any rows, whatever they are called."""
    kinds = tuple(symbol for symbol in inputs.symbols() if symbol[0] in "NE")
    return _with_indices(inputs, lambda leaf: kinds)


def _with_indices(inputs: ModelInputs, into: Callable[[TensorSpec], tuple[str, ...]]) -> ModelInputs | None:
    def change(leaf: Any) -> Any:
        is_index = isinstance(leaf, TensorSpec) and leaf.role == "index" and not leaf.told
        return replace(leaf, into=into(leaf)) if is_index else leaf

    old = [leaf.into for leaf in _specs(inputs)]
    changed = inputs.map_leaves(change)
    return changed if [leaf.into for leaf in _specs(changed)] != old else None


def _with_fixed_nodes(inputs: ModelInputs) -> ModelInputs | None:
    """Fix the number of nodes, for models with a weight per node."""
    return _with_fixed(inputs, ["N"] if inputs.nodes else [])


def _with_all_nodes_fixed(inputs: ModelInputs) -> ModelInputs | None:
    """Fix the numbers of nodes of all types."""
    kinds = [symbol for symbol, size in inputs.symbols().items() if symbol[0] == "N" and size]
    return _with_fixed(inputs, kinds if len(kinds) > 1 else [])


def _with_all_rows_fixed(inputs: ModelInputs) -> ModelInputs | None:
    """Fix the numbers of nodes, and of all rows that nothing is known of."""
    symbols = inputs.symbols()
    kinds = [symbol for symbol, size in symbols.items() if symbol[0] in "NR" and size]
    return _with_fixed(inputs, kinds if any(symbol[0] == "R" for symbol in kinds) else [])


def _with_counts_of_nodes(inputs: ModelInputs) -> ModelInputs | None:
    """Take a number that counts graphs for one of nodes, where the example has as many (a whole graph as one batch)."""

    def change(leaf: Any) -> Any:
        other = isinstance(leaf, RowCount) and leaf.symbol == "B" and leaf.size and leaf.size == inputs.nodes
        return RowCount("N", leaf.size) if other else leaf

    changed = inputs.map_leaves(change)
    return changed if changed.symbols().keys() != inputs.symbols().keys() else None


def _formed(form: str) -> Change:
    def change(inputs: ModelInputs) -> ModelInputs | None:
        """Store edges as the example has them."""
        has = any(form in leaf.forms and not leaf.form for leaf in _specs(inputs))
        return inputs.map_leaves(lambda leaf: _in_form(leaf, form)) if has else None

    return change


def _in_form(leaf: Any, form: str) -> Any:
    return replace(leaf, form=form) if isinstance(leaf, TensorSpec) and form in leaf.forms else leaf


def as_the_example(inputs: ModelInputs) -> ModelInputs | None:
    """Fix all rows, and all integers, to those of the example; None if they are many, or the user named rows."""
    sizes = inputs.symbols()
    specs = _specs(inputs)
    numbers = sum(math.prod(leaf.sizes) for leaf in specs)
    drawn = [leaf for leaf in specs if leaf.role != "feature"]
    whole = all(leaf.pool is not None and leaf.pool.shape == leaf.sizes for leaf in drawn)
    if inputs.stated or not all(sizes.values()) or not whole or numbers > _MOST_GIVEN:
        return None

    def change(leaf: Any) -> Any:
        leaf = _with_sizes(leaf, sizes)
        given = isinstance(leaf, TensorSpec) and leaf.role != "feature"
        return replace(leaf, as_given=True) if given else leaf

    return inputs.map_leaves(change, fixed=tuple(sizes.items()), growth=0)


def _with_fixed(inputs: ModelInputs, kinds: list[str]) -> ModelInputs | None:
    if not kinds or set(kinds) & set(inputs.stated):
        return None
    sizes = {symbol: inputs.symbols().get(symbol) or inputs.nodes for symbol in kinds}
    return inputs.map_leaves(lambda leaf: _with_sizes(leaf, sizes), fixed=tuple(sizes.items()), growth=0)


def _specs(inputs: ModelInputs) -> list[TensorSpec]:
    specs: list[TensorSpec] = []
    inputs.map_leaves(lambda leaf: specs.append(leaf) if isinstance(leaf, TensorSpec) else None)
    return specs


def _with_sizes(leaf: Any, sizes: dict[str, int]) -> Any:
    """Fix the axes of these kinds of rows; indices into them stay indices into them."""
    if isinstance(leaf, RowCount):
        return sizes.get(leaf.symbol, leaf)
    if not isinstance(leaf, TensorSpec):
        return leaf
    return replace(leaf, axes=tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in leaf.axes))


def _renamed(leaf: Any, names: dict[str, str]) -> Any:
    if isinstance(leaf, RowCount):
        return replace(leaf, symbol=names.get(leaf.symbol, leaf.symbol))
    if not isinstance(leaf, TensorSpec):
        return leaf
    source, target = (names.get(end, end) for end in leaf.ends)
    return replace(
        leaf,
        axes=tuple(names.get(axis, axis) if isinstance(axis, str) else axis for axis in leaf.axes),
        ends=(source, target),
        into=tuple(dict.fromkeys(names.get(symbol, symbol) for symbol in leaf.into)),
    )


_FORMED, _UNIQUE = tuple(map(_formed, (PAIRS, HALVES))), tuple(map(_formed, (BOTH_WAYS, DISTINCT)))
#: The changes that only choose sizes.
_OF_SIZES = (_with_inner_axes_held, _with_unknown_axes_held, *map(_grown, GROWTHS))

#: All changes but fixed numbers of nodes, the likeliest first.
CHANGES: tuple[Change, ...] = (
    _with_equal_nodes,
    _with_regular_edges,
    *_FORMED,
    _with_counts_of_nodes,
    *_OF_SIZES,
    _in_order_of_size,
    _with_values_in_the_fewest_rows,
    _with_values_of_the_example,
    *_UNIQUE,
)
