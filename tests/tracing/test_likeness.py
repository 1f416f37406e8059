"""What an example tells about other inputs: coinciding sizes, names that say nothing, broadcast rows, empty graphs."""

from threading import Thread

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.comparison import assert_same_outputs

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


def pruned(model, *example, **options):
    masked = upscale_fx.mask(model, 0.5, inputs=True, example_inputs=example, **options)
    return masked, upscale_fx.compact(masked, example_inputs=example)


@pytest.mark.parametrize("shared", [True, False], ids=["one adjacency as example", "one adjacency in a call"])
def test_an_adjacency_matrix_for_all_graphs_broadcasts(shared):
    x, one, each = torch.randn(2, 7, 8), (torch.rand(1, 7, 7) > 0.5).double(), (torch.rand(2, 7, 7) > 0.5).double()
    masked, compiled = pruned(gnn.DenseGraphConv(8, 6, aggr="max").eval(), x, one if shared else each)
    assert_same_outputs(masked, compiled, [(x, one)])
    if not shared:
        assert_same_outputs(masked, compiled, [(x, each)])


@pytest.mark.parametrize("layer", [gnn.aggr.SetTransformerAggregation, gnn.aggr.GraphMultisetTransformer])
def test_a_graph_without_nodes_attends_to_nothing(layer):
    model = layer(8, heads=2) if layer is gnn.aggr.SetTransformerAggregation else layer(8, 4, heads=2)
    x, batch = torch.randn(7, 8), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    masked, compiled = pruned(model.eval(), x, batch)
    assert_same_outputs(masked, compiled, [(x, torch.tensor([0, 0, 0, 2, 2, 2, 2]))])


class Normed(nn.Module):
    """``*numbers`` says nothing about which rows belong to which graph."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), norm, nn.Linear(8, 6)

    def forward(self, x, *numbers):
        return self.last(self.norm(self.first(x).relu(), *numbers))


class Named(Normed):
    def forward(self, x, graph_ids):
        return super().forward(x, graph_ids)


@pytest.mark.parametrize("model", [Normed, Named])
def test_graph_numbers_are_known_whatever_their_name(model):
    x, numbers = torch.randn(8, 8), torch.arange(8) // 4
    masked, compiled = pruned(model(gnn.InstanceNorm(8)).eval(), x, numbers)
    for other in (numbers * 0, numbers, torch.arange(8) // 2):
        assert_same_outputs(masked, compiled, [(x, other)])


def test_as_many_nodes_as_channels_and_graphs():
    example = torch.randn(8, 8), torch.arange(8), 8
    masked, compiled = pruned(Normed(gnn.InstanceNorm(8, affine=True)).eval(), *example)
    assert_same_outputs(masked, compiled, [example])


def test_a_mask_of_as_many_nodes_as_graphs():
    example = torch.randn(7, 7, 8), (torch.rand(7, 7, 7) > 0.5).double(), torch.rand(7, 7) > 0.2
    masked, compiled = pruned(gnn.DenseGCNConv(8, 6).eval(), *example)
    assert_same_outputs(masked, compiled, [example])
    assert_same_outputs(masked, compiled, [(torch.randn(3, 5, 8), torch.ones(3, 5, 5), torch.rand(3, 5) > 0.2)])


def test_source_and_target_nodes_one_for_one():
    example = (torch.randn(9, 8), torch.randn(9, 8)), torch.randint(9, (2, 30))
    model = gnn.GraphSAGE((8, 8), 8, 2, 6).eval()
    compiled = upscale_fx.prune(model, 0.5, inputs=True, example_inputs=example)
    upscale_fx.verify(upscale_fx.mask(model, 0.5, inputs=True, example_inputs=example), compiled, example)


def test_a_weight_of_bases_alone_becomes_smaller():
    example = torch.randn(30, 8), torch.randint(30, (2, 90)), torch.randint(3, (90,))
    masked, compiled = pruned(gnn.RGCNConv(8, 6, 3, num_bases=2, root_weight=False).eval(), *example)
    assert_same_outputs(masked, compiled, [example])
    assert compiled.get_parameter("weight").shape == (2, 4, 6)


def test_a_model_in_train_that_cannot_be_traced_in_train_is_told():
    model = gnn.HeteroBatchNorm(8, 3).train()
    with pytest.warns(upscale_fx.UpscaleWarning, match=r"in train\(\), but the graph made of it is for eval\(\) only"):
        traced = upscale_fx.trace(model, (torch.randn(7, 8), torch.tensor([0, 0, 0, 1, 1, 2, 2])))
    assert not traced.training


def test_a_constant_argument_is_built_in_and_another_one_refused():
    model = gnn.MessageNorm(learn_scale=True).eval()
    traced = upscale_fx.trace(model, (torch.randn(9, 8), torch.randn(9, 8), 1.0))
    with pytest.raises(upscale_fx.InputError, match=r"'p' was 1\.0 when this graph was traced"):
        traced(torch.randn(9, 8), torch.randn(9, 8), 2.0)
    assert traced(torch.randn(9, 8), torch.randn(9, 8)).shape == (9, 8)


def test_a_number_and_a_tensor_in_one_call_of_where():
    """Torch's own argument parser would take the stand-in of a tensor for one in memory."""

    class Where(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 6)

        def forward(self, x):
            h = self.first(x)
            return self.last(torch.where(h > 0, h, 0.0) + torch.clamp(h, max=h.abs() + 1.0) * torch.pow(2.0, h))

    masked, compiled = pruned(Where().eval(), torch.randn(9, 8))
    assert_same_outputs(masked, compiled, [(torch.randn(23, 8),)])


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]])


class Embedded(nn.Module):
    """A model whose only features are embeddings of kinds of nodes."""

    def __init__(self, conv):
        super().__init__()
        self.kinds, self.conv, self.last = nn.Embedding(5, 16), conv, nn.Linear(16, 3)

    def forward(self, node_type, *graph):
        return self.last(self.conv(self.kinds(node_type), *graph).relu())


@pytest.mark.parametrize(
    ("conv", "names"),
    [
        (gnn.SAGEConv(16, 16), ["conv.lin_l", "conv.lin_r", "last"]),
        (gnn.GCNConv(16, 16), ["conv.lin", "last"]),
        (gnn.GATConv(16, 4, heads=4), ["conv.lin", "last"]),
        (gnn.RGCNConv(16, 16, 3), ["conv", "conv.root", "last"]),
    ],
    ids=["SAGE", "GCN", "GAT", "RGCN"],
)
def test_layers_that_read_embeddings_are_consumers(conv, names):
    example = [torch.arange(10) % 5, EDGES]
    example += [torch.arange(10) % 3] if isinstance(conv, gnn.RGCNConv) else []
    model = Embedded(conv).double().eval()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert [(entry.name, entry.kept) for entry in upscale_fx.report(compiled).entries] == [(name, 8) for name in names]
    upscale_fx.verify(upscale_fx.mask(model, 0.5, example_inputs=example), compiled, example)
    assert compiled.get_parameter("kinds.weight").shape[1] < 16


def test_a_parameter_need_not_be_contiguous():
    model = gnn.MLP([8, 16, 4], norm=None).eval()
    model.lins[1].weight = nn.Parameter(torch.randn(16, 4).t())
    masked, compiled = pruned(model, torch.randn(9, 8))
    assert_same_outputs(masked, compiled, [(torch.randn(23, 8),)])


class Particular(nn.Module):
    """Ordinary Python that looks closely at ``int``."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.layers = gnn.GCNConv(8, 16), gnn.GCNConv(16, 4), 2

    def forward(self, x, edge_index):
        assert type(self.layers) is int
        scale = int.from_bytes(b"!", "big") / 10
        return self.last(self.first(x, edge_index).to(float) * scale, edge_index)


def test_builtins_are_themselves_where_nothing_symbolic_meets_them():
    model = Particular().double().eval()
    upscale_fx.verify(upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5), (torch.randn(10, 8), EDGES))


def test_threads_may_compile_at_the_same_time():
    failures, count = [], torch.get_num_threads()

    def compile_one():
        try:
            upscale_fx.prune(gnn.GCN(8, 16, 2, 4).double(), 0.5)
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=compile_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    stance = torch.compiler.set_stance("default")
    assert stance.prev.stance == "default", "torch.compile works as before"
    assert torch.get_num_threads() == count


class HalfUsed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.spare, self.last = gnn.GCNConv(8, 16), nn.Linear(16, 99), gnn.GCNConv(16, 4)

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index)
        self.spare(h)
        return self.last(h.softmax(dim=-1), edge_index)


def test_the_report_counts_what_no_output_needs_and_says_where_a_barrier_is():
    model = HalfUsed().double().eval()
    report = upscale_fx.report(upscale_fx.prune(model, 0.5))
    assert report.before.parameters == sum(p.numel() for p in model.parameters())
    assert list(report.unused) == ["spare.bias", "spare.weight"]
    assert "unused: spare.weight: no output needs it" in str(report)
    (barrier,) = report.barriers
    assert "softmax" in barrier
    assert "test_likeness.py" in barrier
    assert "shares over channels depend on them all" in barrier


class Sides(nn.Module):
    """Source and target nodes in two arguments of any name."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = gnn.SAGEConv((8, 5), 16), gnn.SAGEConv((8, 16), 16), nn.Linear(16, 4)

    def forward(self, users, items, edge_index):
        h = self.first((users, items), edge_index).relu()
        return self.head(self.second((users, h), edge_index).relu())


def between(sources, targets, edges=300):
    index = torch.stack([torch.randint(sources, (edges,)), torch.randint(targets, (edges,))])
    return torch.randn(sources, 8), torch.randn(targets, 5), index


@pytest.mark.parametrize(("sources", "targets"), [(60, 30), (30, 60)])
def test_edges_tell_which_arguments_are_the_two_sides(sources, targets):
    model = Sides().eval()
    masked, compiled = pruned(model, *between(sources, targets))
    assert sum(p.numel() for p in compiled.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    for other in ((60, 30), (30, 60), (9, 9), (5, 200)):
        assert_same_outputs(masked, compiled, [between(*other)])
