"""Removes states of recurrent modules that nothing reads: each module is replaced by one with fewer units.

A state is read by what reads the results of the module, by the next step (a column of ``weight_hh``), and by the next
layer. Which states stay is the closure of the first under the others. Everything else in a module is one for each unit:
gates, biases, cells. A module has one width: every layer and direction keeps as many states as the one that keeps most.
The results of the smaller module are put where the states were, with zeros between, which compaction then removes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx, nn
from torch.fx.node import map_arg

from upscale_fx.analysis.barriers import why_states_stay
from upscale_fx.analysis.dataflow import Dataflow, needed, read_by_value
from upscale_fx.analysis.entries import analysed_with_entries, initial_levels
from upscale_fx.analysis.heads import head_blocks
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.recurrent import endings, line_count, recurrent_module
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.compacting.rewrite.origins import origin_of
from upscale_fx.compiled import functions
from upscale_fx.compiled.module import CompiledGNN, make_module, note, record_of


@dataclass(frozen=True)
class _Narrowing:
    """Which states a module keeps.

    Attributes:
        live: ``[layers * directions, H]``: which states something reads.
        kept: ``[layers * directions, K]``: the states that stay, in order; those that are not live make up the width.
    """

    live: Mask
    kept: Positions


def without_dead_states(gm: CompiledGNN) -> CompiledGNN:
    """A graph whose recurrent modules have only states that something reads; the graph itself if nothing changes."""
    while any(isinstance(module, nn.RNNBase) for module in gm.modules()):
        flow = analysed_with_entries(gm)
        found = _dead_states(flow)
        if not found:
            break
        gm = _narrowed(gm, flow, found)  # what made the states it lost may be dead now
    return gm


def _dead_states(flow: Dataflow) -> dict[str, _Narrowing]:
    """By the path of a module what it keeps, for all that have states to lose."""
    found = {}
    for path, live in _live_states(flow).items():
        width = max(int(live.sum(axis=1).max()), 1)
        if live.any() and width < live.shape[1]:
            found[path] = _Narrowing(live, np.stack([_widened(line, width) for line in live]))
    return found


def _live_states(flow: Dataflow) -> dict[str, Mask]:
    """By the path of a module the states that something reads, for all modules whose states may go.

    A module may read its own results, at a second call: to begin with nothing reads a state, and then what is read is
    followed until nothing is added.
    """
    results = {
        node: r for node, r in flow.relations.items() if isinstance(r, Recurrence) and not why_states_stay(flow, r)
    }
    modules = {relation.module: recurrent_module(flow.module, relation.module) for relation in results.values()}
    live = {path: np.zeros((line_count(module), module.hidden_size), dtype=bool) for path, module in modules.items()}
    levels = {node: level for node, level in initial_levels(flow).items() if node not in results}
    blocks, grown = head_blocks(flow), bool(results)
    while grown:
        reading = {
            node: replace(r, live=live[r.module].reshape(-1), columns=_columns(modules[r.module], live[r.module]))
            for node, r in results.items()
        }
        now = replace(flow, relations={**flow.relations, **reading})
        kept = needed(now, levels, blocks)
        before = {path: own.sum() for path, own in live.items()}
        for node, relation in results.items():
            assert relation.states is not None
            if node in kept:
                live[relation.module].reshape(-1)[relation.states[_asked(now, node, kept)]] = True
        live = {path: _closure(modules[path], own) for path, own in live.items()}
        grown = any(live[path].sum() > count for path, count in before.items())
    return live


def _asked(flow: Dataflow, node: fx.Node, kept: Mapping[fx.Node, Mask]) -> Mask:
    """The positions of a value that its readers need: none where they take only its rows, for which one is kept."""
    mask = np.zeros(flow.axes[node].count, dtype=bool)
    for user in node.users:
        if user.op == "output" or (user not in flow.axes and node in read_by_value(user, flow)):
            mask[:] = True
    for user, relation in flow.relations.items():
        if user not in kept or node not in relation.reads:
            continue
        if user.target is functions.entry:
            mask |= _asked(flow, user, kept)
            continue
        for source, wanted in relation.need(kept[user], flow.nonzero):
            if source is node:
                mask |= wanted
    return mask


def _columns(module: nn.RNNBase, live: Mask) -> Mask:
    """Which columns of the input weights live states of the first layer read."""
    columns = np.zeros(module.input_size, dtype=bool)
    for line, end in zip(live, endings(module), strict=False):
        columns |= _nonzero(module, f"weight_ih_l0{end}")[np.tile(line, _gates(module))].any(axis=0)
    return columns


def _gates(module: nn.RNNBase) -> int:
    return int(module.get_parameter("weight_hh_l0").shape[0]) // module.hidden_size


def _closure(module: nn.RNNBase, asked: Mask) -> Mask:
    """The states ``[layers * directions, H]`` that the asked ones read, over all steps, with themselves."""
    live, ends = asked.copy(), endings(module)
    for layer in reversed(range(module.num_layers)):
        below = np.zeros(len(ends) * module.hidden_size, dtype=bool)
        for direction, end in enumerate(ends):
            line = live[layer * len(ends) + direction]
            inner = _nonzero(module, f"weight_hh_l{layer}{end}")
            while True:
                reached = line | inner[np.tile(line, _gates(module))].any(axis=0)
                if np.array_equal(reached, line):
                    break
                line[:] = reached
            if layer:
                below |= _nonzero(module, f"weight_ih_l{layer}{end}")[np.tile(line, _gates(module))].any(axis=0)
        if layer:
            live[(layer - 1) * len(ends) : layer * len(ends)] |= below.reshape(len(ends), -1)
    return live


def _nonzero(module: nn.RNNBase, name: str) -> Mask:
    pattern: Mask = (module.get_parameter(name) != 0).cpu().numpy()
    return pattern


def _widened(live: Mask, width: int) -> Positions:
    """The live states of one layer and direction, and the first dead ones where these are fewer than ``width``."""
    free = np.flatnonzero(~live)[: width - int(live.sum())]
    return np.sort(np.concatenate([np.flatnonzero(live), free])).astype(np.int64)


def _narrowed(gm: CompiledGNN, flow: Dataflow, found: dict[str, _Narrowing]) -> CompiledGNN:
    new = copy.deepcopy(gm)
    nodes = {node.name: node for node in new.graph.nodes}
    results = {n: r for n, r in flow.relations.items() if isinstance(r, Recurrence) and r.module in found}
    for call, relation in {relation.call: relation for relation in results.values()}.items():
        others = [other.args[0] if other.target is functions.entry else other for other in relation.others]
        given = [nodes[other.name] for other in others if isinstance(other, fx.Node)]
        _cut_initial(nodes[call.name], given, found[relation.module].kept)
    for node, relation in results.items():  # initial states may be results too: they are read where the states were
        _place_states(nodes[node.name], relation, flow.axes[node].shape, found[relation.module])
    for path, narrowing in found.items():
        _cut_module(new, path, narrowing.kept)
    return make_module(new, new.graph, new.meta, gm.training)


def _cut_module(gm: CompiledGNN, path: str, kept: Positions) -> None:
    """Cut a recurrent module, in place, to some states, and note where its entries come from."""
    module = recurrent_module(gm, path)
    ends, gates, hidden = endings(module), _gates(module), module.hidden_size
    origins = dict(record_of(gm).origins)
    for line, units in enumerate(kept):
        layer, direction = divmod(line, len(ends))
        rows = np.concatenate([gate * hidden + units for gate in range(gates)])
        end, below = f"_l{layer}{ends[direction]}", kept[(layer - 1) * len(ends) : layer * len(ends)]
        columns = {f"weight_hh{end}": units}
        if layer:
            columns[f"weight_ih{end}"] = np.concatenate([d * hidden + own for d, own in enumerate(below)])
        for name in (f"weight_ih{end}", f"weight_hh{end}", f"bias_ih{end}", f"bias_hh{end}"):
            if name not in module._parameters:
                continue
            value = module.get_parameter(name)
            layout = np.arange(value.numel(), dtype=np.int64).reshape(tuple(value.shape))[rows]
            layout = layout[:, columns[name]] if name in columns else layout
            index = torch.from_numpy(layout.reshape(-1)).to(value.device)
            cut = value.detach().reshape(-1)[index].reshape(layout.shape)
            full = f"{path}.{name}" if path else name
            origins[full] = origin_of(gm, full).cut(layout)
            setattr(module, name, nn.Parameter(cut, requires_grad=value.requires_grad))
    module.hidden_size = int(kept.shape[1])
    note(gm, origins=origins)


def _cut_initial(call: fx.Node, others: list[fx.Node], kept: Positions) -> None:
    """Cut the initial states ``[layers * directions, .., H]`` of a call to the kept ones."""
    cut = {}
    for other in others:
        with call.graph.inserting_before(call):
            cut[other] = _by_line(other, kept, call)
    call.args = map_arg(call.args, lambda node: cut.get(node, node))
    call.kwargs = map_arg(call.kwargs, lambda node: cut.get(node, node))


def _place_states(node: fx.Node, relation: Recurrence, shape: tuple[int, ...], narrowing: _Narrowing) -> None:
    """Make the readers of a result read it through its states at their old places, zeros at those of dead ones."""
    assert relation.states is not None
    count, width = narrowing.live.shape[1], narrowing.kept.shape[1]
    places = np.full(narrowing.live.shape, -1, dtype=np.int64)
    for line, units in enumerate(narrowing.kept):
        places[line, units] = np.arange(width)
    places[~narrowing.live] = -1
    users = list(node.users)
    with node.graph.inserting_before(node.next):
        if len(np.unique(relation.states)) == places.size and shape[-1] == count and shape[0] == len(places):
            placed = _by_line(node, places, node)
        else:  # the outputs of the last layer, directions one after the other
            own = places[-(shape[-1] // count) :]
            shifted = np.where(own >= 0, own + width * np.arange(len(own))[:, None], -1)
            placed = _placed(node, shifted.reshape(-1), node)
    for user in users:
        user.replace_input_with(node, placed)


def _by_line(value: fx.Node, index: Positions, like: fx.Node) -> fx.Node:
    """Put channels of the last axis at other places, along every line of the first axis at those of this line."""
    if np.all(index == index[:1]):
        return _placed(value, index[0], like)
    lines = [value.graph.call_method("select", (value, 0, line)) for line in range(len(index))]
    parts = [_placed(line, own, like) for line, own in zip(lines, index, strict=True)]
    stacked = value.graph.call_function(torch.stack, (parts, 0))
    for made in (*lines, stacked):
        made.meta = {"module": like.meta.get("module", ""), "source": like.meta.get("source", "")}
    return stacked


def _placed(value: fx.Node, index: Positions, like: fx.Node) -> fx.Node:
    placed = value.graph.call_function(functions.place_channels, (value, tuple(index.tolist())))
    placed.meta = {"module": like.meta.get("module", ""), "source": like.meta.get("source", "")}
    return placed
