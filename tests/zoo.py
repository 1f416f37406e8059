"""The model zoo: small models of every family, each by name, with the inputs it takes.

``ZOO`` maps a name to an :class:`Entry`. ``make(name)`` builds its model, in float64 and in ``eval()`` mode, with
random biases and norm statistics: freshly built layers have zero biases and would hide what a bias does to a dead
channel. ``Entry.inputs(nodes, edges, graphs, seed)`` gives arguments by name for a random graph with self loops, double
edges and isolated nodes. Models that lose nothing say in ``barrier`` which operation keeps every channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
import torch_geometric.nn as gnn
from torch import Tensor, nn
from torch_geometric.nn.models import GAT, GCN, GIN, PNA, GraphSAGE
from torch_geometric.utils import softmax

from upscale_fx import models

INPUT, HIDDEN, OUTPUT, EDGE = 12, 16, 5, 3


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        build: makes the model.
        arguments: names of its arguments, in order.
        needs_example: whether it cannot be traced without example inputs.
        barrier: why its weights cannot get smaller, or "" if they must.
    """

    build: Callable[[], nn.Module]
    arguments: str = "x edge_index"
    needs_example: bool = False
    barrier: str = ""

    def inputs(self, nodes: int, edges: int, graphs: int = 2, seed: int = 0) -> dict[str, Tensor]:
        """Arguments of one call on a random graph, features in float64."""
        draw = torch.Generator().manual_seed(seed)

        def features(rows: int, width: int) -> Tensor:
            return torch.randn(rows, width, generator=draw, dtype=torch.float64)

        made = {
            "x": features(nodes, INPUT),
            "edge_index": torch.randint(nodes, (2, edges), generator=draw),
            "edge_weight": torch.rand(edges, generator=draw, dtype=torch.float64) + 0.1,
            "edge_attr": features(edges, EDGE),
            "batch": torch.arange(nodes) * min(graphs, nodes) // nodes,
            "context": features(nodes, HIDDEN),
        }
        return {name: made[name] for name in self.arguments.split()}

    def example(self) -> dict[str, Tensor] | None:
        """What to pass as ``example_kwargs``."""
        return self.inputs(9, 22) if self.needs_example else None


def randomise(model: nn.Module) -> None:
    """Change biases, scales and statistics at random: fresh ones hide what they do to a dead channel."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        for key, buffer in model.named_buffers():
            if "running_" in key:
                buffer.add_(torch.rand_like(buffer), alpha=0.5)


def make(name: str, seed: int = 0) -> nn.Module:
    """Build a model of the zoo: float64, ``eval()``, every bias, scale and running statistic random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[name].build().double()
        randomise(model)
    return model.eval()


def without_dropout(model):
    """Set the rate of every dropout in a model to 0, be it a module, an attribute or a list; returns the model."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        elif isinstance(getattr(module, "dropout", None), list):
            module.dropout = [0.0] * len(module.dropout)
    return model


# Shapes of models ----------------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Convolutions with an activation and dropout between them; arguments after ``x`` go to every one."""

    def __init__(self, *convs, act=torch.relu, dropout=0.3):
        super().__init__()
        self.convs, self.act, self.dropout = nn.ModuleList(convs), act, dropout

    def run(self, x, *graph):
        for conv in self.convs[:-1]:
            x = F.dropout(self.act(conv(x, *graph)), self.dropout, self.training)
        return self.convs[-1](x, *graph)

    def forward(self, x, edge_index):
        return self.run(x, edge_index)


class WeightedStack(Stack):
    def forward(self, x, edge_index, edge_weight):
        return self.run(x, edge_index, edge_weight)


class EdgeStack(Stack):
    def forward(self, x, edge_index, edge_attr):
        return self.run(x, edge_index, edge_attr)


def chain(conv, *widths, act=torch.relu):
    """Layers of a convolution from width to width."""
    return Stack(*(conv(source, target) for source, target in pairwise(widths)), act=act)


def three(conv, stack=Stack, **options):
    """Three layers of a convolution whose output is as wide as it is told."""
    return stack(conv(INPUT, HIDDEN, **options), conv(HIDDEN, HIDDEN, **options), conv(HIDDEN, OUTPUT, **options))


def heads(conv, count=4, stack=Stack, **options):
    """Three attention layers whose hidden ones concatenate their heads and whose last one averages them."""
    each = HIDDEN // count
    return stack(
        conv(INPUT, each, heads=count, **options),
        conv(HIDDEN, each, heads=count, **options),
        conv(HIDDEN, OUTPUT, heads=count, concat=False, **options),
        act=F.elu,
    )


def averaged(conv, count=4, stack=Stack, **options):
    """Three attention layers that all average their heads."""
    return three(partial(conv, heads=count, concat=False), stack, **options)


def mlp(*widths, norm=False, act=nn.ReLU):
    """A plain MLP of linear layers."""
    layers = []
    for source, target in pairwise(widths):
        layers += [nn.Linear(source, target), *([nn.BatchNorm1d(target)] if norm else []), act()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def gin(norm=False, **options):
    """Three graph isomorphism layers."""
    widths = (INPUT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUT)
    return Stack(*(gnn.GINConv(mlp(i, HIDDEN, o, norm=norm), **options) for i, o in widths))


def gine(**options):
    """Three graph isomorphism layers with edge features."""
    widths = (INPUT, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUT)
    return EdgeStack(*(gnn.GINEConv(mlp(i, HIDDEN, o), edge_dim=EDGE, **options) for i, o in widths))


def gated_recurrent():
    """A gated recurrent layer between two convolutions."""
    return Stack(gnn.GCNConv(INPUT, HIDDEN), gnn.GatedGraphConv(HIDDEN, 2), gnn.GCNConv(HIDDEN, OUTPUT))


class Jumping(nn.Module):
    """Jumping knowledge over any convolution, read by a linear head."""

    def __init__(self, conv, mode, layers=3):
        super().__init__()
        self.convs = nn.ModuleList(conv(HIDDEN if i else INPUT, HIDDEN) for i in range(layers))
        self.jump = gnn.JumpingKnowledge(mode, channels=HIDDEN, num_layers=layers)
        self.lin = nn.Linear(HIDDEN * (layers if mode == "cat" else 1), OUTPUT)

    def forward(self, x, edge_index):
        layers = []
        for conv in self.convs:
            x = conv(x, edge_index).relu()
            layers.append(x)
        return self.lin(self.jump(layers))


class Residual(nn.Module):
    """Residual GCN: convolution, norm, relu, plus what came in."""

    def __init__(self, norm=nn.BatchNorm1d, layers=3):
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(gnn.GCNConv(HIDDEN, HIDDEN) for _ in range(layers))
        self.norms = nn.ModuleList(norm(HIDDEN) for _ in range(layers))

    def forward(self, x, edge_index):
        x = self.enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.relu(norm(conv(x, edge_index)))
        return self.leave(x)


class PreActivation(Residual):
    """Norm and relu before the convolution, the sum in place."""

    def forward(self, x, edge_index):
        x = self.enter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = conv(F.relu(norm(x)), edge_index)
            h += x
            x = h
        return self.leave(x)


class InitialResidual(nn.Module):
    """Every layer mixes in the first hidden value: one tensor with many readers."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.convs = nn.ModuleList(gnn.GCNConv(HIDDEN, HIDDEN) for _ in range(3))

    def forward(self, x, edge_index):
        first = x = self.enter(x).relu()
        for conv in self.convs:
            x = 0.9 * conv(x, edge_index).relu() + 0.1 * first
        return self.leave(x)


class Dense(nn.Module):
    """DenseNet-style: every layer reads the concatenation of all before it."""

    def __init__(self, conv=gnn.GCNConv, layers=3):
        super().__init__()
        self.enter = nn.Linear(INPUT, HIDDEN)
        self.convs = nn.ModuleList(conv(HIDDEN * (i + 1), HIDDEN) for i in range(layers))
        self.leave = nn.Linear(HIDDEN * (layers + 1), OUTPUT)

    def forward(self, x, edge_index):
        x = self.enter(x).relu()
        for conv in self.convs:
            x = torch.cat([x, conv(x, edge_index).relu()], dim=-1)
        return self.leave(x)


class RawAndHidden(nn.Module):
    """A concatenation of raw input features and a hidden value, read by a convolution and by the head."""

    def __init__(self):
        super().__init__()
        self.first = gnn.SAGEConv(INPUT, HIDDEN)
        self.second = gnn.SAGEConv(INPUT + HIDDEN, HIDDEN)
        self.leave = nn.Linear(2 * HIDDEN + INPUT, OUTPUT)

    def forward(self, x, edge_index):
        h = self.first(x, edge_index).relu()
        g = self.second(torch.cat([x, h], dim=1), edge_index).relu()
        return self.leave(torch.cat([h, g, x], dim=1))


class TwoInputs(nn.Module):
    """Two tensors of features, one of them added to a hidden value, both in a concatenation."""

    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(2 * HIDDEN, HIDDEN)
        self.leave = nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index, context):
        h = self.first(x, edge_index).relu()
        h = self.second(torch.cat([h, context], dim=-1), edge_index)
        return self.leave((h + context).relu())


class Headed(nn.Module):
    """Convolutions with an MLP head."""

    def __init__(self, head):
        super().__init__()
        self.conv, self.head = gnn.SAGEConv(INPUT, HIDDEN), head

    def forward(self, x, edge_index):
        return self.head(self.conv(x, edge_index).relu())


class Pooled(nn.Module):
    """Graph-level prediction: convolutions, one or more poolings side by side, an MLP."""

    def __init__(self, *pools, last=None):
        super().__init__()
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)])
        self.pools = pools
        self.head = last() if last is not None else mlp(HIDDEN * len(pools), HIDDEN, OUTPUT)

    def forward(self, x, edge_index, batch):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(torch.cat([pool(x, batch) for pool in self.pools], dim=-1))


def pyg_head():
    return gnn.MLP([HIDDEN, HIDDEN, OUTPUT], norm=None)


class PooledContext(nn.Module):
    """Node-level prediction with a global context: the pooled graph is given back to its nodes."""

    def __init__(self):
        super().__init__()
        self.conv, self.context = gnn.SAGEConv(INPUT, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.leave = nn.Linear(2 * HIDDEN, OUTPUT)

    def forward(self, x, edge_index, batch):
        h = self.conv(x, edge_index).relu()
        context = self.context(gnn.global_mean_pool(h, batch)).tanh()
        return self.leave(torch.cat([h, context[batch]], dim=-1))


class WholeGraph(nn.Module):
    """A prediction for a single graph: mean and max over its nodes, as a row `[1, C]` or as a vector `[C]`."""

    def __init__(self, row):
        super().__init__()
        self.conv, self.leave = gnn.GCNConv(INPUT, HIDDEN), nn.Linear(2 * HIDDEN, OUTPUT)
        self.row = row

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        return self.leave(torch.cat([h.mean(0, keepdim=self.row), h.max(0, keepdim=self.row).values], dim=-1))


class Gated(nn.Module):
    """A sigmoid gate on a hidden value, computed from another reader of the same tensor."""

    def __init__(self, width=HIDDEN):
        super().__init__()
        self.conv, self.again = gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)
        self.gate, self.leave = nn.Linear(HIDDEN, width), nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        return self.leave(self.again(h, edge_index) * torch.sigmoid(self.gate(h)))


class Highway(Gated):
    """A convex combination of the old value and the new one."""

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        share = torch.sigmoid(self.gate(h))
        return self.leave(share * self.again(h, edge_index) + (1 - share) * h)


class EdgeMLP(gnn.MessagePassing):
    """A message from both ends of an edge: an MLP of their concatenation, as in EdgeConv."""

    def __init__(self, source, target, edge=0, aggr="max"):
        super().__init__(aggr=aggr)
        self.in_channels, self.out_channels = source, target
        self.mlp = mlp(2 * source + edge, HIDDEN, target)

    def forward(self, x, edge_index, edge_attr=None):
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i, x_j, edge_attr):
        parts = [x_i, x_j - x_i] if edge_attr is None else [x_i, x_j, edge_attr]
        return self.mlp(torch.cat(parts, dim=-1))


def edge_conv(source, target):
    return gnn.EdgeConv(mlp(2 * source, HIDDEN, target))


class EdgeGate(gnn.MessagePassing):
    """Messages scaled by a sigmoid of both ends, `[E, 1]` times `[E, C]`, normalised over the edges of a node."""

    def __init__(self, source, target):
        super().__init__(aggr="add")
        self.lin, self.score = nn.Linear(source, target), nn.Linear(2 * target, 1)
        self.in_channels = source

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_i, x_j, index):
        share = softmax(self.score(torch.cat([x_i, x_j], dim=-1)), index)
        return share * x_j


class EdgeUpdates(nn.Module):
    """Hidden edge features that are updated from both ends and summed into the nodes, layer by layer."""

    def __init__(self):
        super().__init__()
        self.nodes, self.edges = nn.Linear(INPUT, HIDDEN), nn.Linear(EDGE, HIDDEN)
        self.edge_mlp, self.node_mlp = mlp(3 * HIDDEN, HIDDEN, HIDDEN), mlp(2 * HIDDEN, HIDDEN, HIDDEN)
        self.leave = nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index, edge_attr):
        h, e = self.nodes(x).relu(), self.edges(edge_attr).relu()
        for _ in range(2):  # both rounds share their weights
            e = e + self.edge_mlp(torch.cat([h[edge_index[0]], h[edge_index[1]], e], dim=-1)).relu()
            summed = torch.zeros_like(h).index_add(0, edge_index[1], e)
            h = h + self.node_mlp(torch.cat([h, summed], dim=-1)).relu()
        return self.leave(h)


class Calls(nn.Module):
    """The same linear module or the same convolution called several times."""

    def __init__(self, shared, times):
        super().__init__()
        self.enter, self.shared, self.leave = gnn.GCNConv(INPUT, HIDDEN), shared, nn.Linear(HIDDEN, OUTPUT)
        self.times = times

    def forward(self, x, edge_index):
        x = self.enter(x, edge_index).relu()
        for _ in range(self.times):
            x = (self.shared(x) if isinstance(self.shared, nn.Linear) else self.shared(x, edge_index)).relu()
        return self.leave(x)


class TwoBranches(nn.Module):
    """One linear module called on two different values, whose results are compared channel by channel."""

    def __init__(self):
        super().__init__()
        self.left, self.right = gnn.GCNConv(INPUT, HIDDEN), gnn.SAGEConv(INPUT, HIDDEN)
        self.shared, self.leave = nn.Linear(HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, OUTPUT)

    def forward(self, x, edge_index):
        a = self.shared(self.left(x, edge_index).relu())
        b = self.shared(self.right(x, edge_index).relu())
        return self.leave(torch.cat([(a - b).abs(), a * b], dim=-1))


class TwoHeads(nn.Module):
    """Returns logits and an embedding: the hidden value itself is an output."""

    def __init__(self, named=False, embed=True):
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, HIDDEN)])
        self.classify, self.regress = nn.Linear(HIDDEN, OUTPUT), nn.Linear(HIDDEN, 1)
        self.named, self.embed = named, embed

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        if self.named:
            return {"class": self.classify(x), "value": self.regress(x)}
        return (self.classify(x), x) if self.embed else (self.classify(x), self.regress(x))


class Halves(nn.Module):
    """A gated linear unit: the two halves of one wide value, taken apart in one of several ways."""

    def __init__(self, apart):
        super().__init__()
        self.conv, self.again = gnn.GCNConv(INPUT, 2 * HIDDEN), gnn.GCNConv(HIDDEN, 2 * HIDDEN)
        self.leave, self.apart = nn.Linear(HIDDEN, OUTPUT), apart

    def forward(self, x, edge_index):
        for conv in (self.conv, self.again):
            value, gate = self.apart(conv(x, edge_index))
            x = value * torch.sigmoid(gate)
        return self.leave(x)


def chunks(x):
    return x.chunk(2, dim=-1)


def splits(x):
    return torch.split(x, HIDDEN, dim=1)


def slices(x):
    return x[:, :HIDDEN], x[..., HIDDEN:]


def viewed(x):
    return x.view(-1, 2, HIDDEN).unbind(1)


def strided(x):
    return x[:, ::2], x[:, 1::2]


class GLU(Halves):
    """The same unit through ``F.glu``."""

    def forward(self, x, edge_index):
        for conv in (self.conv, self.again):
            x = F.glu(conv(x, edge_index), dim=-1)
        return self.leave(x)


class InPlace(nn.Module):
    """In-place activations, sums and scalings."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)])
        self.skip, self.leave = nn.Linear(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x, edge_index):
        h = self.act(self.convs[0](x, edge_index))
        h.add_(self.skip(x)).mul_(0.5)
        g = self.convs[1](h, edge_index).relu_()
        g += h
        return self.leave(g.clamp_(max=2.0))


class Assigned(nn.Module):
    """Item assignment: rows set to zero by a mask, and a slice of channels overwritten."""

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, HIDDEN)])
        self.leave, self.channels = nn.Linear(HIDDEN, OUTPUT), channels

    def forward(self, x, edge_index):
        h = self.convs[0](x, edge_index).relu()
        if self.channels:
            h[:, 2:5] = 0
        else:
            h[x[:, 0] > 0] = 0
        return self.leave(self.convs[1](h, edge_index).relu())


class DropoutModules(nn.Module):
    """Dropout as modules, after the activation and on the input."""

    def __init__(self):
        super().__init__()
        self.enter, self.between = nn.Dropout(0.2), nn.Dropout(0.5)
        self.convs = nn.ModuleList([gnn.GCNConv(INPUT, HIDDEN), gnn.GCNConv(HIDDEN, OUTPUT)])

    def forward(self, x, edge_index):
        return self.convs[1](self.between(self.convs[0](self.enter(x), edge_index).relu()), edge_index)


class Activations(nn.Module):
    """One activation after another, some of which turn zeros into something else."""

    def __init__(self, *acts):
        super().__init__()
        self.enter, self.leave = gnn.GCNConv(INPUT, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.acts, self.lins = (
            nn.ModuleList(act() for act in acts),
            nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in acts),
        )

    def forward(self, x, edge_index):
        x = self.enter(x, edge_index)
        for act, lin in zip(self.acts, self.lins, strict=True):
            x = act(lin(x))
        return self.leave(x)


class LinkScores(nn.Module):
    """Link prediction: a dot product of the two ends of every edge."""

    def __init__(self, mlp_decoder=False):
        super().__init__()
        self.convs = nn.ModuleList([gnn.SAGEConv(INPUT, HIDDEN), gnn.SAGEConv(HIDDEN, HIDDEN)])
        self.decode = mlp(2 * HIDDEN, HIDDEN, 1) if mlp_decoder else None

    def forward(self, x, edge_index):
        h = self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)
        source, target = h[edge_index[0]], h.index_select(0, edge_index[1])
        if self.decode is None:
            return (source * target).sum(dim=-1)
        return self.decode(torch.cat([source, target], dim=-1)).squeeze(-1)


class RawForms(nn.Module):
    """Weights as bare parameters: matmul, F.linear, addmm, an added bias, a per-channel scale."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(INPUT, HIDDEN)), nn.Parameter(torch.randn(HIDDEN, HIDDEN))
        self.third = nn.Parameter(torch.randn(HIDDEN, OUTPUT))
        self.bias, self.scale = nn.Parameter(torch.zeros(HIDDEN)), nn.Parameter(torch.ones(HIDDEN))
        self.shift = nn.Parameter(torch.zeros(OUTPUT))

    def forward(self, x, edge_index):
        h = (x @ self.first + self.bias).relu()
        h = torch.zeros_like(h).index_add_(0, edge_index[1], h[edge_index[0]])
        h = F.linear(h, self.second, self.bias).tanh() * self.scale
        return torch.addmm(self.shift, h, self.third)


class Normed(nn.Module):
    """A norm between two convolutions, some norms with the graph each node belongs to."""

    def __init__(self, norm, graphs=False):
        super().__init__()
        self.enter, self.norm, self.leave = gnn.GCNConv(INPUT, HIDDEN), norm, gnn.GCNConv(HIDDEN, HIDDEN)
        self.graphs, self.head = graphs, nn.Linear(HIDDEN, OUTPUT)

    def forward(self, x, edge_index, batch):
        h = self.enter(x, edge_index)
        h = (self.norm(h, batch) if self.graphs else self.norm(h)).relu()
        return self.head(self.leave(h, edge_index).relu())


# The grid of torch_geometric.nn.models -------------------------------------------------------------------------------

DEGREES = torch.tensor([2, 4, 3, 2, 1])
BASIC: dict[str, Callable[..., nn.Module]] = {
    "GCN": GCN,
    "GraphSAGE": GraphSAGE,
    "GAT": partial(GAT, heads=4),
    "GATv2": partial(GAT, heads=2, v2=True),
    "GIN": GIN,
    "PNA": partial(
        PNA, aggregators=["mean", "max", "std"], scalers=["identity", "amplification", "attenuation"], deg=DEGREES
    ),
}
NORMS = (None, "batch_norm", "layer_norm", "graph_norm", "instance_norm", "pair_norm")


def basic(family, jk, norm):
    return BASIC[family](INPUT, HIDDEN, 3, OUTPUT, dropout=0.2, act="elu" if jk == "cat" else "relu", jk=jk, norm=norm)


def basic_grid() -> dict[str, Entry]:
    """Every family with every jk and, rotating, every norm; entries with a norm also know the batch."""
    grid = {}
    for row, family in enumerate(BASIC):
        for column, jk in enumerate((None, "last", "cat", "max", "lstm")):
            norm = NORMS[(row + column) % len(NORMS)]
            batched = norm in ("layer_norm", "graph_norm", "instance_norm", "pair_norm")
            arguments = "x edge_index batch" if batched else "x edge_index"
            entry = Entry(partial(basic, family, jk, norm), arguments, needs_example=batched)
            grid[f"basic-{family}-{jk}-{norm}"] = entry
    return grid


# The table -----------------------------------------------------------------------------------------------------------

WEIGHTED, EDGES, BATCHED = "x edge_index edge_weight", "x edge_index edge_attr", "x edge_index batch"
POOLS = gnn.global_add_pool, gnn.global_mean_pool, gnn.global_max_pool

ZOO: dict[str, Entry] = {
    # graph convolution
    "gcn": Entry(partial(three, gnn.GCNConv)),
    "gcn-2": Entry(partial(chain, gnn.GCNConv, INPUT, HIDDEN, OUTPUT)),
    "gcn-10": Entry(partial(chain, gnn.GCNConv, INPUT, *[HIDDEN] * 9, OUTPUT)),
    "gcn-weighted": Entry(partial(three, gnn.GCNConv, WeightedStack), WEIGHTED),
    "gcn-plain": Entry(partial(three, gnn.GCNConv, normalize=False, bias=False)),
    "gcn-improved": Entry(partial(three, gnn.GCNConv, improved=True)),
    "gcn-odd-widths": Entry(partial(chain, gnn.GCNConv, INPUT, 7, 31, OUTPUT, act=torch.tanh)),
    # GraphSAGE
    "sage-mean": Entry(partial(three, gnn.SAGEConv)),
    "sage-max": Entry(partial(three, gnn.SAGEConv, aggr="max")),
    "sage-sum": Entry(partial(three, gnn.SAGEConv, aggr="sum")),
    "sage-project": Entry(partial(three, gnn.SAGEConv, project=True)),
    "sage-normalize": Entry(partial(three, gnn.SAGEConv, normalize=True)),
    "sage-no-root": Entry(partial(three, gnn.SAGEConv, root_weight=False)),
    "sage-max-project-normalize": Entry(partial(three, gnn.SAGEConv, aggr="max", project=True, normalize=True)),
    "sage-two-aggregations": Entry(partial(three, gnn.SAGEConv, aggr=["mean", "max"])),
    "sage-5-sigmoid": Entry(partial(chain, gnn.SAGEConv, INPUT, *[HIDDEN] * 4, OUTPUT, act=torch.sigmoid)),
    # attention
    "gat-1": Entry(partial(heads, gnn.GATConv, 1)),
    "gat-4": Entry(partial(heads, gnn.GATConv)),
    "gat-mean": Entry(partial(averaged, gnn.GATConv)),
    "gat-residual": Entry(partial(heads, gnn.GATConv, residual=True)),
    "gat-residual-mean": Entry(partial(averaged, gnn.GATConv, residual=True)),
    "gat-edges": Entry(partial(heads, gnn.GATConv, stack=EdgeStack, edge_dim=EDGE), EDGES),
    "gat-dropout": Entry(partial(heads, gnn.GATConv, 2, dropout=0.4, add_self_loops=False)),
    "gatv2-1": Entry(partial(heads, gnn.GATv2Conv, 1)),
    "gatv2-4": Entry(partial(heads, gnn.GATv2Conv)),
    "gatv2-mean": Entry(partial(averaged, gnn.GATv2Conv)),
    "gatv2-shared": Entry(partial(heads, gnn.GATv2Conv, share_weights=True)),
    "gatv2-residual": Entry(partial(heads, gnn.GATv2Conv, residual=True)),
    "gatv2-residual-shared-mean": Entry(partial(averaged, gnn.GATv2Conv, residual=True, share_weights=True)),
    "gatv2-edges": Entry(partial(heads, gnn.GATv2Conv, stack=EdgeStack, edge_dim=EDGE), EDGES),
    "transformer-1": Entry(partial(heads, gnn.TransformerConv, 1)),
    "transformer-4": Entry(partial(heads, gnn.TransformerConv)),
    "transformer-mean": Entry(partial(averaged, gnn.TransformerConv)),
    "transformer-beta": Entry(partial(heads, gnn.TransformerConv, beta=True)),
    "transformer-beta-mean": Entry(partial(averaged, gnn.TransformerConv, beta=True)),
    "transformer-no-root": Entry(partial(heads, gnn.TransformerConv, root_weight=False)),
    "transformer-edges": Entry(partial(heads, gnn.TransformerConv, stack=EdgeStack, edge_dim=EDGE), EDGES),
    "transformer-edges-beta": Entry(partial(heads, gnn.TransformerConv, 2, EdgeStack, edge_dim=EDGE, beta=True), EDGES),
    # graph isomorphism
    "gin": Entry(gin),
    "gin-eps": Entry(partial(gin, train_eps=True)),
    "gin-norm": Entry(partial(gin, norm=True)),
    "gine": Entry(gine, EDGES, needs_example=True),
    "gine-eps": Entry(partial(gine, train_eps=True), EDGES, needs_example=True),
    # joined layers
    "jk-cat": Entry(partial(Jumping, gnn.GCNConv, "cat")),
    "jk-max": Entry(partial(Jumping, gnn.GCNConv, "max")),
    "jk-lstm": Entry(partial(Jumping, gnn.GCNConv, "lstm")),
    "jk-cat-sage": Entry(partial(Jumping, gnn.SAGEConv, "cat", 5)),
    "residual-batch-norm": Entry(Residual),
    "residual-instance-norm": Entry(partial(Residual, gnn.InstanceNorm)),
    "residual-layer-norm": Entry(partial(Residual, nn.LayerNorm)),
    "residual-none": Entry(partial(Residual, lambda width: nn.Identity(), 5)),
    "pre-activation": Entry(PreActivation),
    "initial-residual": Entry(InitialResidual),
    "dense-gcn": Entry(Dense),
    "dense-sage": Entry(partial(Dense, gnn.SAGEConv)),
    "raw-and-hidden": Entry(RawAndHidden),
    "two-inputs": Entry(TwoInputs, "x edge_index context", needs_example=True),
    # heads and pooling
    "mlp-head": Entry(lambda: Headed(mlp(HIDDEN, HIDDEN, HIDDEN, OUTPUT))),
    "mlp-head-norm": Entry(lambda: Headed(mlp(HIDDEN, HIDDEN, HIDDEN, OUTPUT, norm=True, act=nn.GELU))),
    "mlp-head-pyg": Entry(lambda: Headed(gnn.MLP([HIDDEN, HIDDEN, HIDDEN, OUTPUT], dropout=0.5))),
    "mlp-head-pyg-layer-norm": Entry(lambda: Headed(gnn.MLP([HIDDEN, HIDDEN, OUTPUT], norm="layer_norm", act="tanh"))),
    "pool-add": Entry(partial(Pooled, gnn.global_add_pool), BATCHED),
    "pool-mean": Entry(partial(Pooled, gnn.global_mean_pool), BATCHED),
    "pool-max": Entry(partial(Pooled, gnn.global_max_pool), BATCHED),
    "pool-all": Entry(partial(Pooled, *POOLS), BATCHED),
    "pool-mlp": Entry(partial(Pooled, gnn.global_add_pool, last=pyg_head), BATCHED),
    "pool-context": Entry(PooledContext, BATCHED),
    "pool-whole-graph": Entry(partial(WholeGraph, row=True)),
    "pool-vector": Entry(partial(WholeGraph, row=False)),
    # gates and edges
    "gate": Entry(Gated),
    "gate-scalar": Entry(partial(Gated, 1)),
    "highway": Entry(Highway),
    "edge-mlp": Entry(partial(three, EdgeMLP)),
    "edge-mlp-features": Entry(partial(three, EdgeMLP, EdgeStack, edge=EDGE, aggr="mean"), EDGES, needs_example=True),
    "edge-gate": Entry(partial(three, EdgeGate)),
    "edge-conv": Entry(partial(chain, edge_conv, INPUT, HIDDEN, OUTPUT), needs_example=True),
    "edge-updates": Entry(EdgeUpdates, EDGES, needs_example=True),
    "link-dot": Entry(LinkScores),
    "link-mlp": Entry(partial(LinkScores, mlp_decoder=True)),
    # calls, outputs, forms
    "linear-twice": Entry(lambda: Calls(nn.Linear(HIDDEN, HIDDEN), 2)),
    "conv-three-times": Entry(lambda: Calls(gnn.SAGEConv(HIDDEN, HIDDEN), 3)),
    "two-branches": Entry(TwoBranches),
    "tuple-output": Entry(partial(TwoHeads, embed=False)),
    "tuple-embedding": Entry(TwoHeads),
    "named-output": Entry(partial(TwoHeads, named=True)),
    "glu-chunk": Entry(partial(Halves, chunks)),
    "glu-split": Entry(partial(Halves, splits)),
    "glu-slices": Entry(partial(Halves, slices)),
    "glu-view": Entry(partial(Halves, viewed)),
    "glu-strided": Entry(partial(Halves, strided)),
    "glu-function": Entry(partial(GLU, chunks)),
    "in-place": Entry(InPlace),
    "assigned-rows": Entry(partial(Assigned, channels=False)),
    "assigned-channels": Entry(partial(Assigned, channels=True)),
    "dropout-modules": Entry(DropoutModules),
    "activations": Entry(partial(Activations, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.PReLU, nn.Sigmoid, nn.Hardtanh)),
    "activations-more": Entry(partial(Activations, nn.SiLU, partial(nn.PReLU, HIDDEN), nn.GELU, nn.ReLU6, nn.Tanh)),
    "activations-softmax": Entry(partial(Activations, partial(nn.Softmax, dim=-1), nn.ReLU)),
    "raw-forms": Entry(RawForms, needs_example=True),
    # norms
    "norm-graph": Entry(lambda: Normed(gnn.GraphNorm(HIDDEN), True), BATCHED),
    "norm-instance": Entry(lambda: Normed(gnn.InstanceNorm(HIDDEN, affine=True), True), BATCHED),
    "norm-pair": Entry(lambda: Normed(gnn.PairNorm(), True), BATCHED),
    "norm-layer-node": Entry(lambda: Normed(gnn.LayerNorm(HIDDEN, mode="node")), BATCHED),
    "norm-batch-pyg": Entry(lambda: Normed(gnn.BatchNorm(HIDDEN)), BATCHED),
    "norm-size": Entry(lambda: Normed(gnn.GraphSizeNorm(), True), BATCHED),
    "norm-group": Entry(lambda: Normed(nn.GroupNorm(4, HIDDEN)), BATCHED),
    # the five families
    "family-gcn": Entry(lambda: models.SimpleGCN(INPUT, HIDDEN, OUTPUT)),
    "family-sage": Entry(lambda: models.SAGE(INPUT, HIDDEN, OUTPUT)),
    "family-gatv2": Entry(lambda: models.GATv2(INPUT, HIDDEN, OUTPUT)),
    "family-transformer": Entry(lambda: models.GraphTransformer(INPUT, HIDDEN, OUTPUT)),
    "family-jknet": Entry(lambda: models.JKNet(INPUT, HIDDEN, OUTPUT)),
    "family-jknet-max": Entry(lambda: models.JKNet(INPUT, HIDDEN, OUTPUT, mode="max")),
    # layers without a family of their own: whatever has no rule is kept
    "more-graph-conv": Entry(partial(three, gnn.GraphConv)),
    "more-gated": Entry(partial(three, gnn.ResGatedGraphConv)),
    "more-tag": Entry(partial(three, gnn.TAGConv, K=2)),
    "more-cheb": Entry(partial(three, gnn.ChebConv, K=2)),
    "more-sg": Entry(partial(three, gnn.SGConv, K=2)),
    "more-gated-recurrent": Entry(gated_recurrent),
    "more-gen": Entry(partial(three, gnn.GENConv)),
    "more-film": Entry(partial(three, gnn.FiLMConv)),
    **basic_grid(),
}  # fmt: skip
