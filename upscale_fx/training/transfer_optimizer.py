"""Transfer of an optimizer to a pruned graph: its state is cut and reordered like the parameters.

A moment estimate belongs to an entry of a parameter. A new optimizer would lose these estimates, and with them the step
sizes of Adam (Kingma and Ba, ICLR 2015, algorithm 1) and the direction of momentum. Here every entry that is kept keeps
its estimates.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import Optimizer

from upscale_fx.channels.positions import Positions
from upscale_fx.compacting.rewrite.origins import FOLDED, origin_of
from upscale_fx.compiled.record.origin import Origin
from upscale_fx.errors import InputError

_SUFFIX = "_orig"  # torch.nn.utils.prune appends it to the name of a masked parameter


def transfer_optimizer(old: Optimizer, model: nn.Module, compiled: nn.Module) -> Optimizer:
    """A new optimizer for a pruned graph, which continues where the old one is.

    It has the class, the hyperparameters and the param groups of the old one, in the same order. State tensors of the
    shape of their parameter (``exp_avg``, ``momentum_buffer``, ...) are cut and reordered like the parameter; those
    with one number for a whole axis (Adafactor's ``row_var [O, 1]``) along the other axes; scalars such as ``step`` are
    copied. Removed parameters leave their group. A parameter that a fold computed from several others (its name ends in
    ``_folded``; with ``optimize(inference=True)`` also layers that took in a batch norm) starts without state, in the
    group of the parameter it is named after. A bias that took in constants keeps its state: its gradient is the same.
    Parameters of other modules that ``old`` optimises too (a decoder that was not pruned) stay, with their state.

    Learning rate schedulers and hooks refer to the old optimizer and are not transferred: make a new scheduler, with
    ``last_epoch`` (the groups keep ``initial_lr``).

    Args:
        old: the optimizer of ``model``; not changed.
        model: what was pruned: the model, its masked copy if that was trained, or a graph that was pruned again.
        compiled: the graph that :func:`prune`, ``compact`` or ``optimize`` made of ``model``.

    Raises:
        InputError: ``old`` is not an optimizer, or optimises no parameter of ``model``; ``compiled`` has parameters
            that ``model`` lacks, by name and shape (another instance of the same model is not detected); state that is
            neither one number per entry nor a scalar (LBFGS); a class whose constructor does not take its defaults.
    """
    if not isinstance(old, Optimizer):
        raise InputError(f"expected the optimizer of the dense model, got a {type(old).__name__}")
    sources = _Sources(model)
    held = {id(parameter) for group in old.param_groups for parameter in group["params"]}
    if not held & sources.parameters.keys():
        raise InputError(
            f"the {type(old).__name__} optimises none of the {len(sources.parameters)} parameters of "
            f"{type(model).__name__}; pass the model it was made for, transfer_optimizer(optimizer, model, compiled), "
            f"not a copy of it"
        )
    matches = _matches(sources, model, compiled)
    new = _like(old, [_group(group, matches, sources) for group in old.param_groups])
    kept = {id(parameter) for group in new.param_groups for parameter in group["params"]}
    for match in matches:
        if match.source is not None and match.source in old.state and id(match.parameter) in kept:
            new.state[match.parameter] = _cut_state(old, match)
    for group in old.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in sources.parameters and parameter in old.state:
                new.state[parameter] = copy.deepcopy(old.state[parameter])
    return new


@dataclass(frozen=True)
class _Match:
    """A parameter of the new graph, and the positions of its entries in a parameter of the old model.

    It joins the param group of ``owner``. ``index`` holds flat positions in ``source``; both are None where a fold made
    the parameter.
    """

    name: str
    parameter: nn.Parameter
    owner: nn.Parameter | None
    source: nn.Parameter | None = None
    index: Positions | None = None


class _Sources:
    """The parameters of the old model, by id, by name, and by the original parameter that their entries come from."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters: dict[int, nn.Parameter] = {}
        self.by_name: dict[str, nn.Parameter] = {}
        self.by_home: dict[str, list[tuple[nn.Parameter, Origin]]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            origin = origin_of(model, name)
            unmasked = _without_mask(model, name)
            original = unmasked if origin.name == name else origin.name
            self.parameters[id(parameter)] = parameter
            self.by_name[unmasked] = parameter
            self.by_home.setdefault(original, []).append((parameter, origin))

    def named_after(self, name: str) -> nn.Parameter | None:
        """The parameter a fold is named after, or another one of the same layer."""
        path, _, last = name.rpartition(".")
        stem = last.split(FOLDED)[0]
        for guess in (stem, stem.removesuffix("_bias"), "weight"):
            known = self.by_name.get(f"{path}.{guess}" if path else guess)
            if known is not None:
                return known
        siblings = (parameter for known, parameter in self.by_name.items() if known.rpartition(".")[0] == path)
        return next(siblings, None)


def _without_mask(model: nn.Module, name: str) -> str:
    """The name a parameter has once ``torch.nn.utils.prune`` is removed: ``weight`` of ``weight_orig``."""
    path, _, last = name.rpartition(".")
    hooks = model.get_submodule(path)._forward_pre_hooks.values()
    masked = {hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)}
    return name.removesuffix(_SUFFIX) if last.removesuffix(_SUFFIX) in masked else name


def _matches(sources: _Sources, model: nn.Module, compiled: nn.Module) -> list[_Match]:
    """The match of every parameter; raises InputError where ``compiled`` was not made from ``model``."""
    matches = []
    for name, parameter in compiled.named_parameters():
        origin = origin_of(compiled, name)
        candidates = sources.by_home.get(origin.name, [])
        match = next(filter(None, (_match(name, parameter, origin, *known) for known in candidates)), None)
        if match is None and not origin.name.endswith(FOLDED):
            shapes = ", ".join(str(list(source.shape)) for source, _ in candidates) or "no such parameter"
            raise InputError(
                f"'{name}' of the compiled graph comes from '{origin.name}' {list(origin.shape)}, but the "
                f"{type(model).__name__} given has {shapes}; pass the model that the graph was made from"
            )
        matches.append(match or _Match(name, parameter, sources.named_after(name)))
    return matches


def _match(name: str, parameter: nn.Parameter, new: Origin, source: nn.Parameter, old: Origin) -> _Match | None:
    """The match of a new parameter with an old one; None unless the old one has all its entries."""
    if new.shape != old.shape:
        return None
    index = new.places
    if old.picks is not None:
        held = old.places.reshape(-1)
        place = torch.full((int(torch.Size(old.shape).numel()),), -1)
        place[torch.from_numpy(held)] = torch.arange(len(held))
        index = place.numpy()[index]
    return None if index.size and index.min() < 0 else _Match(name, parameter, source, source, index)


def _group(group: dict[str, Any], matches: list[_Match], sources: _Sources) -> dict[str, Any]:
    """A param group with the new parameters in the order of the old; folds follow their namesakes."""
    members: list[tuple[str, nn.Parameter]] = []
    names = group.get("param_names", [""] * len(group["params"]))
    for name, parameter in zip(names, group["params"], strict=True):
        if id(parameter) not in sources.parameters:
            members.append((name, parameter))
            continue
        successors = [match for match in matches if match.owner is parameter]
        members += [(m.name, m.parameter) for m in sorted(successors, key=lambda match: match.source is None)]
    options = {key: _copied(value) for key, value in group.items() if key not in ("params", "param_names")}
    return {"params": members if "param_names" in group else [parameter for _, parameter in members], **options}


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _like(old: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """An optimizer of the same class with these groups."""
    accepted = inspect.signature(type(old).__init__).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    options = {name: _copied(value) for name, value in old.defaults.items() if anything or name in accepted}
    try:
        return type(old)(groups, **options)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"no new {type(old).__name__} could be made over the parameters that are left: {error}; its constructor "
            f"must take (params, {', '.join(old.defaults)}) by name, as those of torch.optim do"
        ) from error


def _cut_state(old: Optimizer, match: _Match) -> dict[str, Any]:
    """The state of one parameter, for its kept entries."""
    assert match.source is not None
    return {key: _cut_value(type(old).__name__, key, value, match) for key, value in old.state[match.source].items()}


def _cut_value(kind: str, key: str, value: Any, match: _Match) -> Any:
    source, index = match.source, match.index
    assert source is not None
    assert index is not None
    if not isinstance(value, Tensor) or value.dim() == 0:
        return _copied(value)
    shape = tuple(source.shape)
    shared = [axis for axis, size in enumerate(value.shape) if size == 1 and shape[axis : axis + 1] != (1,)]
    fits = value.dim() == len(shape) and all(value.shape[a] == shape[a] for a in range(len(shape)) if a not in shared)
    if not fits or (shared and index.ndim != len(shape)):
        raise InputError(
            f"state '{key}' of {kind} has shape {list(value.shape)} for '{match.name}', cut from {list(shape)}: it "
            f"does not belong to single entries and cannot be cut with them; start the optimizer anew"
        )
    places = torch.from_numpy(index).to(value.device)
    cut = value.detach().expand(shape).reshape(-1)[places]
    for axis in shared:
        line = cut.narrow(axis, 0, 1) if cut.shape[axis] else cut
        if not torch.equal(line.expand_as(cut), cut):
            raise InputError(
                f"state '{key}' of {kind} has one number per line of '{match.name}', and pruning joined entries of "
                f"several lines; start the optimizer anew"
            )
        cut = line
    target = match.parameter
    dtype = target.dtype if value.dtype == source.dtype else value.dtype
    return cut.to(device=target.device, dtype=dtype, copy=True)
