"""``prepare``: the structure half runs once per graph, gives exactly what a call computes, and is never stale."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric import EdgeIndex

import upscale_fx
from tests import zoo
from tests.compiled.handles import EDGES, WEIGHTS, X, assert_identical, before_and_after, pruned
from tests.selection import every, only
from upscale_fx import InputError
from upscale_fx.compiled.structure.modules import StructureModule, structure_of
from upscale_fx.passes import SplitStructure, check_invariants

SIZES = ((23, 70), (40, 31), (57, 200))  # nodes, edges
FAMILIES = ("family-gcn", "family-sage", "gat-4", "gatv2-4", "transformer-4", "gin", "basic-PNA-last-None")
WITH_MORE = ("gcn-weighted", "pool-all", "norm-graph", "basic-PNA-max-layer_norm", "more-cheb", "conv-three-times")


def prepared(compiled, inputs, asked=None):
    """The handle of one call's inputs, and the inputs that are left; ``asked`` is what makes it, if not the graph."""
    structure = structure_of(compiled)
    taken = {name: inputs[name] for name in structure.arguments if name in inputs}
    handle = upscale_fx.prepare(compiled if asked is None else asked, num_nodes=inputs["x"].size(0), **taken)
    return handle, {name: value for name, value in inputs.items() if name not in taken} | {"edge_index": handle}


class Recorder(TorchDispatchMode):
    """The operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


# The same, computed once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", every(4, [*FAMILIES, *WITH_MORE]))
def test_a_prepared_graph_gives_what_the_graph_gives(name):
    plain, compiled = before_and_after(name, 0.5)
    check_invariants(SplitStructure(), plain, compiled)
    assert structure_of(plain) is None
    for seed, size in enumerate(SIZES):
        inputs = zoo.ZOO[name].inputs(*size, seed=seed)
        handle, rest = prepared(compiled, inputs)
        expected = compiled(**inputs)
        assert_identical(expected, plain(**inputs))
        assert_identical(compiled(**rest), expected)
        assert (handle.num_nodes, handle.num_edges) == size


@pytest.mark.parametrize(
    ("name", "costly"), [("family-gcn", "scatter_add_"), ("gat-4", "cat"), ("gin", "index_select")]
)
def test_a_prepared_graph_is_not_computed_again(name, costly):
    compiled, inputs = pruned(name), zoo.ZOO[name].inputs(23, 70)
    _, rest = prepared(compiled, inputs)
    runs = []
    for part in structure_of(compiled).all_parts():
        part.register_forward_hook(lambda *_: runs.append(1))
    with Recorder() as without, torch.no_grad():
        compiled(**inputs)
    assert runs == [1]
    with Recorder() as with_handle, torch.no_grad():
        compiled(**rest)
    assert runs == [1], "the structure half did not run"
    assert {"csr", costly} <= without.names
    assert not {"csr", costly} & with_handle.names


def test_structure_is_one_module_that_adds_no_parameters():
    plain, compiled = before_and_after("family-gcn", 0.5)
    calls = [node for node in compiled.graph.nodes if node.op == "call_module" and node.name == "structure"]
    assert len(calls) == 1
    assert all(node.op in ("placeholder", "call_method", "call_function") for node in calls[0].args)
    assert isinstance(compiled.structure, StructureModule)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert not SplitStructure()(compiled).modified, "a second time there is nothing to do"


def test_a_graph_without_structure_work_is_left_alone():
    traced = upscale_fx.trace(zoo.mlp(6, 8, 3), (torch.randn(4, 6),))
    assert not SplitStructure()(traced).modified
    with pytest.raises(InputError, match=r"computes something from its graph alone; CompiledGNN has no such"):
        upscale_fx.prepare(traced, EDGES, 23)


def test_positional_and_keyword_calls(weighted):
    handle = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    expected = weighted(X, EDGES, WEIGHTS)
    for found in (weighted(X, handle), weighted(x=X, edge_index=handle), weighted(X, handle, None)):
        assert_identical(found, expected)


def test_a_prepared_graph_serves_the_same_model_pruned_by_another_amount(gcn):
    for amount in (0.25, 0.75):
        other = pruned("family-gcn", amount)
        assert_identical(other(X, upscale_fx.prepare(gcn, EDGES, 23)), other(X, EDGES))


# torch_geometric.EdgeIndex -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, "row", "col"])
@pytest.mark.parametrize("name", ["family-gcn", "gat-4", "more-cheb", "raw-forms"])
def test_an_edge_index_of_pyg_is_its_tensor(name, order):
    compiled, inputs = pruned(name), zoo.ZOO[name].inputs(23, 70)
    edges = EdgeIndex(inputs["edge_index"], sparse_size=(23, 23))
    edges = edges.sort_by(order).values.fill_cache_() if order else edges
    expected = compiled(inputs["x"], edges.as_tensor())
    for one in before_and_after(name, 0.5):
        assert_identical(one(inputs["x"], edges), expected)
    traced = upscale_fx.trace(compiled)
    assert_identical(traced(inputs["x"], edges), traced(inputs["x"], edges.as_tensor()))
    handle = upscale_fx.prepare(compiled, edges, 23)
    assert_identical(compiled(inputs["x"], handle), expected)
    assert {type(value) for values in handle.values.values() for value in values} == {torch.Tensor}


def test_a_stale_cache_of_pyg_is_not_used(gcn):
    """PyG leaves order and pointers as they were when the index is written into; we never read them."""
    edges = EdgeIndex(EDGES.clone(), sparse_size=(23, 23)).sort_by("col").values.fill_cache_()
    edges[1].copy_(edges[1].flip(0).clone())
    assert edges.is_sorted_by_col, "PyG still says so"
    assert (edges.as_tensor()[1].diff() < 0).any(), "although it is not"
    expected = gcn(X, edges.as_tensor().clone())
    assert_identical(gcn(X, edges), expected)
    assert_identical(gcn(X, upscale_fx.prepare(gcn, edges, 23)), expected)


# Never stale ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["family-gcn", "gin", "pool-context", "gcn-weighted", "edge-updates"])
def test_writing_into_the_arguments_changes_nothing_in_the_handle(name):
    compiled, inputs = pruned(name), zoo.ZOO[name].inputs(23, 70)
    expected = compiled(**inputs)
    _, rest = prepared(compiled, inputs)
    for key in structure_of(compiled).arguments:
        inputs[key].zero_()
    assert_identical(compiled(**rest), expected)
    assert not torch.allclose(compiled(**inputs), expected), "the call itself sees the new values"


def test_two_graphs_have_two_handles(gcn):
    graphs = [zoo.ZOO["family-gcn"].inputs(23, 70, seed=seed)["edge_index"] for seed in range(3)]
    handles = [upscale_fx.prepare(gcn, edges, 23) for edges in graphs]
    for edges, handle in [*zip(graphs, handles, strict=True)][::-1]:
        assert_identical(gcn(X, handle), gcn(X, edges))
    assert not torch.allclose(gcn(X, handles[0]), gcn(X, handles[1]))


def test_a_model_that_changes_after_prepare_is_the_model_that_runs(gcn):
    changed = copy.deepcopy(gcn)
    handle = upscale_fx.prepare(changed, EDGES, 23)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(0.5)
    assert_identical(changed(X, handle), changed(X, EDGES))
    assert not torch.allclose(changed(X, handle), gcn(X, handle))


# Training and compiling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["family-gcn", "gat-4", "gin", "gcn-weighted"])
def test_gradients_are_those_without_a_handle(name):
    compiled = upscale_fx.prune(zoo.without_dropout(zoo.make(name)), 0.5).train()
    inputs = zoo.ZOO[name].inputs(23, 70)
    with torch.inference_mode():
        _, rest = prepared(compiled, inputs)
    grown = []
    for arguments in (inputs, rest):
        compiled.zero_grad()
        arguments["x"] = arguments["x"].clone().requires_grad_()
        compiled(**arguments).square().sum().backward()
        grown.append([arguments["x"].grad, *(p.grad for p in compiled.parameters())])
    assert_identical(grown[1], grown[0])
    assert all(gradient.abs().sum() > 0 for gradient in grown[1])


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", only(["gat-4"], ["family-gcn", "gat-4", "norm-graph"]))
def test_torch_compile_takes_handles_of_all_sizes_in_one_graph(name):
    compiled = pruned(name)
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(compiled, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for seed, size in enumerate(SIZES):
            inputs = zoo.ZOO[name].inputs(*size, seed=seed)
            _, rest = prepared(compiled, inputs, asked=fast if seed == 0 else None)
            torch.testing.assert_close(fast(**rest), compiled(**inputs), rtol=1e-10, atol=1e-10)
    assert counter.frame_count == 1, "one graph for all handles"


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_call_refuses_a_handle_for_another_graph(gcn):
    handle = upscale_fx.prepare(gcn, EDGES, 23)
    for whole_graph, error in [(True, torch._dynamo.exc.Unsupported), (False, InputError)]:
        torch.compiler.reset()
        fast = torch.compile(gcn, fullgraph=whole_graph, dynamic=True, backend="eager")
        assert_identical(fast(X, handle), gcn(X, EDGES))
        for other in (X[:22], X.float()):
            with pytest.raises(error):
                fast(other, handle)
