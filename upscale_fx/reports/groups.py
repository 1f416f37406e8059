"""The dependency analysis: which layers share channels, as a graph that prints and draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
from tabulate import tabulate
from torch import Tensor, fx, nn

from upscale_fx.analysis.barriers import holds_channels
from upscale_fx.analysis.dataflow import Dataflow, analyse
from upscale_fx.analysis.identity import channel_ids, components
from upscale_fx.analysis.row_symbols import shape_text
from upscale_fx.channels.relations import Barrier, Contraction, Movement, Reduction, Relation, Source
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.relations.products import Product, Recurrence
from upscale_fx.compiled.guards.failures import named_failures
from upscale_fx.masking.consumers.survey import find_consumers
from upscale_fx.tracing.stated_axes import StatedAxes
from upscale_fx.tracing.trace import trace_model

_COLOURS = {"layer": "#4c72b0", "concat": "#dd8452", "barrier": "#c44e52", "value": "#cccccc", "input": "#55a868"}


@dataclass
class TiedGroup:
    """Values that share the same channels.

    Attributes:
        number: the group's number in the table.
        channels: how many channels it has.
        producers: layers, inputs and concatenations that make them.
        consumers: layers that contract over them.
        barriers: calls that read all of them, in place.
        values: node names of the values between producers and consumers.
    """

    number: int
    channels: int
    producers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    barriers: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)


class Groups(nx.DiGraph):  # type: ignore[type-arg]
    """The analysis as a DiGraph of node names.

    Nodes have ``kind`` (input, layer, concat, barrier or value), ``shape``, ``module`` and ``group`` (the number of the
    group of their channels, None where there is one channel). Edges lead from a value to the nodes that read it.
    ``tied`` lists the groups.
    """

    tied: list[TiedGroup]

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


@named_failures
def groups(
    model: nn.Module,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_axes: Mapping[str, Any] | None = None,
    indices: Mapping[str, Any] | None = None,
    method: str = "forward",
) -> Groups:
    """The tied groups of a model: producers, consumers, barriers and the values between them.

    Args:
        model: a model or a traced graph.
        example_inputs: positional arguments of one call; see :func:`upscale_fx.trace`.
        example_kwargs: keyword arguments of one call.
        dynamic_axes: which axes of the examples count rows; see :func:`upscale_fx.trace`.
        indices: the rows that integers of the examples number; see :func:`upscale_fx.trace`.
        method: the method that is traced; see :func:`upscale_fx.trace`.
    """
    stated = StatedAxes(dynamic_axes, indices)
    traced = trace_model(model, example_inputs, example_kwargs, stated=stated, method=method)
    return group_channels(analyse(traced))


def group_channels(flow: Dataflow) -> Groups:
    """Group the values of an analysed graph by shared channels."""
    ids = {node: channels for node, channels in channel_ids(flow).items() if _is_floating(flow, node)}
    component = components(ids)
    sizes = Counter(component.tolist())
    consumers = find_consumers(flow)
    names = {site: consumer.name for consumer in reversed(consumers) for site in consumer.sites}
    tied: dict[int, TiedGroup] = {}
    graph = Groups()
    for node, channels in ids.items():
        root = int(component[channels[0]])
        kind, shape, module = _kind(flow.relations[node]), shape_text(flow.axes[node]), node.meta.get("module", "")
        graph.add_node(node.name, kind=kind, shape=shape, module=module, group=None)
        if sizes[root] > 1:
            group = tied.setdefault(root, TiedGroup(len(tied), sizes[root]))
            graph.nodes[node.name]["group"] = group.number
            if kind == "value":
                group.values.append(node.name)
            else:
                group.producers.append(_producer_name(flow.relations[node], node))
    for node in ids:
        for source in flow.relations[node].reads:
            if source in ids:
                graph.add_edge(source.name, node.name)
                _add_reader(tied.get(int(component[ids[source][0]])), flow, node, names)
    for consumer in consumers:
        if consumer.recurrent:  # it reads states inside of the module, where no node shows it
            shown = [value for reading in consumer.readings for value in reading.values]
            for root in {int(component[ids[value][0]]) for value in shown} & tied.keys():
                tied[root].consumers.append(consumer.name)
    graph.tied = list(tied.values())
    return graph


def _add_reader(group: TiedGroup | None, flow: Dataflow, node: fx.Node, names: Mapping[fx.Node, str]) -> None:
    """Add a node to the consumers or barriers of a group it reads."""
    relation = flow.relations[node]
    if group is None:
        return
    place = group.consumers
    if isinstance(relation, Contraction | Convolution | Reduction | Product | Recurrence):
        name = names.get(node) or _producer_name(relation, node)
    elif isinstance(relation, Movement) and relation.how == "cat":
        name = f"{node.name} (concat)"
    elif isinstance(relation, Barrier) and holds_channels(flow, relation):
        name, place = f"{node.name} ({node.meta.get('source', '')})", group.barriers
    else:
        return
    if name not in place:
        place.append(name)


def _is_floating(flow: Dataflow, node: fx.Node) -> bool:
    value = flow.values[node][0]
    return isinstance(value, Tensor) and value.is_floating_point()


def _kind(relation: Relation) -> str:
    if isinstance(relation, Source):
        return "input"
    if isinstance(relation, Barrier):
        return "barrier"
    if isinstance(relation, Contraction | Convolution | Reduction | Product | Recurrence):
        return "layer"
    return "concat" if isinstance(relation, Movement) and relation.how == "cat" else "value"


def _producer_name(relation: Relation, node: fx.Node) -> str:
    if isinstance(relation, Contraction | Convolution) and relation.weight.op == "get_attr":
        return str(relation.weight.target).removesuffix(".weight")
    return node.name


def _lines(names: list[str]) -> str:
    shown = names[:6] + ([f"... {len(names) - 6} more"] if len(names) > 6 else [])
    return "\n".join(shown)
