"""Graphs whose code is made when it is needed: nobody who calls or prints them can tell."""

import copy
import inspect
import pickle

import pytest
import torch

import upscale_fx
from tests import zoo
from upscale_fx.compiled.deferred_code import code_when_called


@pytest.fixture
def graph():
    return upscale_fx.trace(zoo.make("gcn"))


def inputs():
    return zoo.ZOO["gcn"].inputs(9, 20)


def test_code_is_that_of_the_graph(graph):
    with code_when_called():
        copied = copy.deepcopy(graph)
    assert copied.code == graph.code
    assert str(copied) == str(graph)


def test_the_first_call_makes_the_code(graph):
    with code_when_called():
        copied = copy.deepcopy(graph)
    for _ in range(2):
        assert torch.equal(copied(**inputs()), graph(**inputs()))


def test_a_graph_called_before_it_is_edited_is_made_again(graph):
    with code_when_called():
        copied = copy.deepcopy(graph)
        before = copied(**inputs())
        output = next(node for node in copied.graph.nodes if node.op == "output")
        with copied.graph.inserting_before(output):
            output.args = (copied.graph.call_function(torch.neg, (output.args[0],)),)
        copied.recompile()
    assert torch.equal(copied(**inputs()), -before)


def test_without_it_code_is_made_at_once(graph):
    assert "edge_index" in inspect.signature(copy.deepcopy(graph).forward).parameters


@pytest.mark.parametrize("call", ["prune", "compact", "optimize"])
def test_what_users_get_has_its_code(call):
    model = zoo.make("gcn")
    options = {"prune": {"amount": 0.5}, "compact": {}, "optimize": {"inference": True}}[call]
    found = getattr(upscale_fx, call)(model, **options)
    assert "edge_index" in inspect.signature(found.forward).parameters


def test_graphs_that_a_callback_sees_can_be_called():
    seen = []
    upscale_fx.prune(zoo.make("gcn"), 0.5, callback=lambda one, before, after: seen.append(after(**inputs())))
    assert len({value.shape for value in seen}) == 1


def test_a_graph_without_code_can_be_pickled(graph):
    with code_when_called():
        copied = copy.deepcopy(graph)
    assert torch.equal(pickle.loads(pickle.dumps(copied))(**inputs()), graph(**inputs()))
