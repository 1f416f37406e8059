"""What a rule says is remembered per kind of call: it is what the rule would say, and nothing that counts is missed."""

import dataclasses
import operator

import numpy as np
import pytest
import torch
from torch import fx, nn

import upscale_fx
from tests import zoo
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.channels.relations import Barrier, Movement, Pointwise
from upscale_fx.channels.rules import remembered
from upscale_fx.channels.rules.registry import REGISTRY


def described(value, names):
    """A relation, or a part of one, in plain values: nodes by their names."""
    if isinstance(value, fx.Node):
        return ("node", names[value])
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(described(one, names) for one in value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return (type(value).__name__, *((name, described(one, names)) for name, one in fields.items()))
    return (type(value), value)


def relations_by_place(graph):
    """The relations of a graph, node by node, in plain values."""
    flow = analyse(graph)
    names = {node: place for place, node in enumerate(graph.graph.nodes)}
    return [described(flow.relations.get(node), names) for node in graph.graph.nodes]


def traced(model, **arguments):
    return upscale_fx.trace(model.eval(), example_kwargs=arguments or None)


class Calls(nn.Module):
    """A model of one function of a hidden value ``[N, 6]``."""

    def __init__(self, function):
        super().__init__()
        self.lin = nn.Linear(4, 6)
        self.function = function
        self.register_buffer("pick", torch.tensor([1, 4]))

    def forward(self, x, edge_index):
        return self.function(self.lin(x), self)


def relation(function, target):
    graph = traced(Calls(function))
    flow = analyse(graph)
    return next(flow.relations[node] for node in reversed(graph.graph.nodes) if node.target in target)


MODELS = ["gcn", "gatv2-shared", "jk-cat", "pool-max", "glu-function", "linear-twice", "norm-size"]


@pytest.mark.parametrize("name", MODELS)
def test_relations_from_memory_are_those_that_rules_give(name):
    entry = zoo.ZOO[name]
    graph = upscale_fx.trace(zoo.make(name), example_kwargs=entry.example())
    remembered.forget()
    asked = relations_by_place(graph)
    assert relations_by_place(graph) == asked


def test_rules_are_asked_once_for_layers_that_are_alike(monkeypatch):
    asked = []
    for call, rule in list(REGISTRY.items()):
        if rule.__module__.startswith("upscale_fx."):

            def counting(op, rule=rule):
                asked.append(op.name)
                return rule(op)

            counting.__module__ = rule.__module__
            monkeypatch.setitem(REGISTRY, call, counting)
    counts = []
    for layers in (3, 12):
        graph = traced(nn_of_layers(layers))
        remembered.forget()
        asked.clear()
        analyse(graph)
        counts.append(len(asked))
        asked.clear()
        analyse(graph)
        assert not asked
    assert counts[0] == counts[1]


def nn_of_layers(layers):
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))

        def forward(self, x, edge_index):
            for layer in self.layers:
                x = layer(x).relu() + x
            return x

    return Stack()


def test_numbers_of_an_index_count():
    graph = traced(Calls(lambda x, m: x.index_select(1, m.pick)))
    node = next(node for node in graph.graph.nodes if node.target == "index_select")
    before = analyse(graph).relations[node]
    with torch.no_grad():
        graph.get_buffer("pick").copy_(torch.tensor([5, 0]))
    after = analyse(graph).relations[node]
    assert before.flows[0].index.tolist() == [1, 4]
    assert after.flows[0].index.tolist() == [5, 0]


def test_types_and_signs_of_constants_count():
    assert relation(lambda x, m: x.clamp(min=0.0), ["clamp"]).zero == "all"
    assert relation(lambda x, m: x.clamp(min=0.5), ["clamp"]).zero == "never"
    assert relation(lambda x, m: x + 0, [torch.add, operator.add]).zero == "all"
    assert relation(lambda x, m: x + True, [torch.add, operator.add]).zero == "never"
    assert relation(lambda x, m: x / 2.0, [torch.div, operator.truediv]).zero == "all"
    assert relation(lambda x, m: 2.0 / x, [torch.div, operator.truediv, torch.reciprocal]).zero == "never"


def test_which_operands_are_the_same_counts():
    class Cat(nn.Module):
        def __init__(self, same):
            super().__init__()
            self.one, self.other, self.same = nn.Linear(4, 6), nn.Linear(4, 6), same

        def forward(self, x, edge_index):
            one = self.one(x)
            return torch.cat([one, one if self.same else self.other(x)], dim=-1)

    kinds = []
    for same in (False, True, False):
        graph = traced(Cat(same))
        flow = analyse(graph)
        kinds.append(type(next(flow.relations[node] for node in graph.graph.nodes if node.target is torch.cat)))
    assert kinds == [Movement, Barrier, Movement]


def test_rules_of_users_are_asked_every_time(monkeypatch):
    """They may look at whatever they like."""
    answers = iter([None, "per channel", None])

    def rule(op):
        return upscale_fx.rules.per_channel(op) if next(answers) else None

    monkeypatch.setitem(REGISTRY, "exp", rule)
    graph = traced(Calls(lambda x, m: x.exp()))
    node = next(node for node in graph.graph.nodes if node.target == "exp")
    kinds = [type(analyse(graph).relations[node]) for _ in range(3)]
    assert kinds == [Barrier, Pointwise, Barrier]


def test_another_rule_for_the_same_operation_is_asked(monkeypatch):
    graph = traced(Calls(lambda x, m: x.tanh()))
    node = next(node for node in graph.graph.nodes if node.target in ("tanh", torch.tanh))
    assert isinstance(analyse(graph).relations[node], Pointwise)
    monkeypatch.delitem(REGISTRY, node.target)
    assert isinstance(analyse(graph).relations[node], Barrier)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(remembered, "MOST_BYTES", 5000)
    graph = traced(nn_of_layers(3))
    remembered.forget()
    assert relations_by_place(graph) == relations_by_place(graph)
