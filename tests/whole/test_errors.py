"""What bad input gets: an UpscaleError that is also the fitting built-in type, with the facts needed to go on.

Every row of a table is one refusal: what is called, the type raised, and what the message must say. Whatever was
refused, the model is as it was.
"""

import copy
import inspect
import math
import re
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

import upscale_fx
from upscale_fx import (
    AmountError,
    CriterionError,
    EvaluationError,
    InputError,
    MaskingManager,
    ModeError,
    NothingToPruneError,
    PassError,
    PatternError,
    PruningManager,
    TargetError,
    TraceError,
    UpscaleError,
    UpscaleWarning,
    VerificationError,
)
from upscale_fx.models import SAGE

BUILT_IN = {
    TraceError: RuntimeError,
    InputError: ValueError,
    AmountError: ValueError,
    PatternError: ValueError,
    CriterionError: ValueError,
    NothingToPruneError: ValueError,
    VerificationError: AssertionError,
    ModeError: RuntimeError,
    PassError: RuntimeError,
    EvaluationError: ValueError,
    TargetError: ValueError,
}
NAMES = r"\['convs\.0\.lin_l', 'convs\.0\.lin_r', 'convs\.1\.lin_l', 'convs\.1\.lin_r'\]"
DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(9, 6, generator=DRAW), torch.randint(9, (2, 20), generator=DRAW)


@pytest.fixture
def model():
    """Layers in different modes and one of them frozen, so that it shows when something is not put back."""
    torch.manual_seed(0)
    model = SAGE(6, 16, 3, num_layers=2)
    model.convs[0].eval().requires_grad_(False)
    return model


@contextmanager
def refused(model, error, *facts):
    """Expect an error whose message holds all the facts (patterns), and that leaves model and random state alone."""
    values = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    frozen = [not parameter.requires_grad for parameter in model.parameters()]
    hooks = [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()]
    random = torch.get_rng_state()
    with pytest.raises(UpscaleError) as caught:
        yield
    assert caught.type is error
    assert issubclass(error, BUILT_IN[error])
    message = str(caught.value)
    assert [fact for fact in facts if not re.search(fact, message)] == [], message
    assert model.state_dict().keys() == values.keys()
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [not parameter.requires_grad for parameter in model.parameters()] == frozen
    assert [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), random)


def test_every_public_error_has_its_built_in_type():
    classes = [value for value in vars(upscale_fx).values() if inspect.isclass(value)]
    assert {found for found in classes if issubclass(found, UpscaleError)} == {UpscaleError, *BUILT_IN}
    assert all(issubclass(error, built_in) for error, built_in in BUILT_IN.items())


# Amounts, names and choices ------------------------------------------------------------------------------------------

BAD_AMOUNTS = [
    -0.1, -1e-12, 1, 1.0, 1.5, 50, math.nan, math.inf, -math.inf, np.float64("nan"), "0.5", "half", b"0.5", True, False,
    None, 1j, [0.5], (0.5,), torch.tensor([0.25, 0.5]), torch.nn.ReLU,
]  # fmt: skip


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=repr)
@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
def test_amount_is_a_number_from_zero_to_below_one(model, call, amount):
    with refused(model, AmountError, r"\bamount\b", r"\[0, 1\)", f"got {re.escape(repr(amount))}"):
        call(model, amount)


@pytest.mark.parametrize("amount", [1, math.nan, "0.5", True, None], ids=repr)
def test_amounts_of_a_dictionary_are_named(model, amount):
    with refused(model, AmountError, r"amount\['convs\.1'\]", r"\[0, 1\)", f"got {re.escape(repr(amount))}"):
        upscale_fx.prune(model, {"*": 0.5, "convs.1": amount})


BAD_OPTIONS = [
    ({"criterion": "l3"}, PatternError, ["criterion 'l3'", "fpgm.*l1.*l2.*lamp.*random", "callable"]),
    ({"criterion": "L2"}, PatternError, ["criterion 'L2'", "'l2'"]),
    ({"criterion": ["l1"]}, PatternError, [r"criterion \['l1'\]", "'l2'"]),
    ({"criterion": 2}, PatternError, ["criterion 2", "'l2'"]),
    ({"ignore": "conv.1"}, PatternError, ["ignore", "'conv.1'", "matches no", NAMES]),
    ({"ignore": ["convs.1", "head"]}, PatternError, ["ignore", "'head'", NAMES]),
    ({"ignore": ""}, PatternError, ["ignore", "''", NAMES]),
    ({"ignore": [3]}, PatternError, ["ignore", r"\b3\b", NAMES]),
    ({"ignore": 3}, PatternError, ["ignore", r"\b3\b"]),
    ({"amount": {"conv.*": 0.5}}, PatternError, ["amount", r"'conv\.\*'", NAMES]),
    ({"amount": {"convs.1": 0.5, "convs.2": 0.5}}, PatternError, ["amount", r"'convs\.2'", NAMES]),
    ({"amount": {1: 0.5}}, PatternError, ["amount", r"\b1\b", NAMES]),
    ({"scope": "model"}, PatternError, ["scope 'model'", "'layer'", "'global'"]),
    ({"round_to": 0}, AmountError, ["round_to", "positive integer", "got 0"]),
    ({"round_to": -4}, AmountError, ["round_to", "got -4"]),
    ({"round_to": 2.5}, AmountError, ["round_to", "got 2.5"]),
    ({"round_to": True}, AmountError, ["round_to", "got True"]),
    ({"round_to": None}, AmountError, ["round_to", "got None"]),
]


@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
@pytest.mark.parametrize(("options", "error", "facts"), BAD_OPTIONS, ids=[str(options) for options, *_ in BAD_OPTIONS])
def test_options_that_are_not_understood(model, call, options, error, facts):
    with refused(model, error, *facts):
        call(model, **{"amount": 0.5, **options})


@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
@pytest.mark.parametrize(
    ("criterion", "facts"),
    [
        (lambda weight, name: weight.sum(dim=1), [r"\[16\]", r"convs\.0\.lin_l", r"expected \[6\]"]),
        (lambda weight, name: weight.sum(dim=0) * math.nan, ["NaN", r"convs\.0\.lin_l"]),
        (lambda weight, name: None, ["None", r"convs\.0\.lin_l", "expected"]),
        (lambda weight, name: "low", [r"\bstr\b", r"convs\.0\.lin_l", "expected"]),
    ],
    ids=["shape", "NaN", "None", "str"],
)
def test_scores_that_a_criterion_cannot_return(model, call, criterion, facts):
    with refused(model, CriterionError, *facts):
        call(model, 0.5, criterion=criterion)


def test_a_bad_amount_is_told_before_anything_slow_happens():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("was run")

    with refused(Never(), AmountError):
        upscale_fx.prune(Never(), 2)


# Nothing to prune ----------------------------------------------------------------------------------------------------


class NoLayer(nn.Module):
    """Nothing in it contracts over channels."""

    def forward(self, x, edge_index):
        return x.relu() + x[edge_index[0]].sum(dim=0)


def two_layers():
    return SAGE(6, 16, 3, num_layers=2)


@pytest.mark.parametrize("call", [upscale_fx.mask, upscale_fx.prune])
@pytest.mark.parametrize(
    ("build", "options", "facts"),
    [
        pytest.param(
            lambda: SAGE(6, 16, 3, num_layers=1), {},
            [r"convs\.0\.lin_l \(6 channels\): reads raw inputs only", r"convs\.0\.lin_r .*raw", "inputs=True"],
            id="only raw inputs are read",
        ),
        pytest.param(NoLayer, {"example_inputs": (X, EDGES)}, ["no contraction over channels"], id="no consumer"),
        pytest.param(
            two_layers, {"amount": 0.03, "inputs": True},
            [
                r"convs\.0\.lin_l \(6 channels\): 0\.03 of 6 channels rounds to none",
                r"convs\.1\.lin_r \(16 channels\): 0\.03 of 16 channels rounds to none",
            ],
            id="rounds to none",
        ),
        pytest.param(
            two_layers, {"ignore": "convs.1"},
            [r"convs\.0\.lin_l .*raw", r"convs\.1\.lin_l \(16 channels\): ignored"],
            id="ignored",
        ),
        pytest.param(
            two_layers, {"amount": {"convs.1": 0.01}},
            [r"convs\.1\.lin_l .*0\.01 of 16 channels rounds to none"],
            id="amounts by name",
        ),
        pytest.param(
            two_layers, {"round_to": 16}, [r"convs\.1\.lin_l .*multiple.* round_to"], id="round_to"
        ),
        pytest.param(
            lambda: SAGE(6, 1, 3, num_layers=2), {}, [r"convs\.1\.lin_l \(1 channels?\): "], id="a single channel"
        ),
    ],
)  # fmt: skip
def test_nothing_to_prune_lists_the_consumers_and_why(build, options, facts, call):
    model = build()
    with refused(model, NothingToPruneError, "nothing to prune", *facts):
        call(model, **{"amount": 0.5, **options})


def test_behind_a_barrier_a_reader_still_shrinks_and_the_barrier_is_named():
    """All channels of the norm stay; its reader takes a copy of half of them, since nothing else could go."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = GCNConv(6, 16), nn.LayerNorm(16), GCNConv(16, 3)

        def forward(self, x, edge_index):
            return self.head(self.norm(self.conv(x, edge_index)), edge_index)

    compiled = upscale_fx.prune(Normalised(), 0.5)
    assert compiled.get_parameter("head.lin.weight").shape == (3, 8)
    assert compiled.get_parameter("conv.lin.weight").shape == (16, 6)
    assert re.search(r"barrier: .*layer_norm", str(upscale_fx.report(compiled)))


def test_advice_is_given_only_where_it_helps():
    """Where everything is ignored, ``inputs=True`` would change nothing."""
    with pytest.raises(NothingToPruneError) as caught:
        upscale_fx.prune(SAGE(6, 16, 3), 0.5, ignore="*")
    assert "inputs=True" not in str(caught.value)


def test_amount_zero_is_no_error_even_where_nothing_can_be_removed():
    model = SAGE(6, 16, 3, num_layers=1).eval()
    torch.testing.assert_close(upscale_fx.prune(model, 0)(X, EDGES), model(X, EDGES))


# Models that cannot be traced ----------------------------------------------------------------------------------------


class BranchOnValues(nn.Module):
    def forward(self, x, edge_index):
        return x if x.sum() > 0 else -x  # here: branch on values


class LoopOverNodes(nn.Module):
    def forward(self, x, edge_index):
        return torch.stack([row * 2 for row in x])  # here: loop over nodes


class Item(nn.Module):
    def forward(self, x, edge_index):
        return x * x.max().item()  # here: item


class RangeOverNodes(nn.Module):
    def forward(self, x, edge_index):
        count = int(edge_index.max()) + 1
        return sum(x * i for i in range(count))  # here: range


class BranchOnSize(nn.Module):
    def forward(self, x, edge_index):
        if x.size(0) > 8:  # here: branch on size
            return x * 2
        return x


class InPlaceInput(nn.Module):
    def forward(self, x, edge_index):
        x += 1  # here: in place
        return x * 2


def line_of(marker):
    """Where in this file a comment ``# here: marker`` stands."""
    with open(__file__) as source:
        (number,) = [n for n, line in enumerate(source, 1) if line.rstrip().endswith(f"# here: {marker}")]
    return rf"test_errors\.py:{number}\b"


class Deep(nn.Module):
    """Something untraceable three modules down."""

    def __init__(self, inner):
        super().__init__()
        self.conv, self.head = GCNConv(6, 16), GCNConv(16, 3)
        self.body = nn.ModuleDict({"blocks": nn.ModuleList([nn.Identity(), inner])})

    def forward(self, x, edge_index):
        return self.head(self.body["blocks"][1](self.conv(x, edge_index), edge_index), edge_index)


CALLS = {
    "trace": upscale_fx.trace,
    "mask": lambda model: upscale_fx.mask(model, 0.5),
    "compact": upscale_fx.compact,
    "optimize": upscale_fx.optimize,
    "prune": lambda model: upscale_fx.prune(model, 0.5),
    "groups": upscale_fx.groups,
    "MaskingManager": lambda model: MaskingManager(model).mask(0.5),
    "PruningManager": lambda model: PruningManager(model).compute([X, EDGES]).prune(),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_untraceable_model_gets_the_same_error_everywhere(call):
    model = Deep(Item()).train()
    with refused(model, TraceError, r"body\.blocks\.1 \(Item\)", line_of("item")):
        CALLS[call](model)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("inner", "marker", "reason"),
    [
        (BranchOnValues, "branch on values", "branch depends on tensor values"),
        (LoopOverNodes, "loop over nodes", "row axis"),
        (Item, "item", r"'\.item\(\)' turns tensor values into Python values"),
        (RangeOverNodes, "range", r"fixed integer, as in range\(\)"),
        (BranchOnSize, "branch on size", "branch depends on the number of nodes"),
    ],
)
def test_an_untraceable_model_is_told_where_why_and_what_to_do(inner, marker, reason, training):
    model = Deep(inner()).train(training)
    place = rf"body\.blocks\.1 \({inner.__name__}\)"
    with refused(model, TraceError, "cannot trace Deep", place, line_of(marker), reason, "[Rr]ewrite|pass example"):
        upscale_fx.prune(model, 0.5)


def test_an_input_changed_in_place_is_refused_by_name():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.change, self.lin = InPlaceInput(), nn.Linear(6, 3)

        def forward(self, x, edge_index):
            return self.lin(self.change(x, edge_index))

    model = Changes()
    with refused(model, TraceError, r"change \(InPlaceInput\)", line_of("in place"), "'x' is changed in place"):
        upscale_fx.trace(model)


def test_tracing_leaves_pyg_and_torch_as_they_were_after_an_error():
    before = torch.zeros, torch.nn.Module.__call__, torch.nn.Module.__getattr__, GCNConv.forward
    with pytest.raises(TraceError):
        upscale_fx.trace(Deep(Item()))
    assert (torch.zeros, torch.nn.Module.__call__, torch.nn.Module.__getattr__, GCNConv.forward) == before
    assert upscale_fx.trace(SAGE(6, 16, 3)) is not None


# Example inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["trace", "prune", "groups"])
@pytest.mark.parametrize(
    ("inputs", "kwargs", "facts"),
    [
        ((X[:, :5], EDGES), {}, ["'x'", r"\b5\b", "width 6"]),
        ((X,), {}, ["missing.*'edge_index'", "example_inputs="]),
        ((X, EDGES, EDGES), {}, ["too many", "example_inputs="]),
        ((X, EDGES), {"edge_weights": X}, ["unexpected.*'edge_weights'"]),
        ((X, torch.eye(9).to_sparse()), {}, ["'edge_index'", "sparse", r"\[2, E\]"]),
        ((X, "edges"), {}, ["'edge_index'"]),
        ((X, EDGES.float()), {}, ["'edge_index'", "integer|long"]),
        ((EDGES, X), {}, ["'edge_index'", "integer"]),
        ((X[:, 0], EDGES), {}, ["'x'"]),
        ((X, object()), {}, ["'edge_index'", "object"]),
        ({"x": X}, {}, ["missing.*'edge_index'"]),
    ],
    ids=["width", "missing", "extra", "keyword", "sparse", "string", "float", "swapped", "1-d", "object", "dictionary"],
)
def test_example_inputs_that_do_not_fit_name_the_argument(model, call, inputs, kwargs, facts):
    arguments = {"amount": 0.5} if call in ("mask", "prune") else {}
    with refused(model, InputError, *facts):
        getattr(upscale_fx, call)(model, **arguments, example_inputs=inputs, example_kwargs=kwargs)


def test_example_inputs_of_the_wrong_width_are_refused_by_verify(model):
    compiled = upscale_fx.prune(model, 0.5)
    with refused(model, InputError, "'x'", r"\b5\b", "width 6"):
        upscale_fx.verify(model, compiled, (X[:, :5], EDGES))
    with refused(model, InputError, "missing.*'edge_index'"):
        upscale_fx.verify(model, compiled, (X,))


def test_example_inputs_of_the_wrong_width_are_refused_by_a_compiled_model(model):
    compiled = upscale_fx.prune(model, 0.5)
    with refused(compiled, InputError, "'x'", r"\b5\b", r"\b6\b"):
        upscale_fx.prune(compiled, 0.5, example_inputs=(X[:, :5], EDGES))


class OtherNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(6, 16), GCNConv(16, 3)])

    def forward(self, features, graph):
        return self.convs[1](self.convs[0](features, graph).relu(), graph)


def test_names_without_a_convention_are_told_the_call_that_works():
    model = OtherNames().eval()
    with refused(model, InputError, "'features'", r"example_inputs=\(features, graph"):
        upscale_fx.prune(model, 0.5)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(X, EDGES))
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5, example_inputs=(X, EDGES)), compiled, (X, EDGES)) < 1e-5


def test_a_width_that_nothing_declares_is_told_the_call_that_works():
    model = NoLayer()
    with refused(model, InputError, "'x'", r"example_inputs=\(x, edge_index"):
        upscale_fx.trace(model)
    assert upscale_fx.trace(model, (X, EDGES)) is not None


def test_a_lazy_layer_must_have_seen_data():
    model = SAGEConv(-1, 16)
    for call in (upscale_fx.trace, upscale_fx.groups, upscale_fx.compact, lambda m: upscale_fx.mask(m, 0.5)):
        with pytest.raises(InputError, match=r"'lin_l\.weight' has no shape yet .*run the model once"):
            call(model)
    assert type(model.lin_l.weight) is nn.parameter.UninitializedParameter


@pytest.mark.parametrize(("thing", "name"), [("model", "str"), (None, "NoneType"), (SAGE, "SAGE")])
@pytest.mark.parametrize("call", [*CALLS, "verify reference", "verify compiled", "diff before", "diff after"])
def test_what_is_no_module_is_refused(model, call, thing, name):
    others = {
        "verify reference": lambda thing: upscale_fx.verify(thing, model, (X, EDGES)),
        "verify compiled": lambda thing: upscale_fx.verify(model, thing, (X, EDGES)),
        "diff before": lambda thing: upscale_fx.diff(thing, upscale_fx.trace(model)),
        "diff after": lambda thing: upscale_fx.diff(upscale_fx.trace(model), thing),
    }
    with refused(model, InputError, r"torch\.nn\.Module", rf"\b{name}\b"):
        (CALLS | others)[call](thing)


def test_diff_needs_a_graph(model):
    with refused(model, InputError, r"diff\(\)", r"upscale_fx\.trace\("):
        upscale_fx.diff(model, model)


def test_report_needs_a_pruned_graph(model):
    for thing in (model, upscale_fx.trace(model), "model", None):
        with refused(model, InputError, r"report\(\)", r"prune\(\)"):
            upscale_fx.report(thing)


# Calling a compiled model --------------------------------------------------------------------------------------------


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(6, 16), GCNConv(16, 3)])

    def forward(self, x, edge_index, edge_weight=None):
        return self.convs[1](self.convs[0](x, edge_index, edge_weight).relu(), edge_index, edge_weight)


@pytest.mark.parametrize(
    ("inputs", "facts"),
    [
        ((X[:, :5], EDGES), ["'x'", r"\[9, 5\]", "width 6, got 5"]),
        ((X[0], EDGES), ["'x'", "2 dimensions", r"\[6\]"]),
        ((X, EDGES.t().contiguous()), ["'edge_index'", r"\[20, 2\]", r"\[2, any\]"]),
        ((X, torch.eye(9).to_sparse()), ["'edge_index' is a sparse tensor", "edge_index"]),
        ((X, torch.eye(9).to_sparse().coalesce().indices().tolist()), ["'edge_index'", "list"]),
        ((X, None), ["'edge_index'", "NoneType"]),
    ],
    ids=["width", "dimensions", "transposed", "sparse", "list", "none"],
)
@pytest.mark.parametrize("call", ["trace", "prune"])
def test_arguments_of_another_kind_than_traced_are_refused(model, call, inputs, facts):
    compiled = upscale_fx.trace(model) if call == "trace" else upscale_fx.prune(model, 0.5)
    with refused(compiled, InputError, *facts):
        compiled(*inputs)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_csr_adjacency_is_refused_where_an_edge_index_was_traced(model):
    compiled = upscale_fx.prune(model, 0.5)
    with refused(compiled, InputError, "'edge_index' is a sparse tensor", "sparse_csr", "pass edge_index"):
        compiled(X, torch.eye(9).to_sparse_csr())


def test_an_argument_that_was_none_when_traced_cannot_be_given():
    compiled = upscale_fx.prune(Weighted(), 0.5)
    weights = torch.rand(20)
    with refused(compiled, InputError, "'edge_weight' was None", "trace again .*'edge_weight'"):
        compiled(X, EDGES, weights)
    assert compiled(X, EDGES).shape == (9, 3)


def test_an_argument_that_was_given_when_traced_cannot_be_left_out():
    compiled = upscale_fx.prune(Weighted(), 0.5, example_inputs=(X, EDGES, torch.rand(20)))
    with refused(compiled, InputError, "'edge_weight'"):
        compiled(X, EDGES, None)
    with pytest.raises((InputError, TypeError), match="'edge_weight'"):
        compiled(X, EDGES)


# Modes ---------------------------------------------------------------------------------------------------------------


class OtherInTraining(nn.Module):
    """Training adds a layer, so one graph cannot serve both modes."""

    def __init__(self):
        super().__init__()
        self.conv, self.noise, self.head = GCNConv(6, 16), nn.Linear(16, 16), GCNConv(16, 3)

    def forward(self, x, edge_index):
        x = self.conv(x, edge_index).relu()
        if self.training:
            x = x + self.noise(x)
        return self.head(x, edge_index)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", [upscale_fx.trace, upscale_fx.compact, lambda m: upscale_fx.prune(m, 0.5)])
def test_a_model_that_trains_otherwise_is_compiled_for_evaluation_only(call, training):
    model = OtherInTraining().train(training)
    with pytest.warns(UpscaleWarning, match=r"eval\(\) only") if training else nullcontext():
        compiled = call(model)
    assert (compiled.training, model.training) == (False, training)
    result = compiled(X, EDGES)
    with refused(compiled, ModeError, r"eval\(\) only", r"train\(\)", "other operations"):
        compiled.train()
    assert torch.equal(compiled.eval()(X, EDGES), result)
    assert torch.equal(compiled.train(False)(X, EDGES), result)


def test_the_refusal_to_train_survives_a_copy_and_another_pruning():
    compiled = upscale_fx.prune(OtherInTraining().eval(), 0.25)
    for other in (copy.deepcopy(compiled), upscale_fx.prune(compiled, 0.5)):
        with refused(other, ModeError, r"eval\(\) only"):
            other.train()


def test_models_that_train_alike_are_compiled_for_both():
    model = nn.ModuleList([GATConv(6, 4, heads=2, dropout=0.5)])[0]
    assert upscale_fx.prune(model, 0.25, inputs=True).train().training
