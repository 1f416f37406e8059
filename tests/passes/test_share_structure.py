"""ShareStructure and RemoveDeadNodes on the graphs they are made for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.passes.attending import EDGES, GAT, X, ready
from tests.selection import every
from upscale_fx.compiled.module import unfused
from upscale_fx.models import SAGE, GATv2, JKNet, SimpleGCN
from upscale_fx.passes import RemoveDeadNodes, ShareStructure

pytestmark = pytest.mark.usefixtures("seeded")


def calls(gm, name):
    """How many nodes of a graph, as it was before it was fused, call the function or method of this name."""
    nodes = unfused(gm).graph.nodes
    return sum(name == (node.target if isinstance(node.target, str) else node.target.__name__) for node in nodes)


# ShareStructure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "name"),
    every(
        2,
        [
            (lambda: SimpleGCN(6, 8, 3), "gcn_norm"),
            (lambda: JKNet(6, 8, 3), "gcn_norm"),
            (GAT, "remove_self_loops"),
            (GAT, "add_self_loops"),
            (lambda: GATv2(6, 8, 3), "add_self_loops"),
        ],
    ),
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
