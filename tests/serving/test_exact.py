"""Streams of random changes and questions: after each, answers are those of the compiled model on the whole graph."""

import random

import pytest
import torch
from torch import nn
from torch_geometric import nn as gnn
from torch_geometric.nn.models import GAT, GCN, GIN, PNA, GraphSAGE

import upscale_fx
from upscale_fx import Server

WIDTH, EDGE, NODES = 8, 4, 200


class Weighted(nn.Module):
    """Edges have weights, or several channels."""

    def __init__(self, first, second, name):
        super().__init__()
        self.first, self.second, self.name = first, second, name

    def forward(self, x, edge_index, edge_weight=None, edge_attr=None):
        given = {"edge_weight": edge_weight, "edge_attr": edge_attr}[self.name]
        return self.second(self.first(x, edge_index, given).relu(), edge_index, given)


class Polynomials(nn.Module):
    """One value for the whole graph is computed from its edges."""

    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.ChebConv(WIDTH, 16, 3), gnn.TransformerConv(16, 4, heads=2)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


def gine(inputs, outputs):
    return gnn.GINEConv(nn.Linear(inputs, outputs), edge_dim=EDGE)


def pna(**options):
    scalers = {"scalers": ["identity", "amplification"], "deg": torch.tensor([1, 2, 30])}
    return PNA(WIDTH, 16, 2, 4, aggregators=["mean", "max", "std"], **scalers, **options)


MODELS = {
    "gcn": (lambda: GCN(WIDTH, 16, 3, 4), None),
    "gcn, batch norm": (lambda: GCN(WIDTH, 16, 2, 4, norm="batch_norm"), None),
    "gcn, weights": (lambda: Weighted(gnn.GCNConv(WIDTH, 16), gnn.GCNConv(16, 4), "edge_weight"), "edge_weight"),
    "sage, cat": (lambda: GraphSAGE(WIDTH, 16, 3, 4, jk="cat"), None),
    "sage, max": (lambda: GraphSAGE(WIDTH, 16, 2, 4, aggr="max"), None),
    "gin": (lambda: GIN(WIDTH, 16, 2, 4), None),
    "gat, max": (lambda: GAT(WIDTH, 16, 3, 4, heads=2, jk="max"), None),
    "gatv2": (lambda: GAT(WIDTH, 16, 2, 4, v2=True, heads=2), None),
    "pna, towers": (lambda: pna(towers=2), None),
    "cheb, transformer": (Polynomials, None),
    "gine": (lambda: Weighted(gine(WIDTH, 16), gine(16, 4), "edge_attr"), "edge_attr"),
}  # fmt: skip
#: Their sigmoids differ in the last bits by where a number stands.
NEAR = {"sage, lstm": (lambda: GraphSAGE(WIDTH, 16, 2, 4, aggr="max", jk="lstm"), None)}


def values(name, count):
    return {} if name is None else {name: torch.rand(count, *([EDGE] if name == "edge_attr" else []))}


def made(name):
    """A pruned model, and the graph that it starts with."""
    torch.manual_seed(0)
    build, edges = {**MODELS, **NEAR}[name]
    x, edge_index = torch.randn(NODES, WIDTH), torch.randint(NODES, (2, 900))
    options = {"example_inputs": (x, edge_index), "example_kwargs": values(edges, 900)}
    return upscale_fx.prune(build().eval(), 0.5, **options), options, edges


def stream(server, edges, steps, seed=0):
    """Change the graph in all ways; yield some nodes to ask for."""
    chance, there = random.Random(seed), set(range(NODES))
    for _ in range(steps):
        what, living = chance.random(), sorted(there)
        if what < 0.3:
            pairs = torch.tensor([chance.choices(living, k=3), chance.choices(living, k=3)])
            server.add_edges(pairs, **values(edges, 3))
        elif what < 0.45:
            now = server.inputs()[1]
            server.remove_edges(now[:, [chance.randrange(now.size(1))]])
        elif what < 0.55:
            with server.transaction():
                new = server.add_nodes(torch.randn(2, WIDTH))
                server.add_edges(torch.stack([new, torch.tensor(chance.choices(living, k=2))]), **values(edges, 2))
            there.update(new.tolist())
        elif what < 0.6:
            gone = chance.choice(living)
            server.remove_nodes([gone])
            there.discard(gone)
        elif what < 0.8:
            server.update_features(chance.sample(living, 2), torch.randn(2, WIDTH))
        elif edges is not None:
            now = server.inputs()[1][:, :2].unique(dim=1)
            server.update_edges(now, **values(edges, now.size(1)))
        yield chance.choices(sorted(there), k=chance.randint(1, 8))


def largest_difference(name, steps, **options):
    compiled, inputs, edges = made(name)
    server = Server(compiled, *inputs["example_inputs"], **inputs["example_kwargs"], **options)
    worst = 0.0
    for ids in stream(server, edges, steps):
        with torch.no_grad():
            whole = compiled(*server.inputs())[ids]
        worst = max(worst, float((server(ids) - whole).abs().max()))
    return worst


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_whole_graph_bit_for_bit(name):
    eager = list(MODELS).index(name) % 2 == 1
    assert largest_difference(name, 100, eager=eager) == 0


@pytest.mark.parametrize("name", NEAR)
def test_answers_are_near_those_of_the_whole_graph(name):
    assert largest_difference(name, 100) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_long_streams(name, eager):
    assert largest_difference(name, 400, eager=eager) == 0
