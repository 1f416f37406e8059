"""Find out which rows a model cannot have more or fewer of, by runs on graphs of the example's size.

A run on large graphs can cost a thousand times what the example costs: in a loop over graphs and time steps both grow.
So before such runs one kind of rows after the other is varied alone. If (1) the model accepts a made graph of the
example's size, and (2) refuses it with more and with fewer rows of one kind, every description that varies these rows
would be refused as well, and need not be tried. The steps are the differences between the two example graphs, so a rule
about remainders that both of them keep is kept here too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils import _pytree as pytree

from upscale_fx.compiled.inputs import LARGE, SMALL, ModelInputs, RowCount, TensorSpec, row_count

#: Runs are saved where the graphs of a description have so many times the numbers of the example.
_DEARER = 8


@dataclass
class TriedSizes:
    """What is known of a model's rows.

    Attributes:
        refusal: runs the model on a made graph of a description; the error if it refuses.
        held: by base, the kinds of rows whose number cannot change; see ``variants.open_variants``.
    """

    refusal: Callable[[ModelInputs], Exception | None]
    held: dict[Hashable, frozenset[str]] = field(default_factory=dict)

    def exclude(self, base: ModelInputs, inputs: ModelInputs) -> bool:
        """Whether it is known, or cheap to find out, that the model refuses a description made of this base."""
        return any(
            kind in inputs.symbols() and kind not in dict(inputs.fixed)
            for one in (_without_forms(base), base)
            for kind in self._known(one, inputs)
        )

    def _known(self, base: ModelInputs, inputs: ModelInputs) -> frozenset[str]:
        """Return which rows must be as many as in the example; nothing where finding out is no cheaper than a try."""
        sizes = _sizes(base)
        key = (base.ascending, *sizes, made_alike(replace(base, fixed=tuple(sizes.items())), SMALL))
        if key not in self.held:
            if not sizes or _numbers(inputs, dict(inputs.fixed)) < _DEARER * _numbers(base, sizes):
                return frozenset()
            self.held[key] = self._held(base, sizes)
        return self.held[key]

    def _held(self, base: ModelInputs, sizes: dict[str, int]) -> frozenset[str]:
        """Return the kinds of rows of which the model takes as many as the example has, but not more nor fewer."""

        def refuses(**changed: int) -> bool:
            return self.refusal(replace(base, fixed=tuple({**sizes, **changed}.items()))) is not None

        if refuses():
            return frozenset()  # it is not for their number that the made graphs do not fit
        steps = {kind: row_count(LARGE, kind) - row_count(SMALL, kind) for kind in sizes}
        return frozenset(
            kind
            for kind, size in sizes.items()
            if kind[0] in "NR"
            and refuses(**{kind: size + steps[kind]})
            and (size <= steps[kind] or refuses(**{kind: size - steps[kind]}))
        )


def _without_forms(base: ModelInputs) -> ModelInputs:
    """Return a base with edges in any order: what it cannot vary on random edges, it cannot vary on special ones."""
    return base.map_leaves(lambda leaf: replace(leaf, form="") if isinstance(leaf, TensorSpec) else leaf)


def _sizes(base: ModelInputs) -> dict[str, int]:
    """Return the rows of every kind in the example, those that follow from others excepted."""
    return {kind: size for kind, size in base.symbols().items() if size and kind[0] != "K"}


def made_alike(inputs: ModelInputs, rows: Mapping[str, int]) -> Hashable:
    """Return a key that two descriptions share if they make the same example of ``rows`` nodes, edges and graphs."""
    counts = inputs.counts(rows)

    def of(leaf: Any) -> Hashable:
        if isinstance(leaf, RowCount):
            return row_count(counts, leaf.symbol)
        if not isinstance(leaf, TensorSpec):
            return type(leaf), leaf
        sizes = tuple(row_count(counts, axis) if isinstance(axis, str) else axis for axis in leaf.axes)
        regular = leaf.role == "edges" and str(leaf.axes[1]).startswith("K")
        numbered = tuple(row_count(counts, kind) for kind in (leaf.ends if leaf.role == "edges" else leaf.into))
        drawn = (
            leaf.limit,
            leaf.ordered,
            leaf.told,
            leaf.layout,
            leaf.form,
            leaf.as_given,
            regular,
            leaf.pool.data_ptr() if leaf.pool is not None and (leaf.role == "index" or leaf.as_given) else 0,
            leaf.ends[0] == leaf.ends[1],
        )
        return sizes, leaf.dtype, leaf.role, numbered, drawn

    leaves, structure = pytree.tree_flatten(inputs.all_arguments())
    return (*map(of, leaves), str(structure), counts["N"], counts["B"])


def _numbers(inputs: ModelInputs, sizes: dict[str, int]) -> int:
    """Return how many numbers the tensors of a small example graph hold, with other sizes of some kinds of rows."""
    counts = {**inputs.counts(SMALL), **sizes}
    total = 0
    for leaf in pytree.tree_leaves(inputs.all_arguments()):
        numbers = 1
        for axis in leaf.axes if isinstance(leaf, TensorSpec) else ():
            numbers *= row_count(counts, axis) if isinstance(axis, str) else axis
        total += numbers
    return total
