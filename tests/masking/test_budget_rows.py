"""Budgets where rows are of many kinds, or depend on values: heterogeneous, bipartite and pooled models."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn import GraphConv, HeteroConv, SAGEConv, SAGPooling, global_max_pool, global_mean_pool

import upscale_fx
from tests.comparison import parameters
from tests.selection import only
from upscale_fx import Budget
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.analysis.size import size_of
from upscale_fx.compiled.module import inputs_of
from upscale_fx.masking.allocation.call_rows import rows_in_call

pytestmark = pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")

EDGES = [("user", "buys", "item"), ("item", "sold", "user"), ("user", "knows", "user")]


class Shop(nn.Module):
    """Two layers on two kinds of nodes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = self.layer(10, 6), self.layer(32, 32)
        self.heads = nn.ModuleDict({"user": nn.Linear(32, 5), "item": nn.Linear(32, 5)})

    def layer(self, users, items):
        sizes = {"user": users, "item": items}
        return HeteroConv({edge: SAGEConv((sizes[edge[0]], sizes[edge[2]]), 32) for edge in EDGES})

    def forward(self, x_dict, edge_index_dict):
        x = {name: value.relu() for name, value in self.first(x_dict, edge_index_dict).items()}
        x = self.second(x, edge_index_dict)
        return {name: head(x[name].relu()) for name, head in self.heads.items()}


class Sides(nn.Module):
    """Every row is one of two kinds, given as a pair."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = SAGEConv((12, 7), 32), SAGEConv((12, 32), 32), nn.Linear(32, 5)

    def forward(self, x, edge_index):
        h = self.first(x, edge_index).relu()
        return self.head(self.second((x[0], h), edge_index).relu())


class Pooled(nn.Module):
    """Half of the nodes stay, whichever score best; both stages are read out."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.pool = GraphConv(16, width), SAGPooling(width, 0.5)
        self.second, self.head = GraphConv(width, width), nn.Linear(4 * width, 5)

    def forward(self, x, edge_index, batch):
        x = self.first(x, edge_index).relu()
        read = [global_max_pool(x, batch), global_mean_pool(x, batch)]
        x, edge_index, _, batch, _, _ = self.pool(x, edge_index, None, batch)
        x = self.second(x, edge_index).relu()
        return self.head(torch.cat([*read, global_max_pool(x, batch), global_mean_pool(x, batch)], dim=-1))


def shop(users, items):
    count = {"user": users, "item": items}
    features = {"user": torch.randn(users, 10), "item": torch.randn(items, 6)}
    ends = {edge: (count[edge[0]], count[edge[2]]) for edge in EDGES}
    return features, {edge: torch.stack([torch.randint(n, (600,)) for n in pair]) for edge, pair in ends.items()}


def sides():
    edge_index = torch.stack([torch.randint(200, (700,)), torch.randint(90, (700,))])
    return (torch.randn(200, 12), torch.randn(90, 7)), edge_index


def pooled(graphs=10, nodes=30):
    edges = torch.cat([torch.randint(nodes, (2, 4 * nodes)) + nodes * graph for graph in range(graphs)], dim=1)
    return torch.randn(graphs * nodes, 16), edges, torch.arange(graphs).repeat_interleave(nodes)


def multiply_adds(model, arguments):
    """Of all products, as torch counts them while the model runs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*arguments)
    return counter.get_total_flops() / 2


def made(model, arguments):
    torch.manual_seed(0)
    return model().eval(), arguments()


@pytest.mark.parametrize("name", only(["shop"], ["shop", "many items", "many users", "sides", "pooled"]))
def test_multiply_adds_of_all_kinds_of_rows_count(name):
    cases = {
        "shop": (Shop, lambda: shop(300, 300)),
        "many items": (Shop, lambda: shop(100, 1000)),
        "many users": (Shop, lambda: shop(1000, 100)),
        "sides": (Sides, sides),
        "pooled": (Pooled, pooled),
    }
    model, arguments = made(*cases[name])
    dense = multiply_adds(model, arguments)
    options = {"example_inputs": arguments, "progress": False}
    for budget, asked in ((Budget(macs=0.4), 0.4 * dense), (Budget(macs=dense // 4), dense // 4)):
        masked = upscale_fx.mask(model, budget=budget, calibration=arguments, **options)
        left = multiply_adds(upscale_fx.compact(masked, example_inputs=arguments), arguments)
        assert 0.93 * asked <= left <= 1.02 * asked


@pytest.mark.parametrize(("model", "arguments"), [(Shop, lambda: shop(70, 400)), (Sides, sides), (Pooled, pooled)])
def test_rows_of_a_call_are_those_that_run(model, arguments):
    model, arguments = made(model, arguments)
    traced = upscale_fx.trace(model, arguments)
    flow = analyse(traced)
    names = list(inputs_of(traced).arguments)
    rows = rows_in_call(flow, dict(zip(names, arguments, strict=True)))
    assert rows.multiply_adds(size_of(traced, flow)) == multiply_adds(model, arguments)


@pytest.mark.slow
def test_a_branch_that_ends_is_seen_to_end():
    """Without the last channel of the second stage, pooling and all that only it needs is gone."""
    model, arguments = made(Pooled, pooled)
    dense = parameters(model)
    for share in (0.4, 0.35, 0.3, 0.25, 0.2, 0.15):
        compiled = upscale_fx.prune(model, budget=Budget(params=share), calibration=arguments, progress=False)
        assert 0.95 * share * dense <= parameters(compiled) <= 1.02 * share * dense


def test_a_sweep_counts_nodes_of_all_kinds():
    model, arguments = made(Shop, lambda: shop(70, 400))
    options = {"timed": False, "progress": False}
    found = upscale_fx.sweep(model, [0.5], lambda one: 1.0, example_inputs=arguments, **options)
    assert found.rows[0].macs_per_node == pytest.approx(multiply_adds(model, arguments) / 470)
    assert not found.rows[0].note
