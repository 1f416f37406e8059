"""Embedding tables with a row per node that are read whole: their rows are nodes, and their columns channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, LGConv, LightGCN, RGCNConv, SAGEConv

import upscale_fx
from tests.comparison import assert_same

NODES = 37


class Model(nn.Module):
    """``body`` gets the model, whose layers are ``layers``, and edges, their kinds and pairs of nodes."""

    def __init__(self, body, **layers):
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, edge_index, kind, pairs):
        return self.body(self, edge_index, kind, pairs)


def table(columns=16, rows=NODES):
    return nn.Embedding(rows, columns)


def dots(z, pairs):
    return (z[pairs[0]] * z[pairs[1]]).sum(-1)


def summed_layers(m, edges, kind, pairs):
    x = m.emb.weight
    h = m.conv(x, edges)
    return dots(x + h + m.conv(h, edges), pairs)


def stacked_tables(m, edges, kind, pairs):
    x = torch.cat([m.users.weight, m.items.weight])
    h = m.conv(x, edges)
    return dots(F.leaky_relu(m.sums(x + h) + m.products(x * h), 0.2), pairs)


def relations(m, edges, kind, pairs):
    z = m.two(F.dropout(m.one(m.emb, edges, kind).relu(), 0.2, m.training), edges, kind)
    return (z[pairs[0]] * m.scale[kind[:1]] * z[pairs[1]]).sum(1)


#: Models, and the share of their parameters that may be left at 0.5.
KINDS = {
    "PyG's LightGCN": (lambda: Model(lambda m, e, k, p: m.net(e, p), net=LightGCN(NODES, 16, 2)), 0.51),
    "LightGCN by hand": (lambda: Model(summed_layers, emb=table(), conv=LGConv()), 0.51),
    "GCN on a parameter": (
        lambda: Model(lambda m, e, k, p: m.two(m.one(m.emb, e).relu(), e), emb=nn.Parameter(torch.randn(NODES, 16)),
                      one=GCNConv(16, 24), two=GCNConv(24, 8)), 0.6),
    "users and items": (
        lambda: Model(stacked_tables, users=table(16, 20), items=table(16, 17), conv=LGConv(), sums=nn.Linear(16, 16),
                      products=nn.Linear(16, 16)), 0.7),
    "RGCN and DistMult": (
        lambda: Model(relations, emb=nn.Parameter(torch.randn(NODES, 20)), one=RGCNConv(20, 16, 5),
                      two=RGCNConv(16, 8, 5), scale=nn.Parameter(torch.randn(5, 8))), 0.75),
    "attention": (
        lambda: Model(lambda m, e, k, p: m.two(F.elu(m.one(m.emb.weight, e)), e), emb=table(12),
                      one=GATConv(12, 8, heads=2), two=GATConv(16, 4)), 0.6),
    "normalised, with dropout": (
        lambda: Model(lambda m, e, k, p: m.out(m.one(F.dropout(F.normalize(m.emb.weight), 0.1, m.training), e).relu()),
                      emb=table(12), one=SAGEConv(12, 16), out=nn.Linear(16, 3)), 0.8),
    "returned besides": (
        lambda: Model(lambda m, e, k, p: (m.out(m.one(m.emb.weight, e).relu()), m.emb.weight), emb=table(12),
                      one=GCNConv(12, 16), out=nn.Linear(16, 3)), 0.85),
}  # fmt: skip


def arguments(edges, seed):
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.randint(NODES, (2, max(edges // 8, 1)), generator=draw)
    return torch.randint(NODES, (2, edges), generator=draw), torch.randint(5, (edges,), generator=draw), pairs


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("double_precision", "seeded")
def test_columns_are_removed_exactly(kind):
    make, left = KINDS[kind]
    model, example = make().eval(), arguments(120, 0)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert size(compiled) <= left * size(model)
    for edges in (120, 31, 8):
        given = arguments(edges, edges)
        assert_same(masked(*given), compiled(*given))
        assert_same(model(*given), upscale_fx.trace(model, example)(*given))


#: Models and their tables.
TRAINED = {
    "PyG's LightGCN": ["net.embedding"],
    "users and items": ["users", "items"],
    "attention": ["emb"],
}


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.usefixtures("double_precision", "seeded")
def test_tables_get_the_masked_models_gradients(kind):
    model, example = KINDS[kind][0]().eval(), arguments(120, 0)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    for one in (masked, compiled):
        one(*example).square().sum().backward()
    for name in TRAINED[kind]:
        small, large = (one.get_parameter(f"{name}.weight") for one in (compiled, masked))
        columns = [int((large == column[:, None]).all(0).nonzero()[0]) for column in small.T]
        assert 0 < len(columns) < large.shape[1]
        assert_same(large.grad[:, columns], small.grad)


@pytest.mark.usefixtures("seeded")
def test_a_table_that_is_split_by_numbers_keeps_working():
    """Its parts have given numbers of rows, so rows stay channels up to the next layer; the result is exact."""

    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.users, self.items, self.conv = table(16, 20), table(16, 17), SAGEConv(16, 12)

        def forward(self, edge_index, users, items):
            h = self.conv(torch.cat([self.users.weight, self.items.weight]), edge_index).relu()
            us, it = torch.split(h, [20, 17])
            return (us[users] * it[items]).sum(-1)

    model = Split().eval().double()
    example = (arguments(120, 0)[0], torch.randint(20, (9,)), torch.randint(17, (9,)))
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert_same(upscale_fx.mask(model, 0.5, example_inputs=example)(*example), compiled(*example))
