"""What people read of a model's channels: groups, printed, as data and drawn."""

import re

import networkx as nx
import pytest
from torch import nn
from torch_geometric.nn import LayerNorm

import upscale_fx
from tests.networks import Residual
from tests.reports.read_models import FAMILIES, Normalised, families, tiny
from upscale_fx.models import JKNet


def group_of(groups, producer):
    (found,) = [group for group in groups.tied if producer in group.producers]
    return found


def test_a_residual_network_is_one_group():
    groups = upscale_fx.groups(Residual(4, 8, 2))
    group = group_of(groups, "stem")
    assert group.channels == 8
    assert set(group.producers) == {"stem", "convs.0.lin", "convs.1.lin"}
    assert set(group.consumers) == {"convs.0.lin", "convs.1.lin", "head"}
    assert not group.barriers
    assert {groups.nodes[name]["group"] for name in group.values} == {group.number}


def test_layers_joined_by_concatenation_stay_groups_of_their_own():
    groups = upscale_fx.groups(JKNet(4, 8, 2))
    first, second, last = (group_of(groups, f"convs.{n}.lin") for n in range(3))
    assert len({first.number, second.number, last.number}) == 3
    assert (first.channels, second.channels, last.channels) == (8, 8, 8)
    assert first.consumers == ["convs.1.lin", "cat (concat)"]
    assert last.consumers == ["cat (concat)"]
    joined = group_of(groups, "cat")
    assert (joined.channels, joined.consumers) == (24, ["lin"])


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(8), LayerNorm(8, mode="node"), LayerNorm(8, mode="graph")],
    ids=["torch", "node", "graph"],
)
def test_a_barrier_is_in_the_group_it_holds(norm):
    groups = upscale_fx.groups(Normalised(norm))
    assert group_of(groups, "convs.0.lin").barriers
    assert not group_of(groups, "convs.1.lin").barriers


@pytest.mark.slow
def test_every_consumer_that_can_be_masked_is_in_a_group():
    for build in FAMILIES.values():
        model = build(4, 8, 2)
        found = {name for group in upscale_fx.groups(model).tied for name in group.consumers}
        names = [e.name for e in upscale_fx.report(upscale_fx.compact(model)).entries]
        assert set(names) <= found


@families
def test_groups_are_an_acyclic_digraph(family):
    groups = upscale_fx.groups(FAMILIES[family](4, 8, 2))
    assert isinstance(groups, nx.DiGraph)
    assert nx.is_directed_acyclic_graph(groups)
    assert "x" in groups
    assert {data["kind"] for _, data in groups.nodes(data=True)} <= {
        "layer",
        "concat",
        "barrier",
        "value",
        "input",
    }
    assert all(re.fullmatch(r"\[.*\]", data["shape"]) for _, data in groups.nodes(data=True))
    reached = nx.descendants(groups, "x")
    assert {name for name, data in groups.nodes(data=True) if data["kind"] == "producer"} <= reached


def test_groups_of_a_graph_are_those_of_its_model():
    model = Residual(4, 8, 2)
    assert str(upscale_fx.groups(model)) == str(upscale_fx.groups(upscale_fx.trace(model)))


def test_groups_copy_as_networkx_graphs_do():
    groups = upscale_fx.groups(tiny())
    assert nx.ancestors(groups, "linear_2") >= {"x", "relu"}
    assert groups.subgraph(["x", "linear"]).number_of_nodes() == 2
    assert groups.reverse().has_edge("linear", "scatter")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_groups_draw_a_picture(tmp_path, suffix):
    path = upscale_fx.groups(Residual(4, 8, 2)).draw(tmp_path / f"groups{suffix}")
    assert path == tmp_path / f"groups{suffix}"
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<svg" in path.read_bytes()
