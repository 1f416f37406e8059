"""What a handle is: what it tells, that it pickles and copies, and what it is refused for."""

import copy
import pickle

import pytest
import torch

import upscale_fx
from tests import zoo
from tests.compiled.handles import EDGES, WEIGHTS, X, assert_identical, pruned
from upscale_fx import InputError, PreparedGraph

# What a handle is ----------------------------------------------------------------------------------------------------


def test_the_handle_tells_what_it_holds(weighted):
    handle = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    assert isinstance(handle, PreparedGraph)
    assert (handle.num_nodes, handle.num_edges, handle.dtype) == (23, 70, torch.float64)
    entries = 93 + 24 + 93  # col and weight of the edges and a loop for each node, and rowptr
    assert handle.nbytes == pytest.approx(8 * entries, rel=0.2)
    for fact in (
        "nodes=23",
        "edges=70",
        "edge_index, edge_weight",
        "gcn_norm",
        "int64 [24]",
        "bytes on cpu",
        "Weighted",
    ):
        assert fact in repr(handle)


@pytest.mark.slow
def test_handles_pickle_copy_and_move(weighted, tmp_path, fresh):
    handle = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    expected = weighted(X, EDGES, WEIGHTS)
    for twin in (pickle.loads(pickle.dumps(handle)), copy.deepcopy(handle), handle.to("cpu")):
        assert_identical(weighted(X, twin), expected)
    assert handle.to("meta").device == torch.device("meta")
    torch.save((weighted, handle, X, expected), tmp_path / "all.pt")
    script = "import sys, torch; m, h, x, y = torch.load(sys.argv[1], weights_only=False); print(m(x, h).equal(y))"
    assert fresh.run(script, [tmp_path / "all.pt"]) == ["True"]


@pytest.mark.parametrize("change", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.train().eval()])
def test_compiled_models_with_a_structure_half_stay_models(weighted, change):
    handle = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    twin = change(copy.deepcopy(weighted))
    assert_identical(twin(X, handle), weighted(X, EDGES, WEIGHTS))
    assert_identical(twin(X, upscale_fx.prepare(twin, EDGES, 23, edge_weight=WEIGHTS)), weighted(X, EDGES, WEIGHTS))
    assert twin.state_dict().keys() == weighted.state_dict().keys()
    assert all(module.training is False for module in twin.modules())


def test_reports_diffs_and_a_second_pruning_see_the_whole_graph(weighted):
    model = zoo.make("gcn-weighted")
    assert "convs.1.lin" in str(upscale_fx.report(weighted))
    assert str(upscale_fx.diff(model, weighted))
    inputs = zoo.ZOO["gcn-weighted"].inputs(23, 70)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), weighted, inputs) < 1e-10
    again = upscale_fx.prune(weighted, 0.5)
    masked = upscale_fx.mask(weighted, 0.5)
    torch.testing.assert_close(again(**inputs), masked(**inputs), rtol=1e-10, atol=1e-10)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in weighted.parameters())


# Refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({}, ["needs 'edge_index', 'edge_weight' too", r"prepare\(compiled, edge_index, num_nodes, edge_weight="]),
        ({"edge_index": EDGES, "num_nodes": 23}, ["needs 'edge_weight' too, because gcn_norm"]),
        ({"edge_index": EDGES, "edge_weight": WEIGHTS}, ["how many rows x has", "largest index does not tell"]),
        ({"edge_index": EDGES, "num_nodes": 22, "edge_weight": WEIGHTS}, ["names node 22, but there are 22 nodes"]),
        ({"edge_index": EDGES - 1, "num_nodes": 23, "edge_weight": WEIGHTS}, ["holds -1, which is no index"]),
        (
            {"edge_index": EDGES, "num_nodes": -3, "edge_weight": WEIGHTS},
            ["num_nodes must be a number of rows, got -3"],
        ),
        ({"edge_index": EDGES, "num_nodes": 2.5, "edge_weight": WEIGHTS}, ["num_nodes must be a number of rows"]),
        ({"edge_index": EDGES, "num_nodes": 23, "edge_weight": WEIGHTS[:9]}, ["'edge_weight' has 9 rows, but", "70"]),
        (
            {"edge_index": EDGES, "num_nodes": 23, "x": X},
            ["'x' is no part of the graph", "'edge_index', 'edge_weight'"],
        ),
        ({"edge_index": EDGES.t(), "num_nodes": 23, "edge_weight": WEIGHTS}, [r"\[70, 2\], expected \[2, any\]"]),
        ({"edge_index": X, "num_nodes": 23, "edge_weight": WEIGHTS}, [r"'edge_index' has shape \[23, 12\]"]),
        ({"edge_index": EDGES.double(), "num_nodes": 23, "edge_weight": WEIGHTS}, ["must be an index of integers"]),
        (
            {"edge_index": EDGES, "num_nodes": 23, "edge_weight": EDGES[0].double().requires_grad_()},
            ["requires a grad"],
        ),
        (
            {"edge_index": EDGES.to("meta"), "num_nodes": 23, "edge_weight": WEIGHTS.to("meta")},
            ["meta", "the model is on"],
        ),
    ],
)
def test_prepare_refuses(weighted, arguments, facts):
    with pytest.raises(InputError) as caught:
        upscale_fx.prepare(weighted, **arguments)
    for fact in facts:
        caught.match(fact)


def test_prepare_refuses_what_has_no_structure_half():
    for thing in (zoo.make("family-gcn"), upscale_fx.trace(zoo.make("family-gcn"))):
        with pytest.raises(InputError, match=r"prepare\(\) takes what optimize\(\) or prune\(\) returned"):
            upscale_fx.prepare(thing, EDGES, 23)


def test_a_handle_made_for_another_model_is_refused(gcn, weighted):
    handle = upscale_fx.prepare(gcn, EDGES, 23)
    for name in ("gat-4", "gin", "gcn-improved"):
        other = pruned(name)
        with pytest.raises(InputError, match=r"was made for another model: it holds gcn_norm.*prepare\(compiled"):
            other(X, handle)
    with pytest.raises(InputError, match=r"'edge_weight' is missing: the prepared graph holds 'edge_index' only"):
        weighted(X, handle)
    with pytest.raises(InputError, match=r"was made for another model"):
        weighted(X, handle, WEIGHTS)
    with pytest.raises(InputError, match=r"no structure half that it could stand in for"):
        upscale_fx.trace(gcn)(X, handle)


def test_a_handle_that_does_not_fit_the_call_is_refused(weighted):
    handle = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    again = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    for arguments, fact in [
        ((X[:22], handle), r"'x' has 22 rows, but the graph was prepared for 23"),
        ((X.float(), handle), r"'x' has dtype torch.float32, but the graph was prepared for torch.float64"),
        ((X, handle.to("meta")), r"'x' has device cpu, but the graph was prepared for meta"),
        ((X, handle, WEIGHTS), r"'edge_weight' is given, but the prepared graph holds one"),
        ((X, EDGES, handle), r"'edge_index' is given, but the prepared graph holds one"),
        ((X, handle, again), r"two prepared graphs are given"),
        ((handle, EDGES, WEIGHTS), r"'x' is a PreparedGraph, which can stand in for 'edge_index', 'edge_weight' only"),
        ((X, EDGES), r"'edge_weight' must be a dense torch.Tensor of shape \[any\], got NoneType"),
        ((X[:, :5], handle), r"'x' has shape \[23, 5\]"),
    ]:
        with pytest.raises(InputError, match=fact):
            weighted(*arguments)
