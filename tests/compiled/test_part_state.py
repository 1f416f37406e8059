"""States of single modules of a compiled graph say which channels they are for, and load into those only."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

import upscale_fx
from tests.comparison import same_state, state
from tests.networks import random_graph

WIDTH = 6
INPUTS = random_graph(16, 50, WIDTH)
KEY = "_extra_state"


class Net(nn.Module):
    """Convolutions in a list, a norm, a recurrent layer and a head."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([SAGEConv(WIDTH, 8), GCNConv(8, 8), GATConv(8, 4, heads=2)])
        self.norm, self.rnn = nn.BatchNorm1d(8), nn.GRU(8, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(self.rnn(self.norm(x)[:, None])[0][:, 0].relu())


def pruned(seed=0, **options):
    """A model and its pruned graph; seeds keep other channels."""
    torch.manual_seed(seed)
    model = Net().double().eval()
    return model, upscale_fx.prune(model, 0.5, **options)


#: Modules that hold cut parameters: a list, a layer, a linear layer, a norm, a recurrent layer, a container, a head.
PARTS = ["convs", "convs.0", "convs.1", "convs.0.lin_l", "norm", "rnn", "head", "head.0", "head.2"]


def changed(graph):
    """The graph with other weights."""
    with torch.no_grad():
        for value in graph.parameters():
            value.mul_(1.5)
    return graph


@pytest.mark.parametrize("path", PARTS)
def test_a_state_of_a_part_loads_into_the_same_part_of_a_graph_with_the_same_channels(path):
    _, graph = pruned()
    expected = changed(copy.deepcopy(graph))
    for target in (copy.deepcopy(graph), upscale_fx.compact(graph), pickle.loads(pickle.dumps(graph))):
        file = io.BytesIO()
        torch.save(expected.get_submodule(path).state_dict(), file)
        file.seek(0)
        target.get_submodule(path).load_state_dict(torch.load(file, weights_only=True))
        assert same_state(state(target.get_submodule(path)), state(expected.get_submodule(path)))
        averaged = {key: value.clone() for key, value in expected.get_submodule(path).state_dict().items()}
        target.get_submodule(path).load_state_dict(averaged)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("path", PARTS)
def test_a_state_of_other_channels_is_refused(path, strict):
    (_, graph), (model, other) = pruned(), pruned(seed=3)
    part = graph.get_submodule(path)
    before = state(part)
    with pytest.raises(
        upscale_fx.StateError, match=rf"not of this graph of the part '{path}'.*other channels are kept"
    ):
        part.load_state_dict(other.get_submodule(path).state_dict(), strict=strict)
    with pytest.raises(upscale_fx.StateError, match=rf"does not say which channels of '{path}'.*whole graph"):
        part.load_state_dict(model.get_submodule(path).state_dict(), strict=strict)
    assert same_state(before, state(part)), "nothing of it was loaded"


def test_the_state_of_the_whole_graph_has_one_digest_and_parts_inside_of_others_none():
    _, graph = pruned()
    assert [key for key in graph.state_dict() if key.endswith(KEY)] == [KEY]
    assert [key for key in graph.get_submodule("convs").state_dict() if key.endswith(KEY)] == [KEY]
    around = nn.ModuleDict({"net": graph})
    assert [key for key in around.state_dict() if key.endswith(KEY)] == [f"net.{KEY}"]
    around.load_state_dict(around.state_dict())


def test_parts_of_graphs_with_all_channels_share_states_with_the_model():
    model, _ = pruned()
    for graph in (upscale_fx.trace(model), upscale_fx.optimize(upscale_fx.trace(model))):
        for path in PARTS:
            own = graph.get_submodule(path).state_dict()
            assert KEY not in own
            graph.get_submodule(path).load_state_dict(model.get_submodule(path).state_dict(), strict=False)


def test_the_digest_of_a_part_does_not_depend_on_other_parts():
    _, graph = pruned()
    half, other = pruned(ignore=["head.2"])[1], upscale_fx.prune(graph, 0.2)
    assert half.get_extra_state().tolist() != graph.get_extra_state().tolist()
    half.get_submodule("convs").load_state_dict(graph.get_submodule("convs").state_dict())
    with pytest.raises(upscale_fx.StateError):
        other.get_submodule("rnn").load_state_dict(graph.get_submodule("rnn").state_dict())
