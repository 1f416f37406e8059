"""Where the entries of a graph's parameters come from: the record that lets an optimizer's state follow a compaction.

Every entry of a parameter has a *home*: the name of the parameter it was first part of, and its place there. Cutting
and reordering moves entries and keeps their homes, so that any two graphs of one model can be compared entry by entry,
however often one of them was pruned. A parameter that nothing is noted about is at home: it is the model's own, or a
fold made it, whose name ends in ``_folded`` and is none of the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx, nn

from upscale_fx.channels.positions import Positions

#: What the name of a parameter ends in that a fold computed from others.
FOLDED = "_folded"


@dataclass(frozen=True)
class Origin:
    """The homes of a parameter's entries.

    Attributes:
        name: the parameter they were first part of.
        shape: its shape.
        picks: None where all of it is left in place; per axis which lines were picked, in order, where that says it
            (a cut is rarely anything else); or the places of single entries, in the shape they have now.
    """

    name: str
    shape: tuple[int, ...]
    picks: tuple[Positions, ...] | Positions | None = None

    @property
    def places(self) -> Positions:
        """For every entry its place in the parameter it was first part of, flattened; in the shape it has now."""
        if isinstance(self.picks, np.ndarray):
            return self.picks.astype(np.int64)
        whole = np.arange(int(np.prod(self.shape, dtype=np.int64)), dtype=np.int64).reshape(self.shape)
        return whole if self.picks is None else whole[np.ix_(*self.picks)]

    def cut(self, layout: Positions) -> Origin:
        """The homes of the entries at some (flat) positions of this parameter, arranged as these are."""
        places = self.places.reshape(-1)[layout]
        whole = places.shape == self.shape and np.array_equal(places.reshape(-1), np.arange(places.size))
        return Origin(self.name, self.shape, None if whole else _compressed(places, self.shape))


def _compressed(places: Positions, shape: tuple[int, ...]) -> tuple[Positions, ...] | Positions:
    """Places as picks along every axis, where they are a grid."""
    narrow = np.int32 if np.prod(shape, dtype=np.int64) < 2**31 else np.int64
    if places.ndim == len(shape) and places.size:
        picks: list[Positions] = []
        for axis, coordinate in enumerate(np.unravel_index(places, shape)):
            along = np.moveaxis(coordinate, axis, 0).reshape(places.shape[axis], -1)
            if np.any(along != along[:, :1]):
                return places.astype(narrow)
            picks.append(along[:, 0].astype(narrow))
        return tuple(picks)
    return places.astype(narrow)


def origin_of(module: nn.Module, name: str) -> Origin:
    """The homes of the entries of a parameter, by its dotted name; in a plain module every parameter is at home."""
    noted: Mapping[str, Origin] = module.meta.get("origins", {}) if isinstance(module, fx.GraphModule) else {}
    return noted[name] if name in noted else Origin(name, tuple(module.get_parameter(name).shape))


def note_folded(gm: fx.GraphModule, name: str) -> None:
    """Note that a parameter now holds what a fold computed from several: its entries are at home nowhere else."""
    shape = tuple(gm.get_parameter(name).shape)
    gm.meta["origins"] = {**gm.meta.get("origins", {}), name: Origin(name + FOLDED, shape)}


def cut_origins(
    old: nn.Module,
    reads: Mapping[str, Positions],
    modules: Mapping[str, Positions | None],
    narrowed: Mapping[str, tuple[tuple[str, ...], Positions]],
) -> dict[str, Origin]:
    """The origins of all parameters of a rewritten graph that are not at home.

    Args:
        old: the graph that was rewritten.
        reads: for every parameter or buffer, which flat positions of it are left, as they are arranged.
        modules: for every called module, which lines of its own parameters are left along their first axis, None: all.
        narrowed: for recurrent modules, which columns of the named weights are left.
    """
    known = dict(old.named_parameters(remove_duplicate=False))
    layouts: dict[str, Positions] = {name: layout for name, layout in reads.items() if name in known}
    for target, channels in modules.items():
        weights, columns = narrowed.get(target, ((), None))
        for name, parameter in old.get_submodule(target).named_parameters(remove_duplicate=False):
            layout = np.arange(parameter.numel(), dtype=np.int64).reshape(tuple(parameter.shape))
            if channels is not None and "." not in name:
                layout = layout[channels]
            if columns is not None and name in weights:
                layout = layout[:, columns]
            layouts[f"{target}.{name}"] = layout
    origins = {name: origin_of(old, name).cut(layout) for name, layout in layouts.items()}
    return {name: origin for name, origin in origins.items() if origin.name != name or origin.picks is not None}
