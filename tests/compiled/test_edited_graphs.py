"""Graphs that were changed by hand after compaction: used as they are, or refused by name, and never as they were."""

import copy
import pickle

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import assert_same
from tests.compiled.edits import (
    CHANGES,
    NOTHING,
    UNUSABLE,
    WEIGHTS,
    compacted,
    fused,
    output,
    scale_output,
)
from tests.selection import every

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(40, 16, generator=DRAW, dtype=torch.float64)
EDGES = torch.randint(40, (2, 160), generator=DRAW)
REFUSED = upscale_fx.EditedGraphError


#: Calls that take a graph and give one that computes the same.
EXACT = {
    "compact": upscale_fx.compact,
    "optimize": upscale_fx.optimize,
    "for inference": lambda gm: upscale_fx.optimize(gm, inference=True),
    "prune nothing": lambda gm: upscale_fx.prune(gm, 0.0),
    "trace": upscale_fx.trace,
    "mask nothing": lambda gm: upscale_fx.mask(gm, 0.0),
}
#: Calls that look at a graph, or prune it.
OTHERS = {
    "prune": lambda gm: upscale_fx.prune(gm, 0.5),
    "mask": lambda gm: upscale_fx.mask(gm, 0.5),
    "steps": lambda gm: upscale_fx.prune(gm, 0.5, steps=2),
    "budget": lambda gm: upscale_fx.prune(gm, budget=upscale_fx.Budget(params=0.7)),
    "report": upscale_fx.report,
    "groups": upscale_fx.groups,
    "diff": lambda gm: upscale_fx.diff(compacted(), gm),
    "diff of fused": lambda gm: upscale_fx.diff(fused(), gm),
    "cost": lambda gm: upscale_fx.cost_per_node(gm, degree=3),
}


def edited(gm, change):
    """A copy of a graph with a change."""
    new = copy.deepcopy(gm)
    change(new)
    new.graph.lint()
    new.recompile()
    return new


def again(gm):
    """A graph from a pickle."""
    return pickle.loads(pickle.dumps(gm))


@pytest.mark.parametrize("change", every(3, CHANGES))
def test_graphs_that_are_not_fused_are_used_with_the_change(change):
    graph = edited(compacted(), change)
    expected = graph(X, EDGES)
    assert not torch.allclose(expected, compacted()(X, EDGES)), "the change counts"
    for name, call in EXACT.items():
        for held in (graph, again(graph), copy.deepcopy(graph)):
            assert_same(expected, call(held)(X, EDGES), 1e-9, name)
    masked = upscale_fx.mask(graph, 0.5)
    assert_same(masked(X, EDGES), upscale_fx.prune(graph, 0.5)(X, EDGES), 1e-9)


@pytest.mark.parametrize("change", every(3, CHANGES))
def test_fused_graphs_are_refused_by_the_names_of_the_nodes(change):
    graph = edited(fused(), change)
    expected = graph(X, EDGES)
    for held in (graph, again(graph), copy.deepcopy(graph), edited(again(fused()), change)):
        assert_same(expected, held(X, EDGES), 0.0)
        assert upscale_fx.verify(graph, held, (X, EDGES)) == 0
        for call in EXACT.values():
            with pytest.raises(REFUSED, match=r"changed by hand: node '\w+' was (added|changed|removed).*optimize"):
                call(held)


@pytest.mark.parametrize("name", OTHERS)
def test_every_call_that_reads_the_graph_from_before_fusing(name):
    with pytest.raises(REFUSED, match="node 'mul' was added, node 'output' was changed"):
        OTHERS[name](edited(fused(), scale_output))
    if name != "diff of fused":
        OTHERS[name](edited(compacted(), scale_output))


def test_fused_graphs_are_trained_and_prepared_with_the_change():
    graph = edited(fused(), scale_output)
    with torch.no_grad():
        prepared = upscale_fx.prepare(graph, EDGES, num_nodes=40)
    assert_same(graph(X, EDGES), graph(X, prepared))
    before = graph(X, EDGES).detach()
    upscale_fx.finetune(graph, (X, EDGES), lambda y, batch: y.square().sum(), epochs=3, lr=0.01, progress=False)
    assert graph(X, EDGES).detach().square().sum() < before.square().sum()


@pytest.mark.parametrize("make", [compacted, fused])
@pytest.mark.parametrize("change", every(6, WEIGHTS))
def test_other_weights_and_modules_are_used(make, change):
    graph = edited(make(), change)
    expected = graph(X, EDGES)
    assert not torch.allclose(expected, make()(X, EDGES))
    for name, call in EXACT.items():
        for held in (graph, again(graph)):
            assert_same(expected, call(held)(X, EDGES), 1e-9, name)


@pytest.mark.parametrize("make", [compacted, fused])
@pytest.mark.parametrize("change", NOTHING)
def test_what_changes_nothing_is_no_reason_to_refuse(make, change):
    graph = edited(make(), change)
    for call in (upscale_fx.compact, upscale_fx.optimize):
        assert_same(make()(X, EDGES), call(graph)(X, EDGES), 1e-9)
    upscale_fx.report(again(graph))


class Dropped(nn.Module):
    """A dropout layer that a fused graph for inference does not call, nor the attention that it lost."""

    def __init__(self):
        super().__init__()
        self.first, self.dropout, self.second = nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x, edge_index):
        x = self.dropout(self.first(x).relu())
        return self.second(x.index_add(0, edge_index[1], x[edge_index[0]]))


@pytest.mark.parametrize("inference", [False, True])
def test_unused_modules_of_fused_graphs(inference):
    graph = upscale_fx.optimize(Dropped().double().eval(), inference=inference)
    graph.delete_all_unused_submodules()
    assert_same(graph(X, EDGES), upscale_fx.prune(again(graph), 0.0)(X, EDGES))


@pytest.mark.parametrize("make", [compacted, fused])
@pytest.mark.parametrize("change", UNUSABLE)
def test_what_no_graph_is_analysed_with_is_named(make, change):
    graph = copy.deepcopy(make())
    change(graph)
    for call in (*EXACT.values(), upscale_fx.report):
        with pytest.raises(REFUSED, match=UNUSABLE[change]):
            call(graph)


def test_the_structure_half_counts():
    graph = copy.deepcopy(fused())
    part = graph.structure.parts[0].graph
    last = output(part.graph)
    with part.graph.inserting_before(last):
        flipped = part.graph.call_method("flip", (last.args[0][0], 0))
    last.args = ((flipped, *last.args[0][1:]),)
    part.recompile()
    assert not torch.allclose(graph(X, EDGES), fused()(X, EDGES))
    for held in (graph, again(graph)):
        with pytest.raises(REFUSED, match=r"node 'structure\.parts\.0\.graph: flip' was added"):
            upscale_fx.compact(held)
    graph.structure = nn.Identity()
    with pytest.raises(REFUSED, match="was removed"):
        upscale_fx.compact(graph)


def test_the_way_out():
    """Change the graph from before fusing, then fuse it."""
    graph = upscale_fx.compact(fused())
    scale_output(graph)
    graph.recompile()
    assert_same(2 * fused()(X, EDGES), upscale_fx.optimize(graph)(X, EDGES), 1e-9)
