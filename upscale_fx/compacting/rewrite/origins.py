"""Where the entries of a graph's parameters come from: the record that lets an optimizer's state follow a compaction.

Every entry of a parameter has a *home*: the name of the parameter it was first part of, and its place there. Cutting
and reordering moves entries and keeps their homes, so that any two graphs of one model can be compared entry by entry,
however often one of them was pruned. A parameter that nothing is noted about is at home: it is the model's own, or a
fold made it, whose name ends in ``_folded`` and is none of the model's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from upscale_fx.channels.positions import Positions
from upscale_fx.compiled.module import CompiledGNN, note, record_of
from upscale_fx.compiled.record.origin import Origin

#: What the name of a parameter ends in that a fold computed from others.
FOLDED = "_folded"


def origin_of(module: nn.Module, name: str) -> Origin:
    """The homes of the entries of a parameter, by its dotted name; in a plain module every parameter is at home.

    So is one of another shape that was put in the place of a parameter.
    """
    noted: Mapping[str, Origin] = record_of(module).origins if isinstance(module, CompiledGNN) else {}
    path, _, own = name.rpartition(".")
    shape = tuple(getattr(module.get_submodule(path), own).shape)  # TorchScript's are no nn.Parameter
    origin = noted.get(name)
    return origin if origin is not None and origin.present_shape == shape else Origin(name, shape)


def note_folded(gm: CompiledGNN, name: str) -> None:
    """Note that a parameter now holds what a fold computed from several: its entries are at home nowhere else."""
    shape = tuple(gm.get_parameter(name).shape)
    note(gm, origins={**record_of(gm).origins, name: Origin(name + FOLDED, shape)})


def reads_digest(old: nn.Module, name: str, reads: Sequence[Positions]) -> str:
    """A digest of the original places of the entries of a parameter or buffer that several calls read, each its own."""
    known = dict(old.named_parameters(remove_duplicate=False))
    digest = hashlib.sha256()
    for layout in reads:
        places = origin_of(old, name).places.reshape(-1)[layout] if name in known else layout
        digest.update(repr(places.shape).encode() + places.astype("<i8").tobytes())
    return digest.hexdigest()


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
