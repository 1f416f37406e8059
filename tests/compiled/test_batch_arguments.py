"""What arguments of a model a batch stands for."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import DataLoader

import upscale_fx
from tests.compiled.batched import EDGES, Graph, X
from upscale_fx.compiled.batches import arguments_of
from upscale_fx.errors import InputError
from upscale_fx.models import SAGE


def test_tuples_lists_dictionaries_and_tensors_are_arguments():
    model = Graph()
    assert arguments_of((X, EDGES), model) == ((X, EDGES), {})
    assert arguments_of([X, EDGES], model) == ((X, EDGES), {})
    assert arguments_of({"edge_index": EDGES, "x": X}, model) == ((), {"edge_index": EDGES, "x": X})
    assert arguments_of(X, nn.Linear(3, 2)) == ((X,), {})


def test_of_a_graph_those_attributes_are_taken_that_forward_names():
    data = Data(x=X, edge_index=EDGES, y=torch.zeros(4), edge_attr=torch.ones(3))
    args, kwargs = arguments_of(data, Graph())
    assert args == ()
    assert {name: id(value) for name, value in kwargs.items()} == {"x": id(data.x), "edge_index": id(data.edge_index)}
    data.edge_weight = torch.ones(3)
    assert set(arguments_of(data, Graph())[1]) == {"x", "edge_index", "edge_weight"}


def test_a_count_is_taken_where_it_must_be_given():
    class Counted(nn.Module):
        def forward(self, edge_index, num_nodes):
            return edge_index + num_nodes

    assert arguments_of(Data(x=X, edge_index=EDGES), Counted())[1]["num_nodes"] == 4


def test_of_a_heterogeneous_graph_dictionaries_are_taken():
    class Hetero(nn.Module):
        def forward(self, x_dict, edge_index_dict, edge_attr_dict=None):
            return x_dict

    data = HeteroData()
    data["paper"].x = X
    data["paper", "cites", "paper"].edge_index = EDGES
    _, kwargs = arguments_of(data, Hetero())
    assert kwargs["x_dict"]["paper"] is X
    assert kwargs["edge_index_dict"]["paper", "cites", "paper"] is EDGES
    assert "edge_attr_dict" not in kwargs


@pytest.mark.parametrize("name", ["data", "batch"])
def test_a_model_of_graphs_gets_the_graph(name):
    model = nn.Module()
    exec(f"def forward({name}): return {name}", space := {})
    model.forward = space["forward"]
    (batch,) = DataLoader([Data(x=X, edge_index=EDGES)])
    assert arguments_of(batch, model) == ((batch,), {})


def test_a_transform_gives_the_arguments_of_any_batch():
    data = Data(x=X, edge_index=EDGES)
    assert arguments_of(data, Graph(), lambda b: (b.x, b.edge_index)) == ((data.x, data.edge_index), {})
    assert arguments_of("any", Graph(), lambda b: {"x": X, "edge_index": EDGES})[1]["x"] is X
    assert set(arguments_of((data, 3), Graph(), lambda b: b[0])[1]) == {"x", "edge_index"}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Data(x=X), r"needs 'edge_index', which the Data batch does not have \(it has x\); pass transform="),
        ((X,), "missing a required argument: 'edge_index'; it is 1 positional arguments"),
        (X, "A list is a stream of batches: for one batch pass a tuple"),
        ({"x": X, "edge_indx": EDGES}, "missing a required argument: 'edge_index'; it is a dictionary of x, edge_indx"),
        ({"x": X, "edge_index": EDGES, "y": X}, "unexpected keyword argument 'y'"),
        (3, "a batch is a tuple, a dictionary or a Data object, got a int"),
    ],
    ids=["Data", "tuple", "tensor", "typing error", "label", "number"],
)
def test_what_does_not_fit_is_refused_by_name(batch, message):
    with pytest.raises(InputError, match=message):
        arguments_of(batch, Graph())


def test_a_compiled_graph_names_its_arguments_like_its_model():
    model = SAGE(3, 8, 2).eval()
    compiled = upscale_fx.prune(model, 0.5)
    data = Data(x=X, edge_index=EDGES, y=torch.zeros(4))
    for one in (model, compiled):
        args, kwargs = arguments_of(data, one)
        assert args == ()
        assert set(kwargs) == {"x", "edge_index"}
    with pytest.raises(InputError, match="needs 'edge_index'"):
        arguments_of(Data(x=X), compiled)


def test_a_graph_made_with_weights_needs_them():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = upscale_fx.models.SimpleGCN(3, 8, 8).convs[0], nn.Linear(8, 2)

        def forward(self, x, edge_index, edge_weight=None):
            return self.head(self.conv(x, edge_index, edge_weight).relu())

    compiled = upscale_fx.prune(Weighted(), 0.5, example_inputs=(X, EDGES, torch.ones(3)))
    with pytest.raises(InputError, match="needs 'edge_weight'"):
        arguments_of(Data(x=X, edge_index=EDGES), compiled)


def test_a_heterogeneous_graph_fits_models_that_name_no_dictionaries():
    data = HeteroData()
    data["user"].x, data["item"].x = torch.randn(3, 4), torch.randn(2, 4)
    edges = data["user", "buys", "item"].edge_index = torch.tensor([[0, 2], [1, 0]])

    class Named(nn.Module):
        def forward(self, x, edge_index):
            return x, edge_index

    args, kwargs = arguments_of(data, Named())  # as the models that to_hetero makes name them
    assert args == ()
    assert kwargs["x"].keys() == {"user", "item"}
    assert kwargs["edge_index"] == {("user", "buys", "item"): edges}


def test_arrays_are_no_tensors():
    with pytest.raises(InputError, match=r"NumPy arrays: pass tensors, such as torch\.from_numpy"):
        arguments_of((X.numpy(), EDGES.numpy()), Graph())
