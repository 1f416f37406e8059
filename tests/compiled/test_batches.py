"""What counts as a batch, and streams that are gone over more than once."""

import gc
import tempfile
import weakref

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from tests.compiled.batched import EDGES, Graph, X
from upscale_fx.compiled.batches import Batches
from upscale_fx.errors import InputError

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


@pytest.fixture
def files(monkeypatch):
    """The temporary files that are made."""
    made, make = [], tempfile.TemporaryFile

    def keep(*args, **kwargs):
        made.append(make(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", keep)
    return made


def test_a_spooled_slice_does_not_bring_the_tensor_it_was_cut_from(files):
    whole = torch.randn(100_000, 4)
    stream = Batches(((whole[i : i + 10], Data(x=whole[:5])) for i in range(4)), replay=True)
    assert sum(1 for _ in stream) == 4
    (file,) = files
    assert file.seek(0, 2) < 20_000
    (x, data), *_ = stream
    assert torch.equal(x, whole[:10])
    assert torch.equal(data.x, whole[:5])


def test_the_file_goes_with_the_stream(files):
    stream = Batches(iter([(X, EDGES)]), replay=True)
    list(stream)
    (file,) = files
    assert not file.closed
    del stream
    gc.collect()
    assert file.closed


def test_what_cannot_be_stored_is_named():
    with pytest.raises(InputError, match=r"a dict cannot be stored.*pass a list"):
        list(Batches(iter([{"f": lambda x: x}]), replay=True))
