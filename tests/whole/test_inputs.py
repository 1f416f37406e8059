"""What inputs that do not fit get: of examples, of calls, and of what is no module."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, SAGEConv

import upscale_fx
from tests.whole.refusals import CALLS, EDGES, NoLayer, X, refused
from upscale_fx import InputError
from upscale_fx.models import SAGE

# Example inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["trace", "prune", "groups"])
@pytest.mark.parametrize(
    ("inputs", "kwargs", "facts"),
    [
        ((X[:, :5], EDGES), {}, ["'x'", r"\b5\b", "width 6"]),
        ((X,), {}, ["missing.*'edge_index'", "example_inputs="]),
        ((X, EDGES, EDGES), {}, ["too many", "example_inputs="]),
        ((X, EDGES), {"edge_weights": X}, ["unexpected.*'edge_weights'"]),
        ((X, torch.eye(9)[None].to_sparse()), {}, ["'edge_index'", "sparse", r"\[2, E\]"]),
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


class FixedSides(nn.Module):
    """Its images have one size, which alone does not tell from the example that it is fixed."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)])
        self.out = nn.Linear(8, 3)

    def forward(self, images):
        rows = self.convs[1](self.convs[0](images).relu()).flatten(2).transpose(1, 2).reshape(-1, 8)
        return self.out(rows).view(-1, 36, 3).mean(1)


def test_example_inputs_of_a_compiled_model_are_held_to_the_graph_and_not_to_a_new_description():
    images, wider, model = torch.randn(5, 3, 6, 6), torch.randn(5, 3, 6, 7), FixedSides().eval()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(images,))
    again, masked = (f(compiled, 0.5, example_inputs=(images,)) for f in (upscale_fx.prune, upscale_fx.mask))
    assert upscale_fx.verify(masked, again, (images,)) < 1e-5
    with refused(compiled, InputError, "'images'", r"\[5, 3, 6, 7\]", "6, got 7"):
        upscale_fx.prune(compiled, 0.5, example_inputs=(wider,))


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
