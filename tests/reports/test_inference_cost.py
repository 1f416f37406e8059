"""The cost of inference: what an oracle counts, and formulas."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.reports.gcnp import GCNP
from tests.zoo import HIDDEN, INPUT, make
from upscale_fx.errors import InputError
from upscale_fx.reports.inference_cost import cost_per_node

pytestmark = pytest.mark.usefixtures("seeded")


class TwoSages(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, 5)])

    def forward(self, x, edge_index):
        return self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)


# An oracle: what has a gradient is needed ----------------------------------------------------------------------------


def regular(nodes, degree):
    """A graph in which every node aggregates over ``degree`` others."""
    targets = torch.arange(nodes).repeat_interleave(degree)
    steps = torch.arange(1, degree + 1).repeat(nodes)
    return torch.stack([(targets + steps) % nodes, targets])


def tree(fanouts):
    """Node 0, its ``fanouts[0]`` neighbours, ``fanouts[1]`` of each of these, ...; edges point to the root."""
    edges, level, count = [], [0], 1
    for fanout in fanouts:
        below = []
        for parent in level:
            edges += [(child, parent) for child in range(count, count + fanout)]
            below += range(count, count + fanout)
            count += fanout
        level = below
    return torch.tensor(edges).t(), count


class Meter:
    """Counts rows that linear layers make and that aggregations read, all or those that a loss depends on."""

    def __init__(self, model):
        self.values = []
        for module in model.modules():
            if isinstance(module, nn.Linear | gnn.Linear):
                module.register_forward_hook(self.after_linear)
            elif isinstance(module, gnn.Aggregation):
                module.register_forward_pre_hook(self.before_aggregation)

    def after_linear(self, module, _, output):
        self.note(output, module.weight.numel(), False)

    def before_aggregation(self, _, inputs):
        self.note(inputs[0], inputs[0][0].numel(), True)

    def note(self, value, macs, aggregates):
        value.retain_grad()
        self.values.append((value, macs, aggregates))

    def total(self, rows, aggregation_only=False):
        return sum(macs * rows(value) for value, macs, aggregates in self.values if aggregates or not aggregation_only)


def all_rows(value):
    return len(value)


def needed_rows(value):
    return 0 if value.grad is None else int((value.grad.flatten(1) != 0).any(dim=1).sum())


# Attention vectors are sums, not contractions with a weight: neither the meter nor measure.size_of counts them.
MODELS = ["gcn", "gcn-plain", "sage-mean", "sage-project", "sage-no-root", "gat-1", "gat-4", "gat-residual", "gin",
          "jk-cat", "jk-cat-sage", "residual-none", "dense-gcn", "pre-activation", "more-graph-conv",
          "transformer-no-root", "family-jknet", "gatv2-4"]  # fmt: skip
FANOUTS = (3, 2, 4, 2, 3)


@pytest.mark.parametrize("name", MODELS)
def test_full_inference_counts_every_row_once(name):
    model, degree, nodes = make(name), 4, 11
    meter = Meter(model)
    model(torch.randn(nodes, INPUT, dtype=torch.float64, requires_grad=True), regular(nodes, degree))
    cost = cost_per_node(upscale_fx.trace(make(name)), degree=degree)
    assert cost.full == meter.total(all_rows) / nodes
    assert cost.full_aggregation == meter.total(all_rows, aggregation_only=True) / nodes
    assert cost.batched is None


@pytest.mark.parametrize("name", MODELS)
def test_batched_inference_counts_the_rows_that_the_target_depends_on(name):
    traced = upscale_fx.trace(make(name))
    depth = hops_of(traced)
    fanouts = FANOUTS[:depth]
    edge_index, nodes = tree(fanouts)
    model = make(name)
    meter = Meter(model)
    output = model(torch.randn(nodes, INPUT, dtype=torch.float64, requires_grad=True), edge_index)
    output[0].square().sum().backward()
    cost = cost_per_node(traced, degree=7, fanouts=fanouts)
    assert cost.batched == meter.total(needed_rows)
    assert cost.batched_aggregation == meter.total(needed_rows, aggregation_only=True)
    assert sum(cost.by_hop) == cost.batched
    assert len(cost.by_hop) == depth + 1


def hops_of(traced):
    """How many fan-outs a graph takes."""
    for depth in range(1, 6):
        try:
            cost_per_node(traced, degree=1, fanouts=[1] * depth)
        except InputError:
            continue
        return depth
    raise AssertionError("no number of fan-outs fits")


# Formulas ------------------------------------------------------------------------------------------------------------


def test_a_value_counts_at_every_hop_that_needs_it():
    first, second = 4, 9
    cost = cost_per_node(upscale_fx.trace(TwoSages()), degree=3, fanouts=[first, second])
    layer = 2 * INPUT * HIDDEN
    at_target = first * INPUT + layer + first * HIDDEN + 2 * HIDDEN * 5
    assert cost.by_hop == (at_target, first * (second * INPUT + layer), 0)


def test_a_self_loop_that_the_model_adds_needs_the_node_itself():
    cost = cost_per_node(upscale_fx.trace(gnn.GCNConv(6, 4)), degree=3, fanouts=[5])
    assert cost.full == 6 * 4 + (3 + 1) * 4
    assert cost.by_hop == (6 * 4 + (5 + 1) * 4, 5 * 6 * 4)


def test_the_own_end_of_an_edge_adds_no_hop():
    class Queried(gnn.MessagePassing):
        """Messages of both ends: what the target sends through ``own`` is needed of the target only."""

        def __init__(self):
            super().__init__(aggr="sum")
            self.own, self.far = nn.Linear(6, 4, bias=False), nn.Linear(6, 8, bias=False)

        def forward(self, x, edge_index):
            return self.propagate(edge_index, own=self.own(x), far=self.far(x))

        def message(self, own_i, far_j):
            return own_i.tanh() * far_j[:, :4] + far_j[:, 4:]

    cost = cost_per_node(upscale_fx.trace(Queried(), (torch.randn(5, 6), torch.randint(5, (2, 9)))), degree=2,
                         fanouts=[3])  # fmt: skip
    assert cost.by_hop == (6 * 4 + 3 * 4, 3 * 6 * 8)


def test_work_on_edges_counts_per_edge():
    conv = gnn.EdgeConv(nn.Linear(12, 4))
    cost = cost_per_node(upscale_fx.trace(conv, (torch.randn(5, 6), torch.randint(5, (2, 9)))), degree=3, fanouts=[5])
    assert cost.full == 3 * (12 * 4 + 4)
    assert cost.by_hop == (5 * (12 * 4 + 4), 0)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_step_of_a_recurrent_module_counts(bidirectional):
    class Steps(nn.Module):
        """An LSTM over the three features that every node has after the convolution."""

        def __init__(self):
            super().__init__()
            self.conv, self.lstm = gnn.GCNConv(6, 3), nn.LSTM(1, 4, batch_first=True, bidirectional=bidirectional)

        def forward(self, x, edge_index):
            out, (state, _) = self.lstm(self.conv(x, edge_index).unsqueeze(-1))
            return out[:, -1] + state[0].mean()

    conv, step = 6 * 3 + 3 * 3, (1 + bidirectional) * 4 * (4 * 1 + 4 * 4)
    assert cost_per_node(upscale_fx.trace(Steps()), degree=2).full == conv + 3 * step


def test_normalisation_is_structure_and_costs_nothing():
    conv = gnn.ChebConv(6, 4, K=2)
    cost = cost_per_node(upscale_fx.trace(conv, (torch.randn(5, 6), torch.randint(5, (2, 9)))), degree=3)
    assert cost.full == 2 * 6 * 4 + (3 + 1) * 6


def test_fusing_changes_no_count():
    model = make("gat-4")
    compacted = upscale_fx.compact(upscale_fx.mask(model, 0.5))
    fused = upscale_fx.optimize(compacted)
    asked = {"degree": 6.5, "fanouts": [5, 5, 2.5]}
    assert cost_per_node(fused, **asked) == cost_per_node(compacted, **asked)
    assert cost_per_node(fused, **asked).batched < cost_per_node(upscale_fx.trace(model), **asked).batched


def test_pruning_raw_features_of_the_neighbour_branch_saves_at_the_last_hop():
    model, budget = TwoSages(), 4
    before = cost_per_node(upscale_fx.trace(model), degree=3, fanouts=[10, 32])
    pruned = upscale_fx.prune(model, {"convs.0.lin_l": 1 - 1 / budget}, inputs=True)
    after = cost_per_node(pruned, degree=3, fanouts=[10, 32])
    gone = INPUT - INPUT // budget
    assert before.by_hop[1] - after.by_hop[1] == 10 * gone * (32 + HIDDEN)
    assert before.full - after.full == gone * (3 + HIDDEN)


def test_it_prints_thousands_of_macs():
    cost = cost_per_node(upscale_fx.trace(GCNP(500, 256, 7)), degree=10, fanouts=[10, 32])
    assert str(cost).splitlines() == [
        "full graph  526.85 kMACs/node (5.12 aggregation; degree 10)",
        "batched     45,180.42 kMACs/node (87.04 aggregation; fan-outs 10, 32)",
    ]
