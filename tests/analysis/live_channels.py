"""Models with zeros in their weights, and graphs run with something changed on the way."""

from itertools import pairwise

import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import upscale_fx

INPUT, HIDDEN, OUTPUT, EDGE = 5, 6, 3, 3


class Model(nn.Module):
    """``forward`` is a function of the model and the inputs, ``parts`` are its modules."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x, edge_index, edge_attr, batch):
        return self.function(self, x, edge_index, edge_attr, batch)


def stack(*convs, between=F.elu, edges=False):
    """Convolutions with a smooth activation between them."""

    def forward(self, x, edge_index, edge_attr, batch):
        for conv in self.convs[:-1]:
            x = between(conv(x, edge_index, edge_attr) if edges else conv(x, edge_index))
        return self.convs[-1](x, edge_index)

    return Model(forward, convs=nn.ModuleList(convs))


def multi_layer(*widths, norm=None):
    layers = []
    for given, own in pairwise(widths):
        layers += [nn.Linear(given, own), *([norm(own)] if norm else []), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def residual(self, x, edge_index, edge_attr, batch):
    x = self.first(x)
    for conv, norm in zip(self.convs, self.norms, strict=True):
        x = x + F.elu(norm(conv(x, edge_index)))
    return self.last(x)


def dense(self, x, edge_index, edge_attr, batch):
    for conv in self.convs:
        x = torch.cat([x, F.elu(conv(x, edge_index))], -1)
    return self.last(x)


def jumping(self, x, edge_index, edge_attr, batch):
    layers = []
    for conv in self.convs:
        x = F.elu(conv(x, edge_index))
        layers.append(x)
    return self.last(self.jump(layers))


def pooled(self, x, edge_index, edge_attr, batch):
    x = F.elu(self.first(x, edge_index))
    parts = [pyg.global_mean_pool(x, batch), pyg.global_max_pool(x, batch), pyg.global_add_pool(x, batch)]
    return self.last(torch.cat(parts, -1))


def pairs(self, x, edge_index, edge_attr, batch):
    h = F.elu(self.first(x, edge_index))
    return self.last(torch.cat([h[edge_index[0]], h[edge_index[1]], edge_attr], -1))


def gated(self, x, edge_index, edge_attr, batch):
    h = F.elu(self.first(x, edge_index))
    return self.last(torch.sigmoid(self.gate(h)) * self.value(h))


def halves(self, x, edge_index, edge_attr, batch):
    a, b = self.first(x, edge_index).chunk(2, -1)
    return self.last(F.silu(a) * b)


def two_outputs(self, x, edge_index, edge_attr, batch):
    h = F.elu(self.first(x, edge_index))
    return self.last(h), self.other(h, edge_index)


def twice(self, x, edge_index, edge_attr, batch):
    h = F.elu(self.first(x))
    h = F.elu(self.shared(h))
    return self.last(F.elu(self.shared(h)))


def headed(self, x, edge_index, edge_attr, batch):
    return self.head(F.elu(self.conv(x, edge_index)))


def norms(kind):
    return nn.ModuleList([kind(HIDDEN), kind(HIDDEN)])


def convs(*widths, kind=pyg.GCNConv, **options):
    return nn.ModuleList([kind(a, b, **options) for a, b in pairwise(widths)])


I, H, O = INPUT, HIDDEN, OUTPUT  # noqa: E741
DEGREES = torch.tensor([1, 4, 6, 3])
MODELS = {
    "GCN": lambda: stack(*convs(I, H, H, O)),
    "SAGE mean": lambda: stack(*convs(I, H, H, O, kind=pyg.SAGEConv)),
    "SAGE max": lambda: stack(*convs(I, H, H, O, kind=pyg.SAGEConv, aggr="max")),
    "SAGE sum, normalized": lambda: stack(*convs(I, H, H, O, kind=pyg.SAGEConv, aggr="sum", normalize=True)),
    "SAGE, project": lambda: stack(*convs(I, H, H, O, kind=pyg.SAGEConv, project=True)),
    "GraphConv": lambda: stack(*convs(I, H, H, O, kind=pyg.GraphConv)),
    "GAT": lambda: stack(pyg.GATConv(I, 3, 2), pyg.GATConv(6, 3, 2), pyg.GATConv(6, O, 2, concat=False)),
    "GAT, one head": lambda: stack(*convs(I, H, H, O, kind=pyg.GATConv)),
    "GATv2": lambda: stack(
        pyg.GATv2Conv(I, 3, 2), pyg.GATv2Conv(6, 3, 2, residual=True), pyg.GATv2Conv(6, O, 2, concat=False)),
    "GATv2, shared": lambda: stack(*convs(I, H, O, kind=pyg.GATv2Conv, share_weights=True)),
    "transformer": lambda: stack(
        pyg.TransformerConv(I, 3, 2), pyg.TransformerConv(6, 3, 2, beta=True), pyg.TransformerConv(6, O)),
    "transformer, edges": lambda: stack(
        pyg.TransformerConv(I, H, edge_dim=EDGE), pyg.TransformerConv(H, O), edges=True),
    "GIN": lambda: stack(*(pyg.GINConv(multi_layer(a, H, b), train_eps=True) for a, b in ((I, H), (H, H), (H, O)))),
    "GIN, norm": lambda: stack(*(pyg.GINConv(multi_layer(a, H, b, norm=nn.BatchNorm1d)) for a, b in ((I, H), (H, O)))),
    "PNA": lambda: stack(*convs(
        I, H, O, kind=pyg.PNAConv, aggregators=["mean", "max"], scalers=["identity", "amplification"], deg=DEGREES)),
    "JK cat": lambda: Model(
        jumping, convs=convs(I, H, H, H), jump=pyg.JumpingKnowledge("cat"), last=nn.Linear(3 * H, O)),
    "JK max": lambda: Model(
        jumping, convs=convs(I, H, H, H), jump=pyg.JumpingKnowledge("max"), last=nn.Linear(H, O)),
    "JK lstm": lambda: Model(
        jumping, convs=convs(I, H, H), jump=pyg.JumpingKnowledge("lstm", H, 2), last=nn.Linear(H, O)),
    "residual, batch norm": lambda: Model(
        residual, first=nn.Linear(I, H), convs=convs(H, H, H), norms=norms(nn.BatchNorm1d), last=nn.Linear(H, O)),
    "residual, layer norm": lambda: Model(
        residual, first=nn.Linear(I, H), convs=convs(H, H, H), norms=norms(nn.LayerNorm), last=nn.Linear(H, O)),
    "dense": lambda: Model(
        dense, convs=nn.ModuleList([pyg.GCNConv(I, 4), pyg.SAGEConv(I + 4, 4)]), last=nn.Linear(I + 8, O)),
    "MLP head": lambda: Model(headed, conv=pyg.SAGEConv(I, H), head=multi_layer(H, H, H, O)),
    "pooling": lambda: Model(pooled, first=pyg.GCNConv(I, H), last=nn.Linear(3 * H, O)),
    "edge pairs": lambda: Model(pairs, first=pyg.GCNConv(I, H), last=multi_layer(2 * H + EDGE, H, 1)),
    "gate of one channel": lambda: Model(
        gated, first=pyg.GCNConv(I, H), gate=nn.Linear(H, 1), value=nn.Linear(H, H), last=nn.Linear(H, O)),
    "gate per channel": lambda: Model(
        gated, first=pyg.GCNConv(I, H), gate=nn.Linear(H, H), value=nn.Linear(H, H), last=nn.Linear(H, O)),
    "halves": lambda: Model(halves, first=pyg.GCNConv(I, 2 * H), last=nn.Linear(H, O)),
    "two outputs": lambda: Model(
        two_outputs, first=pyg.SAGEConv(I, H), last=nn.Linear(H, O), other=pyg.SAGEConv(H, O)),
    "shared layer": lambda: Model(twice, first=nn.Linear(I, H), shared=nn.Linear(H, H), last=nn.Linear(H, O)),
}  # fmt: skip


def graph(nodes, edges, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, INPUT, generator=g, dtype=torch.float64)
    edge_attr = torch.randn(edges, EDGE, generator=g, dtype=torch.float64)
    return x, torch.randint(nodes, (2, edges), generator=g), edge_attr, torch.arange(nodes) * 2 // nodes


GRAPHS = (graph(7, 20, 1), graph(11, 40, 2))


def build(name, zeros):
    """The model in float64 with some of its channels masked (and some of their producers zero, bias included)."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)  # biases start at zero, norms at one
    masked = upscale_fx.mask(model, 0.5, criterion="random", example_inputs=GRAPHS[0])
    if zeros == "rows":
        with torch.no_grad():
            for module in masked.modules():
                weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
                if isinstance(weight, nn.Parameter) and weight.dim() == 2 and len(weight) == HIDDEN:
                    weight[[0, 3]] = 0  # one of each head: a head that is zero altogether would still need logits
                    if isinstance(bias, nn.Parameter):
                        bias[[0, 3]] = 0
    return masked


class Disturbed(fx.Interpreter):
    """Runs a graph, changing the results of some nodes on the way."""

    def __init__(self, module, change):
        super().__init__(module)
        self.change = change

    def run_node(self, n):
        result = super().run_node(n)
        return self.change(n, result) if isinstance(result, Tensor) and result.is_floating_point() else result


def run(module, arguments, change=lambda node, value: value):
    with torch.no_grad():
        return [
            leaf for leaf in pytree.tree_leaves(Disturbed(module, change).run(*arguments)) if isinstance(leaf, Tensor)
        ]


def largest_change(before, after):
    return max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))
