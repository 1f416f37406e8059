"""Each pass on the graphs it is made for: what it merges, folds and removes, and what it must leave alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

import upscale_fx
from upscale_fx.compiled.module import unfused
from upscale_fx.models import SAGE, GATv2, JKNet, SimpleGCN
from upscale_fx.passes import FoldAttention, RemoveDeadNodes, ShareStructure

DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(9, 6, generator=DRAW, dtype=torch.float64), torch.randint(9, (2, 20), generator=DRAW)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def calls(gm, name):
    """How many nodes of a graph, as it was before it was fused, call the function or method of this name."""
    nodes = unfused(gm).graph.nodes
    return sum(name == (node.target if isinstance(node.target, str) else node.target.__name__) for node in nodes)


def ready(model):
    return model.double().eval()


class GAT(nn.Module):
    """Three layers of ``heads`` heads, ``width`` channels each."""

    def __init__(self, width=8, heads=2, inputs=6):
        super().__init__()
        channels = width * heads
        self.convs = nn.ModuleList(
            [
                GATConv(inputs, width, heads=heads),
                GATConv(channels, width, heads=heads),
                GATConv(channels, 3, heads=heads, concat=False),
            ]
        )
        # Biases start at zero, which would hide what they do.
        for conv in self.convs:
            nn.init.normal_(conv.bias)

    def forward(self, x, edge_index):
        for conv in self.convs[:-1]:
            x = conv(x, edge_index).relu()
        return self.convs[-1](x, edge_index)


# ShareStructure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: SimpleGCN(6, 8, 3), "gcn_norm"),
        (lambda: JKNet(6, 8, 3), "gcn_norm"),
        (GAT, "remove_self_loops"),
        (GAT, "add_self_loops"),
        (lambda: GATv2(6, 8, 3), "add_self_loops"),
    ],
    ids=["GCN", "JKNet", "GAT remove", "GAT add", "GATv2 add"],
)
def test_structure_is_computed_once(build, name):
    model = ready(build())
    traced = upscale_fx.trace(model)
    shared = upscale_fx.optimize(traced)
    assert (calls(traced, name), calls(shared, name)) == (3, 1)
    assert calls(upscale_fx.prune(model, 0.5), name) == 1, "after compaction too"
    assert upscale_fx.verify(model, shared, (X, EDGES)) < 1e-12


def test_structure_of_different_graphs_is_not_shared():
    class TwoGraphs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = GCNConv(6, 8), GCNConv(8, 3)

        def forward(self, x, edge_index):
            return self.second(self.first(x, edge_index).relu(), edge_index.flip(0))

    model = ready(TwoGraphs())
    shared = upscale_fx.optimize(upscale_fx.trace(model))
    assert calls(shared, "gcn_norm") == 2
    assert upscale_fx.verify(model, shared, (X, EDGES)) < 1e-12


def test_structure_with_different_options_is_not_shared():
    class Options(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(
                [GCNConv(6, 6), GCNConv(6, 6, improved=True), GCNConv(6, 6, add_self_loops=False)]
            )

        def forward(self, x, edge_index):
            for conv in self.convs:
                x = conv(x, edge_index)
            return x

    model = ready(Options())
    shared = upscale_fx.optimize(upscale_fx.trace(model))
    assert calls(shared, "gcn_norm") == 3
    assert upscale_fx.verify(model, shared, (X, EDGES)) < 1e-12


class TwoDraws(nn.Module):
    """Two dropouts of one tensor, whose difference is what the network sees."""

    def __init__(self, modules):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 64), nn.Linear(64, 3, bias=False)
        self.drops = nn.ModuleList([nn.Dropout(0.5), nn.Dropout(0.5)]) if modules else [self.drop, self.drop]

    def drop(self, x):
        return F.dropout(x, 0.5, training=self.training)

    def forward(self, x):
        h = self.stem(x).relu()
        return self.head(self.drops[0](h) - self.drops[1](h))


@pytest.mark.parametrize("modules", [True, False], ids=["modules", "functional"])
def test_random_draws_are_never_merged(modules):
    model = TwoDraws(modules).double()
    traced = upscale_fx.trace(model.train())
    shared = upscale_fx.optimize(traced)
    assert shared.train()(X).abs().max() > 1e-3, "two draws differ"
    assert shared.eval()(X).abs().max() == 0, "in evaluation both are the tensor itself"
    names = [node.name for node in shared.graph.nodes if "drop" in node.name and node.op.startswith("call")]
    assert len(names) == 2


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("randn_like", torch.randn_like),
        ("randint_like", lambda x: torch.randint_like(x, 9)),
        ("poisson", lambda x: torch.poisson(x.square())),
        ("bernoulli", lambda x: torch.bernoulli(x.sigmoid())),
    ],
)
def test_random_noise_is_never_merged(name, draw):
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 3)

        def forward(self, x):
            return self.lin(draw(x) - draw(x)) + torch.rand_like(x[:, :3])

    shared, _ = ShareStructure()(_traced_random(Noise()))
    assert calls(shared, name) == 2


def _traced_random(model):
    return upscale_fx.trace(ready(model), (X,))


def test_batch_norms_with_the_same_input_are_not_merged():
    """They have statistics of their own."""

    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.BatchNorm1d(6), nn.BatchNorm1d(6)])
            self.lin = nn.Linear(12, 3)

        def forward(self, x):
            return self.lin(torch.cat([norm(x) for norm in self.norms], dim=-1))

    model = ready(Norms())
    nn.init.uniform_(model.norms[1].running_mean)
    shared = upscale_fx.optimize(upscale_fx.trace(model, (X,)))
    torch.testing.assert_close(shared(X), model(X))
    shared.train()(X)
    assert not torch.equal(shared.get_buffer("norms.0.running_mean"), torch.zeros(6, dtype=torch.float64))
    assert shared.get_buffer("norms.0.num_batches_tracked") == shared.get_buffer("norms.1.num_batches_tracked") == 1


def test_equal_layers_with_weights_of_their_own_are_not_merged():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.first(x) * self.second(x)

    model = ready(Twins())
    shared = upscale_fx.optimize(upscale_fx.trace(model))
    assert calls(shared, "linear") == 2
    torch.testing.assert_close(shared(X), model(X))


def test_one_layer_called_twice_on_the_same_tensor_is_computed_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 3)

        def forward(self, x):
            return self.lin(x) * self.lin(x).relu()

    model = ready(Twice())
    shared = upscale_fx.optimize(upscale_fx.trace(model))
    assert calls(shared, "linear") == 1
    torch.testing.assert_close(shared(X), model(X))


def test_sizes_of_different_axes_stay_apart():
    """Mean over nodes and mean over edges divide by different numbers."""

    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 3)

        def forward(self, x, edge_index):
            h = self.lin(x)
            messages = h[edge_index[0]]
            return h.sum(dim=0) / h.size(0) + messages.sum(dim=0) / messages.size(0) + x.sum() / x.size(0)

    model = ready(Sizes())
    shared = upscale_fx.optimize(upscale_fx.trace(model, (X, EDGES)))
    assert upscale_fx.verify(model, shared, (X, EDGES)) < 1e-12


def test_optimizing_still_trains():
    shared = upscale_fx.optimize(upscale_fx.trace(ready(SimpleGCN(6, 8, 3)))).train()
    shared(X, EDGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in shared.parameters())


# FoldAttention -------------------------------------------------------------------------------------------------------


def folded_names(gm):
    return {name for name in gm.state_dict() if name.endswith("_folded")}


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(("width", "heads"), [(8, 2), (4, 1), (4, 4)])
def test_folding_is_exact_and_adds_only_folded_parameters(width, heads, amount):
    model = ready(GAT(width, heads))
    masked, compiled = upscale_fx.mask(model, amount), upscale_fx.prune(model, amount)
    assert upscale_fx.verify(masked, compiled, (X, EDGES)) < 1e-12
    added = set(compiled.state_dict()) - set(model.state_dict())
    assert added == folded_names(compiled)
    assert added <= {f"convs.{n}.att_{side}_folded" for n in range(3) for side in ("src", "dst")}
    for name in added:
        assert compiled.get_parameter(name).shape[0] == heads
        assert name.removesuffix("_folded") not in compiled.state_dict(), "what was folded is gone"


def test_a_pruned_gat_has_layers_of_half_the_rows_and_columns():
    compiled = upscale_fx.prune(ready(GAT(width=8, heads=2)), 0.5)
    assert folded_names(compiled)
    shapes = [tuple(compiled.get_parameter(f"convs.{n}.lin.weight").shape) for n in range(3)]
    assert shapes[0] == (8, 6)
    assert shapes[1][0] == 8
    assert compiled.get_parameter("convs.0.bias").shape == (8,)


def test_a_constrained_gat_has_half_of_everything():
    compiled = upscale_fx.prune(ready(GAT(width=8, heads=2)), 0.5, constrained=True)
    assert tuple(compiled.get_parameter("convs.1.lin.weight").shape) == (8, 8)


def test_folding_is_left_out_where_it_does_not_pay():
    """At amount 0, a fold costs ``inputs`` products per head where the vector costs ``width``."""
    model = ready(GAT(width=4, heads=2, inputs=16))
    x = torch.randn(9, 16, dtype=torch.float64)
    compiled = upscale_fx.prune(model, 0)
    assert folded_names(compiled) == set()
    assert compiled.state_dict().keys() == model.state_dict().keys()
    assert upscale_fx.verify(model, compiled, (x, EDGES)) < 1e-12
    result = FoldAttention()(upscale_fx.trace(model))
    assert not result.modified


def test_folding_keeps_frozen_what_was_frozen():
    for frozen in (True, False):
        model = ready(GAT()).requires_grad_(not frozen)
        compiled = upscale_fx.prune(model, 0.5)
        names = folded_names(compiled)
        assert names
        assert {compiled.get_parameter(name).requires_grad for name in names} == {not frozen}


def test_a_folded_model_trains_and_is_pruned_again():
    model = ready(GAT())
    compiled = upscale_fx.prune(model, 0.5)
    compiled(X, EDGES).square().sum().backward()
    assert all(compiled.get_parameter(name).grad.any() for name in folded_names(compiled))
    masked, again = upscale_fx.mask(compiled, 0.5), upscale_fx.prune(compiled, 0.5)
    assert upscale_fx.verify(masked, again, (X, EDGES)) < 1e-12
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in compiled.parameters())


def test_the_vector_of_gatv2_is_never_folded():
    """A leaky relu stands between its layer and its vector."""
    model = ready(GATv2(6, 16, 3))
    assert folded_names(upscale_fx.prune(model, 0.5)) == set()
    assert not FoldAttention()(upscale_fx.trace(model)).modified


def test_a_vector_shared_by_two_layers_folds_into_each():
    class Shared(nn.Module):
        """One attention layer, called on two tensors."""

        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = SAGEConv(6, 16), GATConv(16, 8, heads=2), nn.Linear(16, 3)

        def forward(self, x, edge_index):
            h = self.stem(x, edge_index).relu()
            h = self.conv(h, edge_index).relu()
            return self.head(self.conv(h, edge_index).relu())

    model = ready(Shared())
    compiled = upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (X, EDGES)) < 1e-12


# RemoveDeadNodes -----------------------------------------------------------------------------------------------------


def test_what_no_output_needs_goes_with_its_parameters():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x, edge_index):
            self.unused(x)
            return self.lin(x)

    model = ready(Unused())
    clean = RemoveDeadNodes()(upscale_fx.trace(model)).graph_module
    assert set(clean.state_dict()) == {"lin.weight", "lin.bias"}
    assert [node.target for node in clean.graph.nodes if node.op == "placeholder"] == ["x", "edge_index"]
    torch.testing.assert_close(clean(X, EDGES), model(X, EDGES))


def test_the_check_of_inputs_stays():
    compiled = upscale_fx.optimize(upscale_fx.compact(upscale_fx.trace(ready(SAGE(6, 8, 3)))))
    compiled = RemoveDeadNodes()(compiled).graph_module
    with pytest.raises(upscale_fx.InputError, match="width 6, got 5"):
        copy.deepcopy(compiled)(X[:, :5], EDGES)
