"""Models that take and return objects: their graphs take and return the same, and compute the same."""

import copy
import pickle

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import upscale_fx
from tests.comparison import assert_same
from tests.selection import only
from tests.tracing import object_models as models
from upscale_fx.compiled.objects.kinds import attributes_of, is_object

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


def plain(value):
    """A result with dictionaries in place of objects, and the names of their classes."""
    if (is_object(value) and not isinstance(value, list | tuple | dict)) or hasattr(value, "_fields"):
        return {"class": type(value).__name__, **{key: plain(item) for key, item in attributes_of(value).items()}}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def assert_prunes(model, arguments, **options):
    """Trace, mask and prune a model; graphs and masked model agree on objects of the call."""
    model = model.eval()
    traced = upscale_fx.trace(model, **options)
    assert_same(plain(model(*copy.deepcopy(arguments))), plain(traced(*arguments)))
    masked, pruned = upscale_fx.mask(model, 0.5, **options), upscale_fx.prune(model, 0.5, **options)
    expected = plain(masked(*copy.deepcopy(arguments)))
    before = plain(list(arguments))
    assert_same(expected, plain(pruned(*arguments)))
    assert_same(before, plain(list(arguments)))
    assert sum(p.numel() for p in pruned.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    return masked, pruned, expected


@pytest.mark.parametrize("name", only(["attributes", "counts", "hetero", "sets", "a dataclass"], models.CALLS))
def test_objects_are_examples_and_arguments(name):
    model, make = models.CALLS[name]
    arguments = make()
    masked, pruned, expected = assert_prunes(model(), arguments, example_inputs=arguments)
    assert upscale_fx.verify(masked, pruned, arguments) < 1e-10
    for other in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), upscale_fx.optimize(pruned)):
        assert_same(expected, plain(other(*arguments)))
    again = upscale_fx.prune(pruned, 0.5)
    assert_same(plain(upscale_fx.mask(pruned, 0.5)(*arguments)), plain(again(*arguments)))


@pytest.mark.parametrize("name", only(["dataclass", "Data"], models.RESULTS))
def test_results_come_back_as_they_were(name):
    arguments = models.tensors()
    masked, pruned, expected = assert_prunes(models.Returns(models.RESULTS[name]), arguments, example_inputs=arguments)
    assert upscale_fx.verify(masked, pruned, arguments) < 1e-10
    assert_same(expected, plain(pickle.loads(pickle.dumps(pruned))(*arguments)))


@pytest.mark.parametrize(
    ("model", "call"),
    [
        (models.Nodes, models.graph),
        (models.Pooled, models.batch),
        pytest.param(models.Counted, models.batch, marks=pytest.mark.slow),
        pytest.param(models.Unused, lambda: models.graph(y=torch.rand(30)), marks=pytest.mark.slow),
        pytest.param(models.Seeds, lambda: models.graph(batch_size=3), marks=pytest.mark.slow),
        pytest.param(models.Items, models.graph, marks=pytest.mark.slow),
    ],
)
def test_attributes_are_guessed_from_what_forward_reads(model, call):
    assert_prunes(model(), (call(),))


def test_attributes_that_cannot_be_guessed_are_named():
    with pytest.raises(upscale_fx.InputError, match=r"reads data.x, data.edge_index, .*data.kind.*_inputs=\(data,"):
        upscale_fx.prune(models.Kind(), 0.5)
    with pytest.raises(upscale_fx.InputError, match=r"data\.x_dict"):
        upscale_fx.prune(models.Typed(), 0.5)
    with pytest.raises(upscale_fx.InputError, match="argument 'pairs'"):
        upscale_fx.prune(models.Pairs(), 0.5)


REFUSED = [
    (models.Pooled, models.batch, models.graph, "reads data.batch, which the Data does not have"),
    (models.Pooled, models.graph, models.batch, "data.batch was missing when this graph was traced"),
    (models.Optional, models.graph, lambda: models.graph(edge_weight=torch.rand(120)), "data.edge_weight was missing"),
    (models.Optional, models.graph, lambda: models.graph(strength=torch.rand(120)), "data.strength was missing"),
    (models.Kind, lambda: models.graph(kind="a"), lambda: models.graph(kind="b"), "'kind' was 'a'"),
    (models.Listing, models.graph, lambda: models.graph(y=torch.rand(30)), "lists the attributes of data, and y"),
    (models.Several, lambda: [models.graph()], lambda: [models.graph(), models.graph()], "had 1 items"),
    (models.Nodes, models.graph, lambda: Data(x=torch.randn(3, 4), edge_index=torch.zeros(2, 1).long()), "width 8"),
    (models.Nodes, models.graph, lambda: Data(edge_index=torch.zeros(2, 1).long()), "reads data.x"),
]


@pytest.mark.parametrize(("model", "example", "call", "message"), only(REFUSED[:3], REFUSED))
def test_other_attributes_than_those_of_the_example_are_refused(model, example, call, message):
    traced = upscale_fx.trace(model().eval(), (example(),))
    with pytest.raises(upscale_fx.InputError, match=message):
        traced(call())


def test_attributes_that_the_model_does_not_read_may_be_missing_or_new():
    model = models.Unused().eval()
    traced = upscale_fx.trace(model, (models.graph(y=torch.rand(30), smiles=["C"]),))
    for data in (models.graph(), models.graph(9, other=1, num_nodes=9)):
        assert_same(model(data), traced(data))
        assert_same(model(data), traced(data.x, data.edge_index))


class ReadsList(models.Base):
    """Counts a list of strings."""

    def forward(self, data):
        return self.body(data.x, data.edge_index) * len(data.names)


class ReadsAdjacency(models.Base):
    """Reads a sparse matrix."""

    def forward(self, data):
        return self.body(data.x, data.adj)


class ReturnsSet(models.Base):
    """Returns what no graph can return."""

    def forward(self, data):
        return {self.body(data.x, data.edge_index)}


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (ReadsList, lambda: models.graph(names=["a", "b"]), "data.names: 'a' in it is no tensor"),
        (
            ReadsAdjacency,
            lambda: models.graph(adj=torch.eye(30)[None].to_sparse()),
            "data.adj: argument 'adj' is sparse",
        ),
        (ReturnsSet, models.graph, "returns a builtins.set"),
    ],
)
def test_what_cannot_be_an_argument_or_a_result_is_refused_by_name(model, data, message):
    with pytest.raises((upscale_fx.InputError, upscale_fx.TraceError), match=message):
        upscale_fx.trace(model().eval(), (data(),))


@pytest.fixture
def loader():
    """Batches of five graphs, in order."""
    return DataLoader([models.graph(20 + size, y=torch.tensor([size % 3])) for size in range(20)], batch_size=5)


def test_loaders_calibrate_train_and_sweep(loader):
    model = models.Pooled().eval()
    first = next(iter(loader))
    options = {"calibration": loader, "progress": False}
    masked, pruned = upscale_fx.mask(model, 0.5, **options), upscale_fx.prune(model, 0.5, **options)
    assert upscale_fx.verify(masked, pruned, first) < 1e-10

    def loss(output, batch):
        return torch.nn.functional.cross_entropy(output, batch.y)

    result = upscale_fx.finetune(pruned, loader, loss, epochs=1, teacher=model, progress=False)
    assert len(result.history) == 2
    table = upscale_fx.sweep(model, [0.5], lambda one: float(one(first).detach().sum()), timed=False, **options)
    assert len(table.rows) == 2
    assert "first" in str(upscale_fx.report(pruned)) + str(upscale_fx.diff(model, pruned))


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"steps": 2}, {"criterion": "taylor"}, {"budget": upscale_fx.Budget(params=0.5)}])
def test_loaders_serve_all_ways_of_pruning(loader, more):
    amount = {} if "budget" in more else {"amount": 0.5}
    pruned = upscale_fx.prune(models.Pooled().eval(), calibration=loader, progress=False, **amount, **more)
    first = next(iter(loader))
    assert_same(pruned(first.x, first.edge_index, first.batch), pruned(first))


def test_a_prepared_graph_stands_in_for_the_edges_of_an_object():
    data = models.graph()
    pruned = upscale_fx.prune(models.Nodes().eval(), 0.5)
    handle = upscale_fx.prepare(pruned, data.edge_index, 30)
    other = copy.copy(data)
    other.edge_index = handle
    for result in (pruned(other), pruned(data, edge_index=handle), pruned(data.x, handle)):
        assert_same(pruned(data), result)


@pytest.mark.slow
def test_compiled_graphs_take_objects(fresh_dynamo):
    data = models.graph()
    model = models.Nodes().eval()
    pruned = upscale_fx.prune(model, 0.5)
    compiled = torch.compile(pruned, fullgraph=True, dynamic=True)
    assert_same(pruned(data), compiled(data))
    with torch.no_grad():
        backend = torch.compile(model, backend="upscale", fullgraph=True, dynamic=True, options={"amount": 0.5})
        assert_same(upscale_fx.mask(model, 0.5)(data), backend(data))
