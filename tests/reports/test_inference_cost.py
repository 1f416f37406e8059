"""Multiply-adds per node: the ratios of a paper, closed formulas, and what gradients say about who is needed."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.zoo import HIDDEN, INPUT, make
from upscale_fx.errors import InputError
from upscale_fx.reports.inference_cost import cost_per_node


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class TwoSages(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, 5)])

    def forward(self, x, edge_index):
        return self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)


# The paper ------------------------------------------------------------------------------------------------------------


class TwoBranches(nn.Module):
    """The layer of GCNP: ``relu([x W_self, A (x W_neigh)])``, ``width`` channels from each branch."""

    def __init__(self, inputs, width):
        super().__init__()
        self.own, self.neigh = gnn.Linear(inputs, width, bias=False), gnn.Linear(inputs, width, bias=False)
        self.mean = gnn.SimpleConv(aggr="mean")

    def forward(self, x, edge_index):
        return torch.cat([self.own(x), self.mean(self.neigh(x), edge_index)], dim=-1).relu()


class GCNP(nn.Module):
    """Two layers of two branches and a dense classifier."""

    def __init__(self, features, width, classes):
        super().__init__()
        self.convs = nn.ModuleList([TwoBranches(features, width), TwoBranches(2 * width, width)])
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index)
        return self.head(x)


# Nodes, edges stored (an undirected edge twice), features, width of a branch, classes; ratios at 2x, 4x, 8x.
PAPER = {
    "Flickr": (89_250, 899_756, 500, 256, 7, ["2.66", "6.38", "14.2"]),
    "Arxiv": (169_343, 2_315_598, 128, 512, 40, ["3.48", "11.0", "31.2"]),
    "Reddit": (232_965, 2 * 11_606_919, 602, 128, 41, ["2.29", "4.95", "10.3"]),
    "Yelp": (716_847, 2 * 6_977_410, 300, 512, 100, ["3.10", "8.55", "21.1"]),
}


def three_digits(number):
    return f"{number:#.3g}"


@pytest.mark.parametrize("name", PAPER)  # the degree is rounded down: 10, 13, 99, 19
def test_full_inference_costs_what_gcnp_says(name):
    nodes, stored, features, width, classes, ratios = PAPER[name]
    degree = stored // nodes
    model = GCNP(features, width, classes).eval()
    dense = cost_per_node(upscale_fx.trace(model), degree=degree).full
    found = []
    for budget in (2, 4, 8):
        pruned = upscale_fx.prune(model, 1 - 1 / budget, constrained=True)
        found.append(three_digits(dense / cost_per_node(pruned, degree=degree).full))
    assert found == ratios


class Normed(GCNP):
    """The same with the norms that the authors' code has: of every branch, and of what the classifier reads."""

    def __init__(self, features, width, classes):
        super().__init__(features, width, classes)
        self.norms = nn.ModuleList(gnn.LayerNorm(width, mode="node") for _ in range(4))

    def forward(self, x, edge_index):
        for number, conv in enumerate(self.convs):
            own, neighbours = conv(x, edge_index).chunk(2, dim=-1)
            x = torch.cat([self.norms[2 * number](own), self.norms[2 * number + 1](neighbours)], dim=-1)
        return self.head(nn.functional.normalize(x, dim=-1))


def test_norms_over_channels_cost_nothing():
    nodes, stored, *shape, _ = PAPER["Reddit"]
    asked = {"degree": stored // nodes, "fanouts": [stored // nodes, 32]}
    plain, normed = (cost_per_node(upscale_fx.trace(kind(*shape)), **asked) for kind in (GCNP, Normed))
    assert plain == normed


def test_the_paper_counts_what_it_writes():
    features, width, classes, degree = 500, 256, 7, 10
    cost = cost_per_node(upscale_fx.trace(GCNP(features, width, classes)), degree=degree)
    layers = 2 * features * width + 2 * (2 * width) * width + 2 * width * classes
    assert cost.full_aggregation == 2 * degree * width
    assert cost.full == layers + cost.full_aggregation


# An oracle: what has a gradient is needed -----------------------------------------------------------------------------


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


# Formulas -------------------------------------------------------------------------------------------------------------


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


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, -1, float("nan"), float("inf"), "3", None, True])
def test_a_degree_is_a_positive_number(degree):
    with pytest.raises(InputError, match="degree must be a positive number"):
        cost_per_node(upscale_fx.trace(make("gcn")), degree=degree)


@pytest.mark.parametrize("fanouts", [[], [3], [3, 3], [3, 3, 3, 3]])
def test_there_is_one_fanout_per_hop(fanouts):
    with pytest.raises(InputError, match=f"3 hops away, so fanouts takes 3 numbers, got {len(fanouts)}"):
        cost_per_node(upscale_fx.trace(make("gcn")), degree=3, fanouts=fanouts)


def test_a_fanout_is_a_positive_number():
    with pytest.raises(InputError, match=r"fanouts\[1\] must be a positive number"):
        cost_per_node(upscale_fx.trace(make("gcn")), degree=3, fanouts=[3, 0, 3])


def test_a_model_is_traced_first():
    with pytest.raises(InputError, match=r"got Sequential; pass upscale_fx.trace\(model\)"):
        cost_per_node(nn.Sequential(), degree=3)


def test_a_graph_without_edges_has_no_cost_per_edge():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 4)

        def forward(self, x):
            return self.lin(x)

    with pytest.raises(InputError, match="goes along edges"):
        cost_per_node(upscale_fx.trace(Alone()), degree=3)


def test_pairs_of_nodes_are_refused():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = gnn.GCNConv(6, 4)

        def forward(self, x, edge_index):
            h = self.conv(x, edge_index)
            return h @ h.t()

    with pytest.raises(InputError, match=r"rows of kind N\*N, which no degree counts"):
        cost_per_node(upscale_fx.trace(Pairs()), degree=3)


def test_a_second_kind_of_nodes_is_refused():
    given = (torch.randn(9, 6), torch.randn(7, 5)), torch.randint(7, (2, 22))
    with pytest.raises(InputError, match="or a second kind of nodes"):
        cost_per_node(upscale_fx.trace(gnn.SAGEConv((6, 5), 4), given), degree=3)


def test_rows_of_graphs_are_refused():
    with pytest.raises(InputError, match="has one row for each of B, neither nodes nor edges"):
        cost_per_node(upscale_fx.trace(make("pool-add")), degree=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("norm-graph", "reads rows of kind B and gives rows of kind N"),
        ("link-dot", "has one row for each of E"),
        ("pool-whole-graph", "is one value for the whole graph"),
    ],
)
def test_batched_inference_needs_one_node_and_its_neighbours(name, message):
    traced = upscale_fx.trace(make(name))
    assert cost_per_node(traced, degree=3).full > 0
    with pytest.raises(InputError, match=message):
        cost_per_node(traced, degree=3, fanouts=[3, 3])
