"""Pruning with calibration data is exact like any other."""

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn
from torch_geometric.nn import GCNConv, SAGPooling

import upscale_fx
from tests import zoo
from tests.comparison import gap, hooks, same_state, state
from tests.conformance import CASES
from tests.conformance.case import Graph
from tests.masking.calibrated import chain, graph
from tests.selection import every, only
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.plan import make_plan
from upscale_fx.models import SAGE, JKNet, SimpleGCN

# Calibration graphs of the zoo are small: what that means is a test of its own.
few_rows = pytest.mark.filterwarnings("ignore:calibration. fewer rows:upscale_fx.UpscaleWarning")
heads_keep_more = pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")


# Exactness -----------------------------------------------------------------------------------------------------------

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
@pytest.mark.parametrize(("place", "name"), every(9, enumerate(MODELS)), ids=MODELS)
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
        for other in (entry.inputs(23, 70, 3, seed=1), entry.inputs(40, 31, 5, seed=2)):
            with torch.no_grad():
                assert gap(masked(**other), pruned(**other)) < 1e-10
    assert same_state(before, state(model))
    assert mode == [m.training for m in model.modules()]
    assert torch.equal(rng, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@few_rows
@heads_keep_more
@pytest.mark.parametrize("case", every(3, [c for c in CASES[::40] if c.expect == "pruned"]), ids=lambda case: case.name)
def test_layers_as_their_documentation_calls_them(case):
    model = case.make()
    args, kwargs = case.arguments(Graph())
    options = {"example_inputs": args or None, "example_kwargs": kwargs or None, "inputs": True}
    args, kwargs = case.arguments(Graph(50, 150, 4, 20, seed=4))
    options["calibration"] = kwargs or tuple(args)
    masked, pruned = (call(model, 0.5, **options) for call in (upscale_fx.mask, upscale_fx.prune))
    for other in (Graph(23, 70, 3, 11, seed=1), Graph(40, 31, 5, 17, seed=2)):
        args, kwargs = case.arguments(other)
        with torch.no_grad():
            least = 1e-10 if case.dtype == torch.float64 else 1e-5
            assert gap(masked(*args, **kwargs), pruned(*args, **kwargs)) < least


def counts(model, arguments, **options):
    """By consumer how many channels of each head go."""
    traced = upscale_fx.trace(model, None, arguments)
    flow = analyse(traced)
    plan = make_plan(flow, survey(flow), MaskOptions(amount=0.4, **options))
    found = {}
    for removal in plan.removals:
        blocks = removal.consumer.blocks
        blocks = np.zeros(len(removal.removed), dtype=np.int64) if blocks is None else blocks
        found[removal.consumer.name] = np.bincount(blocks, weights=removal.removed).tolist()
    return found


@few_rows
@pytest.mark.parametrize("constrained", only([True], [False, True]))
@pytest.mark.parametrize(
    "name", every(3, ["gcn-odd-widths", "sage-mean", "gatv2-4", "transformer-edges", "jk-cat", "dense-gcn"])
)
def test_as_many_channels_go_as_without_calibration(name, constrained):
    entry, model = zoo.ZOO[name], zoo.make(name)
    graph = entry.inputs(60, 240, 3, seed=5)
    expected = counts(model, graph, constrained=constrained)
    for criterion in (None, "lasso", "activation", "hrank", "l2"):
        found = counts(model, graph, calibration=graph, criterion=criterion, constrained=constrained)
        assert found == expected


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
    assert hook.id in hooks(model.convs[0])[0]
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


# Fewer rows than channels --------------------------------------------------------------------------------------------


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
