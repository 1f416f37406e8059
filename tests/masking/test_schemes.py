"""Which channels a pruning scheme may take: hidden ones, or raw features that come from neighbours."""

import numpy as np
import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.networks import Stack
from tests.selection import every
from tests.zoo import INPUT, ZOO, make
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.errors import NothingToPruneError, PatternError
from upscale_fx.masking.consumers.schemes import SCHEMES, eligible_channels
from upscale_fx.masking.consumers.survey import survey


def eligible(model, scheme, **example):
    """Per consumer the eligible channels as a list."""
    flow = analyse(upscale_fx.trace(model, **example))
    masks = eligible_channels(flow, survey(flow), scheme)
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def some(model, scheme, **example):
    """Only the consumers that lose something, with how many channels."""
    return {name: len(found) for name, found in eligible(model, scheme, **example).items() if found}


def two(conv, **options):
    return Stack(conv(INPUT, 8, **options), conv(8, 5, **options))


def example():
    return {"example_inputs": (torch.randn(9, INPUT), torch.randint(9, (2, 22)))}


def test_full_takes_hidden_channels_and_no_raw_ones():
    assert some(two(gnn.SAGEConv), "full") == {"convs.1.lin_l": 8, "convs.1.lin_r": 8}


def test_full_takes_the_hidden_part_of_what_a_classifier_reads():
    model = make("raw-and-hidden")  # convolutions read 12 raw and 16 hidden channels, the classifier those and 16 more
    assert some(model, "full") == {"second.lin_l": 16, "second.lin_r": 16, "leave": 32}


def test_batched_takes_raw_features_of_the_neighbour_branch():
    assert some(two(gnn.SAGEConv), "batched") == {"convs.0.lin_l": INPUT}


@pytest.mark.parametrize(
    ("model", "neighbours"),
    [
        (two(gnn.SAGEConv, project=True), {"convs.0.lin"}),
        (two(gnn.GCNConv), {"convs.0.lin"}),
        (two(gnn.GATConv), {"convs.0.lin"}),
        (two(gnn.GATConv, residual=True), {"convs.0.lin"}),
        (two(gnn.GATv2Conv), {"convs.0.lin_l"}),
        (two(gnn.GATv2Conv, share_weights=True), {"convs.0.lin_l"}),
        (two(gnn.GraphConv), {"convs.0.lin_rel"}),
        (two(gnn.TransformerConv), {"convs.0.lin_key", "convs.0.lin_value"}),
        (two(gnn.TAGConv, K=2), {"convs.0.lins.1", "convs.0.lins.2"}),
        (two(gnn.SGConv, K=2), {"convs.0.lin"}),
        (two(gnn.ChebConv, K=2), {"convs.0.lins.1"}),
        (Stack(gnn.GINConv(nn.Linear(INPUT, 8)), gnn.GINConv(nn.Linear(8, 5))), {"convs.0.nn"}),
    ],
)
def test_batched_tells_neighbour_branches_from_self_branches(model, neighbours):
    assert some(model, "batched", **example()) == dict.fromkeys(neighbours, INPUT)


def test_own_and_neighbours_columns_of_one_layer_are_told_apart():
    model = gnn.EdgeConv(nn.Linear(2 * INPUT, 5))  # reads x_i and x_j - x_i
    assert eligible(model, "batched", **example()) == {"nn": list(range(INPUT, 2 * INPUT))}


def test_a_raw_part_beside_hidden_channels_is_taken_alone():
    found = eligible(make("raw-and-hidden"), "batched")
    assert (len(found["first.lin_l"]), len(found["second.lin_l"])) == (INPUT, INPUT)
    assert found["second.lin_r"] == found["first.lin_r"] == found["leave"] == []


def test_names_and_order_say_nothing():
    class Swapped(nn.Module):
        """SAGE with the names of its branches exchanged, both called by keyword from outside a PyG layer."""

        def __init__(self):
            super().__init__()
            self.lin_r, self.lin_l, self.mean = nn.Linear(INPUT, 5), nn.Linear(INPUT, 5), gnn.SimpleConv(aggr="mean")

        def forward(self, h, adj):
            return self.lin_l(h) + self.lin_r(self.mean(h, adj))

    assert some(Swapped(), "batched", **example()) == {"lin_r": INPUT}


def test_a_layer_before_the_aggregation_is_the_neighbour_branch_only_if_nodes_do_not_read_it_too():
    class Early(nn.Module):
        def __init__(self, both):
            super().__init__()
            self.both, self.lin, self.skip = both, nn.Linear(INPUT, 5), nn.Linear(INPUT, 5)
            self.sum = gnn.SimpleConv(aggr="sum")

        def forward(self, x, edge_index):
            h = self.lin(x)
            aggregated = self.sum(h, edge_index) + self.skip(x)
            return aggregated + h if self.both else aggregated

    assert some(Early(both=False), "batched", **example()) == {"lin": INPUT}
    with pytest.raises(NothingToPruneError, match=r"raw features that come from neighbours.*consumers: lin, skip"):
        some(Early(both=True), "batched", **example())


def test_an_encoder_of_the_nodes_leaves_nothing_for_batched():
    model = Stack(gnn.SAGEConv(8, 8), gnn.SAGEConv(8, 5), stem=nn.Linear(INPUT, 8))
    with pytest.raises(NothingToPruneError, match="a layer on the nodes themselves comes before"):
        some(model, "batched", **example())


def test_a_shared_layer_is_in_the_neighbour_branch_if_one_of_its_calls_is():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.mean = nn.Linear(INPUT, 5), gnn.SimpleConv(aggr="mean")

        def forward(self, x, edge_index):
            return self.lin(x) + self.lin(self.mean(x, edge_index))

    assert some(Shared(), "batched", **example()) == {"lin": INPUT}


def test_what_a_neighbour_only_weighs_is_not_its_feature():
    class Weighed(gnn.MessagePassing):
        """Sends what the target itself has, times one number from the neighbour."""

        def __init__(self):
            super().__init__(aggr="sum")
            self.own, self.far = nn.Linear(INPUT, 5), nn.Linear(INPUT, 5)

        def forward(self, x, edge_index):
            return self.propagate(edge_index, x=x)

        def message(self, x_i, x_j):
            return self.own(x_i * x_j[:, :1]) + self.far(x_j)

    assert some(Weighed(), "batched", **example()) == {"far": INPUT}


def test_two_kinds_of_nodes_are_refused_with_a_way_out():
    given = (torch.randn(9, 6), torch.randn(7, 5)), torch.randint(7, (2, 22))
    with pytest.raises(NothingToPruneError, match="bipartite graphs neighbours are not found, and inputs=True"):
        some(gnn.SAGEConv((6, 5), 4), "batched", example_inputs=given)


def test_a_dense_adjacency_aggregates_too():
    class Dense(nn.Module):
        """``x [B, N, 6]``, ``adj [B, N, N]``: aggregation after one layer and before the other."""

        def __init__(self):
            super().__init__()
            self.late, self.early = gnn.DenseSAGEConv(6, 5), nn.Linear(6, 5)

        def forward(self, x, adj):
            return self.late(x, adj) + adj @ self.early(x)

    given = (torch.randn(2, 9, 6), torch.rand(2, 9, 9))
    assert some(Dense(), "batched", example_inputs=given) == {"late.lin_rel": 6, "early": 6}


def test_nothing_hidden_is_said_so():
    with pytest.raises(NothingToPruneError, match=r"prunes hidden channels.*consumers: lin_l, lin_r"):
        some(gnn.SAGEConv(INPUT, 5), "full")


def test_unknown_schemes_are_refused():
    with pytest.raises(PatternError, match="unknown scheme 'both': choose 'full' or 'batched'"):
        eligible(two(gnn.SAGEConv), "both")


@pytest.mark.parametrize(
    "name", every(4, [name for name in ZOO if name.startswith(("sage", "gat", "edge", "more", "two"))])
)
def test_schemes_never_overlap_and_cover_every_consumer(name):
    flow = analyse(upscale_fx.trace(make(name), example_kwargs=ZOO[name].example()))
    found = survey(flow)
    masks = {}
    for scheme in SCHEMES:
        try:
            masks[scheme] = eligible_channels(flow, found, scheme)
        except NothingToPruneError:
            masks[scheme] = {consumer.name: np.zeros(consumer.count, dtype=bool) for consumer in found.consumers}
    for consumer in found.consumers:
        full, batched = masks["full"][consumer.name], masks["batched"][consumer.name]
        assert full.shape == batched.shape == (consumer.count,)
        assert not (full & batched).any()
        assert np.array_equal(full, consumer.hidden)


def test_masks_are_copies():
    flow = analyse(upscale_fx.trace(two(gnn.SAGEConv)))
    found = survey(flow)
    for mask in eligible_channels(flow, found, "full").values():
        mask[:] = False
    assert any(consumer.hidden.any() for consumer in found.consumers)
