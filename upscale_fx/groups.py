"""The dependency analysis: which layers' channels are tied to each other, as a graph that prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
from tabulate import tabulate
from torch import fx, nn

from upscale_fx.channels import Positions
from upscale_fx.consumers import Consumer, find_consumers
from upscale_fx.dataflow import Dataflow, analyse
from upscale_fx.layout import channel_ids, components
from upscale_fx.measure import shape_text
from upscale_fx.relations import Barrier, Contraction, Movement, Reduction, Source
from upscale_fx.report import holds_channels
from upscale_fx.trace import trace_model

_COLOURS = {"producer": "#4c72b0", "consumer": "#dd8452", "barrier": "#c44e52", "value": "#cccccc", "input": "#55a868"}


@dataclass
class Group:
    """Values whose channels are the same channels.

    Attributes:
        number: the group's number in the table.
        channels: how many channels it has.
        producers: what makes them (layers, inputs, concatenations).
        consumers: what contracts over them.
        barriers: what reads them all, in place.
        values: the values between, by node name.
    """

    number: int
    channels: int
    producers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    barriers: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)


class Groups(nx.DiGraph):  # type: ignore[type-arg]
    """The analysis as a DiGraph of node names.

    Nodes have ``kind`` (producer, consumer, barrier, value, input), ``shape``, ``module`` and ``group`` (the group of
    the channels they hold); edges lead from a value to what reads it. ``tied`` lists the groups.
    """

    tied: list[Group]

    def __str__(self) -> str:
        rows = [
            (g.number, g.channels, _lines(g.producers), _lines(g.consumers), _lines(g.barriers), len(g.values))
            for g in self.tied
        ]
        headers = ["group", "channels", "producers", "consumers", "barriers", "values"]
        return str(tabulate(rows, headers=headers, tablefmt="simple_grid"))

    def draw(self, path: str | Path) -> Path:
        """Draw the graph into an image file (.png, .svg, .pdf); needs matplotlib (``pip install upscale_fx[draw]``)."""
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
        except ImportError:
            raise ImportError("drawing needs matplotlib: pip install upscale_fx[draw]") from None
        for layer, names in enumerate(nx.topological_generations(self)):
            for name in names:
                self.nodes[name]["layer"] = layer
        place = nx.multipartite_layout(self, subset_key="layer")
        figure = Figure(figsize=(min(4 + 0.5 * len(self), 40), 7), layout="constrained")
        axes = figure.add_subplot()
        colours = [_COLOURS[self.nodes[name]["kind"]] for name in self]
        labels = {name: f"{name}\n{self.nodes[name]['shape']}" for name in self}
        nx.draw_networkx(
            self, place, ax=axes, node_color=colours, labels=labels, font_size=6, node_size=500, arrowsize=8
        )
        for kind, colour in _COLOURS.items():
            axes.scatter([], [], c=colour, label=kind)
        axes.legend(loc="upper left", fontsize=7)
        axes.set_axis_off()
        figure.savefig(path, dpi=150)
        return Path(path)


def groups(model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None) -> Groups:
    """The tied groups of a model: producers, consumers, barriers and the values between them.

    Args:
        model: a model or a traced graph.
        example_inputs: positional arguments of one call; see :func:`upscale_fx.trace`.
        example_kwargs: keyword arguments of one call.
    """
    return group_channels(analyse(trace_model(model, example_inputs, example_kwargs)))


def group_channels(flow: Dataflow) -> Groups:
    """Group the values of an analysed graph by shared channels."""
    ids = {node: own for node, own in channel_ids(flow).items() if _carries_channels(flow, node)}
    component = components(ids)
    numbers: dict[int, Group] = {}
    names = _consumer_names(find_consumers(flow))
    graph = Groups()
    for node, own in ids.items():
        root = component[int(own[0])]
        group = numbers.setdefault(root, Group(len(numbers), 0))
        kind = _kind(flow, node)
        label = _label(flow, node, names)
        (group.producers if kind in ("producer", "input", "barrier") else group.values).append(label)
        if kind not in ("producer", "input", "barrier"):
            group.values[-1] = node.name
        shape, module = shape_text(flow.axes[node]), node.meta.get("module", "")
        graph.add_node(node.name, kind=kind, shape=shape, module=module, group=group.number)
    for node in ids:
        relation = flow.relations[node]
        for source in relation.reads:
            if source not in ids:
                continue
            graph.add_edge(source.name, node.name)
            group = numbers[component[int(ids[source][0])]]
            if isinstance(relation, Contraction | Reduction):
                group.consumers.append(names.get(node, _label(flow, node, names)))
            elif isinstance(relation, Movement) and relation.how == "cat":
                group.consumers.append(f"{node.name} (cat)")
            elif isinstance(relation, Barrier) and holds_channels(flow, node, relation):
                group.barriers.append(f"{node.name} ({node.meta.get('source', '')})")
    for root, group in numbers.items():
        group.channels = sum(found == root for found in component.values())
        group.consumers, group.barriers = list(dict.fromkeys(group.consumers)), list(dict.fromkeys(group.barriers))
    graph.tied = [group for group in numbers.values() if group.channels > 1]
    return graph


def _carries_channels(flow: Dataflow, node: fx.Node) -> bool:
    value = flow.values[node][0]
    return hasattr(value, "is_floating_point") and bool(value.is_floating_point()) and len(flow.axes[node].sizes) > 0


def _kind(flow: Dataflow, node: fx.Node) -> str:
    relation = flow.relations[node]
    if isinstance(relation, Source):
        return "input"
    if isinstance(relation, Barrier):
        return "barrier"
    if isinstance(relation, Contraction | Reduction):
        return "producer"
    return "producer" if isinstance(relation, Movement) and relation.how in ("cat", "entry") else "value"


def _label(flow: Dataflow, node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    relation = flow.relations[node]
    if isinstance(relation, Contraction) and relation.weight.op == "get_attr":
        return str(relation.weight.target).removesuffix(".weight")
    return names.get(node, node.name)


def _consumer_names(consumers: list[Consumer]) -> dict[fx.Node, str]:
    return {site: consumer.name for consumer in consumers for site in consumer.sites}


def _lines(names: list[str]) -> str:
    shown = names[:6] + ([f"... {len(names) - 6} more"] if len(names) > 6 else [])
    return "\n".join(shown)


__all__ = ["Group", "Groups", "Positions", "group_channels", "groups"]
