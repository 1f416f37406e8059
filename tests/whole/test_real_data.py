"""The five families on published graphs where these are stored, and always on one that PyG generates."""

import runpy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric import seed_everything
from torch_geometric.datasets import FakeDataset
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, global_add_pool

import prune_gnn
import upscale_fx
from tests.networks import FAMILIES
from tests.selection import only

STORED = prune_gnn.STORED if (prune_gnn.STORED / "load.py").is_file() else None
NODE_GRAPHS = ["generated", *(["cora", "minesweeper"] if STORED else [])]


@pytest.fixture(scope="module", params=only(["generated"], NODE_GRAPHS))
def graph(request):
    data = prune_gnn.load_graph(request.param, STORED)
    data.x = data.x.double()
    return data


@pytest.fixture(scope="module", params=only(["fake"], ["fake", *(["MUTAG"] if STORED else [])]))
def graphs(request):
    if STORED and request.param == "MUTAG":
        return runpy.run_path(str(STORED / "load.py"))["load_graphs"]("MUTAG", str(STORED))
    seed_everything(0)
    return list(FakeDataset(num_graphs=40, avg_num_nodes=20, num_channels=7))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_node_classifier_is_pruned_exactly(family, graph):
    torch.manual_seed(0)
    model = family(graph.num_features, 32, int(graph.y.max()) + 1).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(graph.x, graph.edge_index)[graph.train_mask], graph.y[graph.train_mask]).backward()
        optimizer.step()
    model.eval()
    masked, pruned = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(masked, pruned, (graph.x, graph.edge_index)) <= 1e-10
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert not torch.allclose(pruned(graph.x, graph.edge_index), model(graph.x, graph.edge_index), rtol=1e-3)


class GraphClassifier(nn.Module):
    """Three graph isomorphism layers, summed over the nodes of each graph."""

    def __init__(self, features):
        super().__init__()
        self.convs = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(i, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32)))
            for i in (features, 32, 32)
        )
        self.head = nn.Linear(32, 2)

    def forward(self, x, edge_index, batch):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(global_add_pool(x, batch))


def test_a_graph_classifier_is_pruned_exactly(graphs):
    torch.manual_seed(0)
    model = GraphClassifier(graphs[0].num_features).double()
    for batch in DataLoader(graphs, batch_size=16):
        model(batch.x.double(), batch.edge_index, batch.batch)  # running statistics of real graphs
    model.eval()
    masked, pruned = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    for batch in DataLoader(graphs, batch_size=7):
        arguments = batch.x.double(), batch.edge_index, batch.batch
        with torch.no_grad():
            expected, found = masked(*arguments), pruned(*arguments)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
