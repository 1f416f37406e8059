"""How often a model runs until the numbers of rows are found: loops over graphs and steps must not multiply."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, TopKPooling

import upscale_fx
from tests.comparison import assert_same_outputs

pytestmark = [
    pytest.mark.usefixtures("double_precision", "seeded"),
    pytest.mark.filterwarnings("ignore:.*was traced for graphs of:upscale_fx.UpscaleWarning"),
]

NODES, STEPS, GRAPHS = 11, 6, 3
CALLS: list[int] = []


class Counted(GCNConv):
    def forward(self, x, edge_index):
        CALLS.append(len(x))
        return super().forward(x, edge_index)


class Loop(nn.Module):
    """One convolution per graph and step; ``read`` says which axes a weight fixes."""

    def __init__(self, read, *sizes):
        super().__init__()
        self.conv, self.read = Counted(4, 12), read
        self.weight = nn.Parameter(torch.randn(*sizes, 12))
        self.o = nn.Linear(12, 3)

    def forward(self, x, edge_index):
        h = torch.stack([torch.stack([self.conv(step, edge_index) for step in graph]) for graph in x])
        return self.o(self.read(h, self.weight).relu())


def steps(h, weight):
    return torch.einsum("btnf,tf->bnf", h, weight)


def nodes(h, weight):
    return (h * weight).mean(1)


def both(h, weight):
    return (h * weight).sum(1)


def graph(n=NODES):
    return torch.cat([torch.arange(n).repeat(2).view(2, n), torch.randint(n, (2, 3 * n))], 1)


def example(b=GRAPHS, n=NODES):
    return torch.randn(b, STEPS, n, 4), graph(n)


class OneByOne(nn.Module):
    """A convolution per graph, and a weight per node."""

    def __init__(self):
        super().__init__()
        self.conv, self.o = Counted(4, 12), nn.Linear(12, 3)
        self.w = nn.Parameter(torch.randn(NODES, 12))

    def forward(self, x, edge_index):
        return self.o(torch.stack([self.conv(one, edge_index) for one in x]).relu() * self.w)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.o = Counted(4, 12), TopKPooling(12, 0.5), nn.Linear(12, 3)

    def forward(self, x, edge_index):
        return self.o(self.pool(self.conv(x, edge_index).relu(), edge_index)[0])


#: Model, its example, and the most calls of its convolution.
RUNS = {
    "a weight per step": (lambda: Loop(steps, STEPS), example, 600),
    "a weight per node": (lambda: Loop(nodes, NODES), example, 600),
    "a weight per step and node": (lambda: Loop(both, STEPS, NODES), example, 600),
    "graphs one by one": (OneByOne, lambda: (torch.randn(GRAPHS, NODES, 4), graph()), 100),
    "nothing is fixed": (Plain, lambda: (torch.randn(NODES, 4), graph()), 13),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_model_runs_rarely_until_its_sizes_are_found(name):
    make, call, most = RUNS[name]
    model, inputs = make().eval(), call()
    CALLS.clear()
    traced = upscale_fx.trace(model, inputs)
    assert len(CALLS) <= most
    assert_same_outputs(model, traced, [inputs, call()])


@pytest.mark.parametrize("name", ["a weight per step", "nothing is fixed"])
def test_few_runs_find_as_many_free_sizes(name):
    make, _, _ = RUNS[name]
    model = make().eval()
    inputs, other = (example(), example(n=17)) if name != "nothing is fixed" else (
        (torch.randn(NODES, 4), graph()), (torch.randn(17, 4), graph(17)))  # fmt: skip
    assert_same_outputs(model, upscale_fx.trace(model, inputs), [other])
