"""What counts as a batch, what arguments it stands for, and streams that are gone over more than once."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import DataLoader

import upscale_fx
from upscale_fx.compiled.batches import Batches, arguments_of
from upscale_fx.errors import InputError
from upscale_fx.models import SAGE

X, EDGES = torch.arange(12.0).reshape(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])


class Graph(nn.Module):
    """Takes a graph, its weights and the names PyG gives them."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x, edge_index, edge_weight=None, num_nodes=None):
        return self.lin(x)


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [(X, EDGES), {"x": X, "edge_index": EDGES}, Data(x=X, edge_index=EDGES), X],
    ids=["tuple", "dict", "Data", "tensor"],
)
def test_one_batch_is_a_stream_of_one(batch):
    stream = Batches(batch)
    assert [found is batch for found in stream] == [True]
    assert len(stream) == 1
    assert not stream.one_shot


def test_a_list_and_a_loader_are_streams_that_know_their_length():
    graphs = [Data(x=X, edge_index=EDGES) for _ in range(5)]
    assert len(Batches(graphs)) == 5
    loader = Batches(DataLoader(graphs, batch_size=2))
    assert len(loader) == 3
    for _ in range(2):
        assert [batch.num_graphs for batch in loader] == [2, 2, 1]


@pytest.mark.parametrize("source", [3, "batches", None, Graph()], ids=["int", "str", "None", "module"])
def test_what_is_no_stream_is_refused(source):
    with pytest.raises(InputError, match="expected batches, got a"):
        Batches(source)


def test_a_generator_is_gone_over_once_unless_it_is_spooled():
    stream = Batches((X, EDGES) for _ in range(3))
    assert stream.one_shot
    assert stream.length is None
    with pytest.raises(TypeError, match="does not know how many"):
        len(stream)
    assert sum(1 for _ in stream) == 3
    with pytest.raises(InputError, match=r"a generator gives its batches once.*pass a list of batches or a loader"):
        next(iter(stream))


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("source", [list, lambda: iter([])], ids=["list", "iterator"])
def test_a_stream_without_batches_says_so(source, replay):
    with pytest.raises(InputError, match="gave no batches"):
        list(Batches(source(), replay=replay))


def test_a_stream_that_runs_dry_says_so():
    class Once:
        """Not an iterator itself, but reads one that is used up."""

        def __init__(self):
            self.left = iter([(X, EDGES)])

        def __iter__(self):
            return (batch for batch in self.left)

    stream = Batches(Once())
    assert sum(1 for _ in stream) == 1
    with pytest.raises(InputError, match="gave no batches in pass 2"):
        list(stream)


# Spooling ------------------------------------------------------------------------------------------------------------


def test_a_spooled_generator_gives_the_same_batches_again():
    def draw():
        generator = torch.Generator().manual_seed(0)
        for size in (3, 5, 4):
            yield Data(x=torch.randn(size, 3, generator=generator), edge_index=EDGES, name=f"graph {size}")

    stream, expected = Batches(draw(), replay=True), list(draw())
    for _ in range(3):
        found = list(stream)
        assert [batch.name for batch in found] == ["graph 3", "graph 5", "graph 4"]
        assert all(torch.equal(a.x, b.x) for a, b in zip(found, expected, strict=True))
    assert len(stream) == 3


def test_what_a_reader_does_to_a_batch_is_not_stored():
    stream = Batches(((torch.ones(2, 3), EDGES) for _ in range(2)), replay=True)
    for x, _ in stream:
        x.zero_()
    assert [float(x.sum()) for x, _ in stream] == [6.0, 6.0]


def test_a_pass_that_was_left_early_is_taken_up_again():
    drawn = []

    def draw():
        for number in range(5):
            drawn.append(number)
            yield (torch.full((2,), float(number)),)

    stream = Batches(draw(), replay=True)
    assert [float(x[0]) for (x,), _ in zip(stream, range(2), strict=False)] == [0, 1]
    first, second = iter(stream), iter(stream)
    interleaved = [float(next(side)[0][0]) for _ in range(5) for side in (first, second)]
    assert interleaved == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert drawn == [0, 1, 2, 3, 4], "every batch is drawn once"


def test_spooled_batches_are_not_held_in_memory():
    made = []

    def draw():
        for _ in range(20):
            x = torch.randn(4, 3)
            made.append(weakref.ref(x))
            yield Data(x=x)

    most = 0
    stream = Batches(draw(), replay=True)
    for _ in stream:
        most = max(most, sum(reference() is not None for reference in made))
    assert len(made) == 20
    assert most <= 3, "the one that is read, the one before, and the one being made"


def test_a_spooled_slice_does_not_bring_the_tensor_it_was_cut_from():
    whole = torch.randn(100_000, 4)
    stream = Batches(((whole[i : i + 10], Data(x=whole[:5])) for i in range(4)), replay=True)
    assert sum(1 for _ in stream) == 4
    assert stream._spool.end < 20_000
    (x, data), *_ = stream
    assert torch.equal(x, whole[:10])
    assert torch.equal(data.x, whole[:5])


def test_the_file_goes_with_the_stream():
    stream = Batches(iter([(X, EDGES)]), replay=True)
    list(stream)
    file = stream._spool.file
    assert not file.closed
    del stream
    gc.collect()
    assert file.closed


def test_what_cannot_be_stored_is_named():
    with pytest.raises(InputError, match=r"a dict cannot be stored.*pass a list"):
        list(Batches(iter([{"f": lambda x: x}]), replay=True))


# Arguments -----------------------------------------------------------------------------------------------------------


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
