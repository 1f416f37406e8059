"""Calibration data: streams of batches, data that does not fit, and data that is too little."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv
from torch_geometric.utils import scatter

import upscale_fx
from tests import zoo
from tests.comparison import same_state, state
from tests.masking.calibrated import chain, graph
from tests.selection import only
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.errors import InputError
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.plan import make_plan
from upscale_fx.models import JKNet
from upscale_fx.pruning.first_batch import trace_like

# Calibration graphs of the zoo are small: what that means is a test of its own.
few_rows = pytest.mark.filterwarnings("ignore:calibration. fewer rows:upscale_fx.UpscaleWarning")


# Streams of batches --------------------------------------------------------------------------------------------------


def batches(count=10, nodes=40):
    return [graph(nodes, seed) for seed in range(count)]


def union(parts):
    starts = np.cumsum([0, *(len(x) for x, _ in parts)])
    edges = [edge_index + int(start) for (_, edge_index), start in zip(parts, starts, strict=False)]
    return torch.cat([x for x, _ in parts]), torch.cat(edges, dim=1)


def close_states(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a == 0, b == 0), name
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


FAMILIES = {
    "gcn": lambda: chain(GCNConv),
    "sage": chain,
    "residual": lambda: zoo.make("residual-batch-norm"),
    "jk": lambda: JKNet(8, 16, 4, dropout=0.0).double().eval(),
}


@pytest.mark.parametrize("criterion", only([None], [None, "l2"]))
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_are_the_union_of_their_graphs(family, criterion):
    torch.manual_seed(0)
    model = FAMILIES[family]()
    parts = batches()
    if family == "residual":
        parts = [(torch.cat([x, x[:, :4]], dim=1), edge_index) for x, edge_index in parts]
    whole, stream = (upscale_fx.mask(model, 0.5, calibration=c, criterion=criterion) for c in (union(parts), parts))
    close_states(whole, stream)


def test_all_kinds_of_streams_are_one():
    model, parts = chain(), batches(4)
    data = [Data(x=x, edge_index=edge_index) for x, edge_index in parts]
    expected = state(upscale_fx.mask(model, 0.5, calibration=parts))
    ways = {
        "generator": (part for part in parts),
        "lists": [list(part) for part in parts],
        "dictionaries": [{"x": x, "edge_index": edge_index} for x, edge_index in parts],
        "data": data,
        "loader": DataLoader(data, batch_size=1),
    }
    for name, stream in ways.items():
        assert same_state(expected, state(upscale_fx.mask(model, 0.5, calibration=stream))), name
    named = [{"a": x, "b": edge_index} for x, edge_index in parts]
    transformed = upscale_fx.mask(model, 0.5, calibration=named, transform=lambda d: (d["a"], d["b"]))
    assert same_state(expected, state(transformed))
    one = upscale_fx.mask(model, 0.5, calibration=data[0])
    close_states(one, upscale_fx.mask(model, 0.5, calibration=parts[0]))


class Renamed(nn.Module):
    """A model whose arguments have names that say nothing."""

    def __init__(self):
        super().__init__()
        self.inner = chain()

    def forward(self, a, b):
        return self.inner(a, b)


@pytest.mark.parametrize("make", [chain, Renamed])
def test_a_batch_is_transformed_once_to_trace_with_it(make):
    """Whether names of arguments suffice to trace or not: a transform may draw random numbers."""
    seen = []
    trace_like(make(), None, None, batches(2), lambda batch: seen.append(batch) or batch)
    assert len(seen) == 1


class Counted:
    """Batches made on the fly, and how many of them are alive when the next one is asked for."""

    def __init__(self, count):
        self.count, self.most, self.alive = count, 0, weakref.WeakSet()

    def __iter__(self):
        for number in range(self.count):
            self.most = max(self.most, len(self.alive))
            x, edge_index = graph(40, number)
            self.alive.add(x)
            yield x, edge_index
            del x, edge_index


@pytest.mark.parametrize("criterion", [None, "l2", "hrank"])
def test_memory_does_not_depend_on_how_many_batches_there_are(criterion):
    model, most = chain(), []
    for count in (4, 12):
        stream = Counted(count)
        upscale_fx.mask(model, 0.5, calibration=stream, criterion=criterion)
        gc.collect()
        assert not stream.alive
        most.append(stream.most)
    assert max(most) <= 2  # the last one goes when the next one takes its place
    assert most[0] == most[1]


# Data that does not fit ----------------------------------------------------------------------------------------------


def refused(calibration, words, model=None, **options):
    with pytest.raises(upscale_fx.InputError) as error:
        upscale_fx.mask(model or chain(), 0.5, calibration=calibration, **options)
    for word in words:
        assert word in str(error.value)


def test_no_batches():
    refused([], ["gave no batches"])
    refused((part for part in []), ["gave no batches"])


def test_what_is_no_batch():
    refused(chain(), ["Stack", "(x, edge_index)"])
    refused(7, ["int", "(x, edge_index)"])
    refused(["a", "b"], ["str", "transform"])


def test_arguments_that_do_not_fit():
    x, edge_index = graph()
    refused((x,), ["edge_index"])
    refused({"x": x, "edges": edge_index}, ["edge", "forward"])
    refused(Data(x=x), ["edge_index"])
    refused((x[:, :5], edge_index), ["8", "5"])
    refused([x, edge_index], ["a list is a stream of batches"[2:], "tuple"])


def test_a_batch_that_fails_inside_the_model():
    x, edge_index = graph()
    refused((x, edge_index + len(x)), ["calibration batch", "convs.0"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("criterion", [None, "l2"])
def test_values_that_are_not_finite(value, criterion):
    x, edge_index = graph()
    x[3, 2] = value
    refused((x, edge_index), ["NaN or infinite", "convs.1.lin_l", "torch.isfinite"], criterion=criterion)
    refused([graph(), (x, edge_index)], ["NaN or infinite", "convs.1.lin_l"], criterion=criterion)


# Fewer rows than channels --------------------------------------------------------------------------------------------


def warned(calibration, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = upscale_fx.mask(chain(), 0.5, calibration=calibration, **options)
    assert all(torch.isfinite(parameter).all() for parameter in made.parameters())
    return [str(w.message) for w in caught if issubclass(w.category, upscale_fx.UpscaleWarning)]


@pytest.mark.parametrize("criterion", [None, "l2"])
def test_fewer_rows_than_channels_is_one_warning(criterion):
    told = warned(graph(20), criterion=criterion)
    assert len(told) == 1
    assert "convs.1.lin_l, convs.1.lin_r: 20 rows for 33 inputs" in told[0]
    assert "convs.2.lin_l" in told[0]
    assert "calibrate on more" in told[0]
    assert len(warned([graph(10, 0), graph(10, 1)], criterion=criterion)) == 1
    assert not warned([graph(20, 0), graph(20, 1)], criterion=criterion), "rows of all batches count"
    assert not warned(graph(40), criterion=criterion)


def test_every_layer_that_has_few_rows_is_counted():
    torch.manual_seed(0)
    model = chain(depth=8)
    with pytest.warns(upscale_fx.UpscaleWarning, match="4 more") as caught:
        upscale_fx.mask(model, 0.5, calibration=graph(20))
    assert len(caught) == 1


@few_rows
class NodesAndEdges(nn.Module):
    """One layer per node and one per edge."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.node, self.edge = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x, edge_index):
        x = self.enter(x).relu()
        messages = self.edge(x[edge_index[0]]).relu()
        received = scatter(messages, edge_index[1], dim=0, dim_size=x.size(0), reduce="sum")
        return self.last(self.node(x).relu() + received)


def test_a_layer_without_rows_keeps_its_weights():
    model = NodesAndEdges().double().eval()
    x = torch.randn(60, 6, dtype=torch.float64)
    given = x, torch.empty(2, 0, dtype=torch.int64)
    traced = upscale_fx.trace(model)
    flow = analyse(traced)
    with pytest.warns(upscale_fx.UpscaleWarning, match="edge: 0 rows"):
        plan = make_plan(flow, survey(flow), MaskOptions(amount=0.5, calibration=given))
    assert plan.notes == {"edge": "the calibration data has no rows for it"}
    masked = copy.deepcopy(model)
    plan.apply(masked)
    with pytest.warns(upscale_fx.UpscaleWarning, match="edge: 0 rows"):
        pruned = upscale_fx.prune(model, 0.5, calibration=given)
    other = torch.randn(23, 6, dtype=torch.float64), torch.randint(23, (2, 70))
    with torch.no_grad():
        torch.testing.assert_close(pruned(*other), masked(*other), rtol=1e-10, atol=1e-10)


def test_data_without_rows_for_any_layer_is_refused():
    given = torch.randn(40, zoo.INPUT, dtype=torch.float64), torch.empty(2, 0, dtype=torch.int64)
    with pytest.raises(InputError, match="no rows for any layer"):
        upscale_fx.prune(zoo.make("edge-mlp"), 0.5, calibration=given)


def test_models_in_which_nothing_can_be_fitted():
    for name, entry in zoo.ZOO.items():
        if name in ("sage-mean", "pool-vector"):
            model, given = zoo.make(name), entry.inputs(60, 240, 3, seed=5)
            with pytest.raises(upscale_fx.NothingToPruneError):
                upscale_fx.mask(model, 0.5, calibration=given, ignore="*")
