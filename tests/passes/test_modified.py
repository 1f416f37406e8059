"""A pass that finds nothing to do hands back the very module it was given, and says so."""

import copy

import pytest
import torch
from torch.nn import Linear, Module

import upscale_fx
from upscale_fx import passes
from upscale_fx.passes.base import edited

EVERY_PASS = {
    name: getattr(passes, name)
    for name in sorted(set(passes.__all__) - {"Pass", "Pipeline", "check_invariants", "CastPrecision"})
}


class Sigmoid(Module):
    """Nothing in it can be removed, fused or overwritten."""

    def forward(self, x, edge_index):
        return torch.sigmoid(x)


class Layered(Module):
    """Here most passes have something to do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Linear(4, 8), Linear(8, 2)

    def forward(self, x, edge_index):
        hidden = torch.zeros_like(x).index_add_(0, edge_index[1], x[edge_index[0]])
        return self.second(torch.dropout(self.first(hidden).relu(), 0.5, self.training)) + x[:, :2]


@pytest.fixture(scope="module")
def idle():
    return upscale_fx.trace(Sigmoid(), (torch.randn(5, 4), torch.tensor([[0, 1], [1, 2]])))


@pytest.fixture(scope="module")
def layered():
    torch.manual_seed(0)
    return upscale_fx.trace(upscale_fx.mask(Layered(), 0.5))


@pytest.mark.parametrize("one", EVERY_PASS.values(), ids=EVERY_PASS)
def test_where_there_is_nothing_to_do_the_module_itself_comes_back(one, idle):
    result = one()(idle)
    assert not result.modified
    assert result.graph_module is idle


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_so_it_does_where_nothing_is_cast(dtype):
    class Counted(Module):
        def forward(self, x, edge_index):
            return edge_index[0] + 1

    traced = upscale_fx.trace(Counted(), (torch.randn(5, 4), torch.tensor([[0, 1], [1, 2]])))
    result = passes.CastPrecision(dtype)(traced)
    assert result.modified is (result.graph_module is not traced)


@pytest.mark.parametrize("one", EVERY_PASS.values(), ids=EVERY_PASS)
def test_the_module_comes_back_iff_it_was_not_modified(one, layered):
    result = one()(layered)
    assert result.modified is (result.graph_module is not layered)
    again = one()(result.graph_module)
    assert not again.modified
    assert again.graph_module is result.graph_module


def test_an_edit_that_changed_nothing_is_thrown_away(layered):
    before = copy.deepcopy(layered.meta)

    def edit(new):
        new.meta["seen"] = True
        new.graph.call_function(torch.sigmoid, (next(iter(new.graph.nodes)),))
        return 0

    nodes = len(layered.graph.nodes)
    result = edited(layered, edit)
    assert result.graph_module is layered
    assert layered.meta.keys() == before.keys()
    assert len(layered.graph.nodes) == nodes


def test_an_edit_leaves_no_dead_nodes_and_may_write_meta(layered):
    def edit(new):
        new.meta["seen"] = True
        with new.graph.inserting_after(next(iter(new.graph.nodes))):
            new.graph.call_function(torch.sigmoid, (next(iter(new.graph.nodes)),))
        return True

    result = edited(layered, edit)
    assert result.modified
    assert result.graph_module.meta["seen"]
    assert "seen" not in layered.meta
    assert len(result.graph_module.graph.nodes) == len(layered.graph.nodes)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["traced", "optimized"])
def test_optimize_never_hands_out_what_it_was_given_nor_its_parameters(inference, again, layered):
    given = upscale_fx.optimize(layered) if again else layered
    meta = set(given.meta)
    found = upscale_fx.optimize(given, inference=inference)
    assert found is not given
    assert set(given.meta) == meta
    held = {value.data_ptr() for value in given.parameters()}
    assert held.isdisjoint(value.data_ptr() for value in found.parameters())
    cleaned = upscale_fx.optimize(upscale_fx.optimize(given), inference=inference)
    assert held.isdisjoint(value.data_ptr() for value in cleaned.parameters())


def test_compact_never_hands_out_what_it_was_given_nor_its_parameters(layered):
    smaller = upscale_fx.compact(layered)
    again = upscale_fx.compact(smaller)
    assert again is not smaller
    assert {v.data_ptr() for v in smaller.parameters()}.isdisjoint(v.data_ptr() for v in again.parameters())
