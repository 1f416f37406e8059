"""Pruning with calibration data: exact like any other; streams of batches; data that does not fit, or is too little."""

import copy
import gc
import os
import warnings
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as torch_prune
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, SAGEConv, SAGPooling
from torch_geometric.utils import scatter

import upscale_fx
from tests import zoo
from tests.conformance import CASES
from tests.conformance.case import Graph
from tests.random_models import programs
from tests.random_models.check import pruned_and_masked
from tests.random_models.graphs import EXAMPLES, OTHERS
from tests.test_refit import Checked
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.errors import InputError
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.plan import make_plan
from upscale_fx.masking.reconstruction.study import Study
from upscale_fx.masking.removals import plan_removals
from upscale_fx.models import SAGE, JKNet, SimpleGCN

# Calibration graphs of the zoo are small: what that means is a test of its own.
few_rows = pytest.mark.filterwarnings("ignore:calibration. fewer rows:upscale_fx.UpscaleWarning")
heads_keep_more = pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")


def gap(expected, found):
    """The largest difference of two results, relative to the largest value of each tensor."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    pairs = [(a.detach(), b.detach()) for a, b in pairs if torch.is_tensor(a) and a.numel()]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-3)) for a, b in pairs)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# Exactness ----------------------------------------------------------------------------------------------------------

MODELS = [
    "gcn", "gcn-weighted", "gcn-plain", "gcn-odd-widths", "sage-mean", "sage-max", "sage-project", "sage-normalize",
    "sage-no-root", "sage-two-aggregations", "gat-4", "gat-mean", "gat-residual", "gat-edges", "gatv2-4",
    "gatv2-shared", "gatv2-residual-shared-mean", "gatv2-edges", "transformer-4", "transformer-mean",
    "transformer-beta", "transformer-no-root", "transformer-edges", "gin", "gin-norm", "gine", "jk-cat", "jk-max",
    "jk-lstm", "jk-cat-sage", "residual-batch-norm", "residual-layer-norm", "pre-activation", "initial-residual",
    "dense-gcn", "raw-and-hidden", "two-inputs", "mlp-head-norm", "pool-all", "pool-context", "pool-whole-graph",
    "gate", "highway", "edge-mlp-features", "edge-gate", "edge-conv", "edge-updates", "link-mlp", "linear-twice",
    "conv-three-times", "two-branches", "tuple-output", "named-output", "glu-chunk", "glu-view", "in-place",
    "assigned-rows", "activations", "raw-forms", "norm-graph", "family-jknet-max", "more-graph-conv", "more-gated",
    "more-tag", "more-cheb", "more-gated-recurrent", "more-gen", "more-film",
]  # fmt: skip
#: Ways of choosing and sharing, in turns.
WAYS = [
    {},
    {"constrained": True},
    {"criterion": "l2"},
    {"criterion": "lasso"},
    {"scope": "global"},
    {"criterion": "l2", "constrained": True, "round_to": 2},
    {"criterion": "activation"},
    {"criterion": "hrank"},
    {"inputs": True},
]


@few_rows
@heads_keep_more
@pytest.mark.parametrize(("place", "name"), list(enumerate(MODELS)), ids=MODELS)
def test_pruned_equals_masked(place, name):
    entry, model = zoo.ZOO[name], zoo.make(name)
    before, mode, rng = state(model), [m.training for m in model.modules()], torch.random.get_rng_state()
    options = {"calibration": entry.inputs(60, 240, 3, seed=5), "example_kwargs": entry.example()}
    for way in ({}, WAYS[place % len(WAYS)]) if place % 2 else ({},):
        masked = upscale_fx.mask(model, 0.5, **options, **way)
        if place % 4 == 0:
            again = upscale_fx.mask(model, 0.5, **options, **way)
            assert same_state(state(masked), state(again)), "two calls, two results"
        pruned = upscale_fx.prune(model, 0.5, **options, **way)
        for graph in (entry.inputs(23, 70, 3, seed=1), entry.inputs(40, 31, 5, seed=2)):
            with torch.no_grad():
                assert gap(masked(**graph), pruned(**graph)) < 1e-10
    assert same_state(before, state(model))
    assert mode == [m.training for m in model.modules()]
    assert torch.equal(rng, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@few_rows
@heads_keep_more
@pytest.mark.parametrize("case", [case for case in CASES[::40] if case.expect == "pruned"], ids=lambda case: case.name)
def test_layers_as_their_documentation_calls_them(case):
    model = case.make()
    args, kwargs = case.arguments(Graph())
    options = {"example_inputs": args or None, "example_kwargs": kwargs or None, "inputs": True}
    args, kwargs = case.arguments(Graph(50, 150, 4, 20, seed=4))
    options["calibration"] = kwargs or tuple(args)
    masked, pruned = (call(model, 0.5, **options) for call in (upscale_fx.mask, upscale_fx.prune))
    for graph in (Graph(23, 70, 3, 11, seed=1), Graph(40, 31, 5, 17, seed=2)):
        args, kwargs = case.arguments(graph)
        with torch.no_grad():
            least = 1e-10 if case.dtype == torch.float64 else 1e-5
            assert gap(masked(*args, **kwargs), pruned(*args, **kwargs)) < least


def counts(model, arguments, **options):
    """By consumer how many channels of each head go."""
    traced = upscale_fx.trace(model, None, arguments)
    flow = analyse(traced)
    plan = make_plan(flow, survey(flow), MaskOptions(0.4, **options))
    found = {}
    for removal in plan.removals:
        blocks = removal.consumer.blocks
        blocks = np.zeros(len(removal.removed), dtype=np.int64) if blocks is None else blocks
        found[removal.consumer.name] = np.bincount(blocks, weights=removal.removed).tolist()
    return found


@few_rows
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("name", ["gcn-odd-widths", "sage-mean", "gatv2-4", "transformer-edges", "jk-cat", "dense-gcn"])
def test_as_many_channels_go_as_without_calibration(name, constrained):
    entry, model = zoo.ZOO[name], zoo.make(name)
    graph = entry.inputs(60, 240, 3, seed=5)
    expected = counts(model, graph, constrained=constrained)
    for criterion in (None, "lasso", "activation", "hrank", "l2"):
        found = counts(model, graph, calibration=graph, criterion=criterion, constrained=constrained)
        assert found == expected


def chain(conv=SAGEConv, width=16, depth=3):
    torch.manual_seed(0)
    widths = [8, *[width] * (depth - 1), 4]
    return zoo.Stack(*(conv(a, b) for a, b in pairwise(widths)), dropout=0.0).double().eval()


def graph(nodes=80, seed=0, width=8):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, width, generator=draw, dtype=torch.float64)
    return x, torch.randint(nodes, (2, 4 * nodes), generator=draw)


def test_parametrised_and_frozen_models():
    model = chain()
    for conv in model.convs[1:]:
        torch_prune.l1_unstructured(conv.lin_l, "weight", 0.3)
        torch_prune.ln_structured(conv.lin_r, "weight", 0.25, n=2, dim=1)
        torch_prune.random_unstructured(conv.lin_l, "bias", 0.5)
    model.requires_grad_(False)
    hook = model.convs[0].register_forward_hook(lambda *_: None)
    before = state(model)
    masked, pruned = (call(model, 0.5, calibration=graph()) for call in (upscale_fx.mask, upscale_fx.prune))
    for other in (graph(23, 1), graph(50, 2)):
        assert gap(masked(*other), pruned(*other)) < 1e-10
    assert same_state(before, state(model))
    assert hook.id in model.convs[0]._forward_hooks
    assert not any(parameter.requires_grad for parameter in masked.parameters())
    assert not torch.equal(masked.convs[2].lin_l.weight, model.convs[2].lin_l.weight)


def test_tied_weights():
    model = chain(depth=4)
    model.convs[2].lin_l.weight = model.convs[1].lin_l.weight
    masked, pruned = (call(model, 0.5, calibration=graph()) for call in (upscale_fx.mask, upscale_fx.prune))
    assert masked.convs[2].lin_l.weight is masked.convs[1].lin_l.weight
    for other in (graph(23, 1), graph(50, 2)):
        assert gap(masked(*other), pruned(*other)) < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    x, edge_index = graph()
    given = x.to(dtype), edge_index
    model = chain().to(dtype)
    masked, pruned = (
        call(model, 0.5, calibration=given, example_inputs=given) for call in (upscale_fx.mask, upscale_fx.prune)
    )
    assert all(parameter.dtype == dtype for parameter in masked.parameters())
    with torch.no_grad():
        dense, without = model(*given), upscale_fx.mask(model, 0.5, calibration=given, refit=False,
                                                        example_inputs=given)(*given)  # fmt: skip
        assert (masked(*given) - dense).double().norm() < (without - dense).double().norm()
        assert gap(masked(*given).double(), pruned(*given).double()) < (1e-5 if dtype == torch.float32 else 0.1)


def test_rows_that_the_model_chooses_are_those_of_the_dense_model():
    """Top-k pooling takes other nodes when scores change; rows are compared with those of the same nodes."""

    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.pool, self.last = GCNConv(8, 16), SAGPooling(16, min_score=0.01), nn.Linear(16, 4)
            self.second = GCNConv(16, 16)

        def forward(self, x, edge_index, batch):
            x = self.second(self.first(x, edge_index).relu(), edge_index).relu()
            x, edge_index, _, batch, *_ = self.pool(x, edge_index, None, batch)
            return self.last(x).sum(dim=0)

    torch.manual_seed(0)
    model = Pooling().double().eval()
    given = *graph(90), torch.arange(90) // 30
    masked, pruned = (call(model, 0.5, calibration=given) for call in (upscale_fx.mask, upscale_fx.prune))
    other = *graph(40, 2), torch.arange(40) // 20
    assert gap(masked(*other), pruned(*other)) < 1e-10


SEED = os.environ.get("UPSCALE_FX_SEED")
other_seed = seed(int(SEED)) if SEED else lambda test: test
EXAMPLE_COUNT = max(int(os.environ.get("UPSCALE_FX_EXAMPLES", "200")) // 5, 1)


@pytest.mark.filterwarnings("ignore")
@other_seed
@settings(
    max_examples=EXAMPLE_COUNT, deadline=None, derandomize=SEED is None, database=None,
    print_blob=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
)  # fmt: skip
@given(
    st.booleans().flatmap(lambda zeros: programs(zeros=zeros)),
    st.sampled_from([0.5, 0.25, 0.75]),
    st.booleans(),
    st.sampled_from([None, "l2", None, "lasso"]),
    st.sampled_from(["layer", "global"]),
)
def test_random_programs(program, amount, constrained, criterion, scope):
    """Pruned equals masked, and no problem's error is larger after the refit than before it."""
    given = OTHERS[program.hetero][0]
    options = {"constrained": constrained, "scope": scope}
    try:
        pruned_and_masked(program, amount, calibration=given, criterion=criterion, **options)
        traced = upscale_fx.trace(program.build(), EXAMPLES[program.hetero])
    except (upscale_fx.InputError, upscale_fx.TraceError):
        return  # drawn models divide by zero; what is refused is documented and tested elsewhere
    flow = analyse(traced)
    found = survey(flow)
    try:
        removals = plan_removals(found, traced, MaskOptions(amount, **options))
        eligible, removed = zip(*((r.eligible, r.removed) for r in removals), strict=True)
        Checked(
            Study(flow, found.consumers, eligible, CalibrationData(given, None, traced), progress=False), removed
        ).run()
    except (upscale_fx.NothingToPruneError, upscale_fx.InputError):
        return


# Streams of batches -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("criterion", [None, "l2"])
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


# Data that does not fit ---------------------------------------------------------------------------------------------


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


# Fewer rows than channels -------------------------------------------------------------------------------------------


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
        plan = make_plan(flow, survey(flow), MaskOptions(0.5, calibration=given))
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


@pytest.mark.parametrize("family", [SimpleGCN, SAGE, JKNet])
def test_the_refit_brings_outputs_closer(family):
    """On data that was not calibrated on."""
    torch.manual_seed(0)
    model = family(8, 24, 4, dropout=0.0).double().eval()
    train, other = graph(400, 0), graph(200, 1)
    errors = []
    for refit in (True, False):
        masked = upscale_fx.mask(model, 0.5, calibration=train, refit=refit)
        with torch.no_grad():
            errors.append(float((masked(*other) - model(*other)).norm()))
    assert errors[0] < errors[1]
