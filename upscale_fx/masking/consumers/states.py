"""Consumers inside recurrent modules: the weights through which the next step, and the next layer, read the states."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from torch import fx, nn

from upscale_fx.analysis.barriers import held, why_states_stay
from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.analysis.stored import Cut
from upscale_fx.channels.positions import Mask, Positions
from upscale_fx.channels.recurrent import endings, line_count, recurrent_module
from upscale_fx.channels.relations.products import Recurrence
from upscale_fx.masking.consumers.consumer import Consumer
from upscale_fx.masking.consumers.readings import Operand, Reading

_UNFITTED = "what its weights multiply is inside a recurrent module"


def state_consumers(
    flow: Dataflow, ids: Mapping[fx.Node, Positions], homes: Positions, layers: Collection[fx.Node]
) -> Iterator[Consumer]:
    """One consumer for each layer and direction of every recurrent module whose states can be removed.

    It has the states that nothing but weights of layers reads. Where outputs of the model or barriers hold all states
    of one layer and direction, the module has one width and all states stay: it has no consumers.

    Args:
        flow: the analysed graph.
        ids: the channels of every value and of calls, through concatenations and recurrent modules.
        homes: the tensor of every channel.
        layers: the calls whose weights can be masked.
    """
    results: dict[fx.Node, list[tuple[fx.Node, Recurrence]]] = {}
    for node in flow.nodes:
        relation = flow.relations.get(node)
        if isinstance(relation, Recurrence) and relation.call in ids:
            results.setdefault(relation.call, []).append((node, relation))
    stays = {call: why_states_stay(flow, found[0][1]) for call, found in results.items()}
    if all(stays.values()):
        return
    known = held(flow, layers)
    held_states = {call: _held_states(found, known, len(ids[call])) for call, found in results.items()}
    for call, found in results.items():
        path = found[0][1].module
        free = ~np.logical_or.reduce([held_states[c] for c in results if c.target == call.target])
        module = recurrent_module(flow.module, path)
        lines = free.reshape(-1, module.hidden_size)
        if stays[call] or not lines.any(axis=1).all():
            continue
        for line, units in enumerate(map(np.flatnonzero, lines)):
            made = _consumer(path, module, found, line, units)
            made.channels = ids[call][line * module.hidden_size + units]
            # All layers are in one tensor, of which each is a block that loses as many as the others.
            made.homes = np.full(len(units), homes[ids[call][-1]])
            yield made


def _held_states(found: list[tuple[fx.Node, Recurrence]], known: Mapping[fx.Node, Mask], count: int) -> Mask:
    states = np.zeros(count, dtype=bool)
    for node, relation in found:
        assert relation.states is not None
        states[relation.states[known[node]]] = True
    return states


def _consumer(
    path: str, module: nn.RNNBase, found: list[tuple[fx.Node, Recurrence]], line: int, units: Positions
) -> Consumer:
    """The consumer of some states of one layer and direction."""
    ends, hidden = endings(module), module.hidden_size
    layer, direction = divmod(line, len(ends))
    columns = [(f"weight_hh_l{layer}{ends[direction]}", units)]
    if layer + 1 < module.num_layers:
        columns += [(f"weight_ih_l{layer + 1}{end}", direction * hidden + units) for end in ends]
    cuts = []
    for name, read in columns:
        rows, inputs = (int(size) for size in module.get_parameter(name).shape)
        entries = (np.arange(rows, dtype=np.int64) * inputs)[None] + read[:, None]
        cuts.append(Cut(f"{path}.{name}" if path else name, entries, (rows, inputs)))
    node, readings = _readings(found, line * hidden + units)
    blocks = np.full(len(units), line, dtype=np.int64) if line_count(module) > 1 else None
    every = np.ones(len(units), dtype=bool)
    return Consumer(
        cuts[0].target, "weight", [node], cuts, every, blocks, units,
        readings=readings, unfitted=_UNFITTED, recurrent=True,
    )  # fmt: skip


def _readings(found: list[tuple[fx.Node, Recurrence]], wanted: Positions) -> tuple[fx.Node, list[Reading]]:
    """A result that shows these states, with its reading; any result and none, if they stay inside the module."""
    for node, relation in found:
        assert relation.states is not None
        places = [np.flatnonzero(relation.states == state) for state in wanted.tolist()]
        if len(places[0]):
            return node, [Reading(node, (Operand(node, np.stack(places, axis=1)),))]
    return found[0][0], []
