"""``prepare``: the structure half runs once per graph, gives exactly what a call computes, and is never stale."""

import copy
import functools
import pickle
import subprocess
import sys

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric import EdgeIndex
from torch_geometric.utils import dropout_edge

import upscale_fx
from tests import test_hetero, zoo
from upscale_fx import InputError, PreparedGraph
from upscale_fx.compiled import functions
from upscale_fx.compiled.structure.modules import StructureModule, structure_of
from upscale_fx.passes import SplitStructure, WriteInPlace, check_invariants

SIZES = ((23, 70), (40, 31), (57, 200))  # nodes, edges
FAMILIES = ("family-gcn", "family-sage", "gat-4", "gatv2-4", "transformer-4", "gin", "basic-PNA-last-None")
WITH_MORE = ("gcn-weighted", "pool-all", "norm-graph", "basic-PNA-max-layer_norm", "more-cheb", "conv-three-times")


@functools.cache
def before_and_after(name, amount):
    """A pruned model right before and after its structure half became a module."""
    steps = {}
    example = zoo.ZOO[name].example()
    upscale_fx.prune(
        zoo.make(name), amount, example_kwargs=example, callback=lambda one, *pair: steps.update({type(one): pair})
    )
    return steps[SplitStructure]


def pruned(name, amount=0.5):
    return copy.deepcopy(before_and_after(name, amount)[1])


def prepared(compiled, inputs):
    """The handle of one call's inputs, and the inputs that are left."""
    structure = structure_of(getattr(compiled, "_orig_mod", compiled))
    taken = {name: inputs[name] for name in structure.arguments if name in inputs}
    handle = upscale_fx.prepare(compiled, num_nodes=inputs["x"].size(0), **taken)
    return handle, {name: value for name, value in inputs.items() if name not in taken} | {"edge_index": handle}


def assert_identical(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Recorder(TorchDispatchMode):
    """The operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().partition("::")[2].partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def gcn():
    return pruned("family-gcn")


@pytest.fixture(scope="module")
def weighted():
    return pruned("gcn-weighted")


GCN = zoo.ZOO["family-gcn"].inputs(23, 70)
X, EDGES = GCN["x"], GCN["edge_index"]
WEIGHTS = torch.rand(70, dtype=torch.float64) + 0.5


# The same, computed once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, *WITH_MORE])
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


# Other kinds of graphs -----------------------------------------------------------------------------------------------


class Bipartite(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.SAGEConv((5, 7), 16), gnn.SAGEConv((5, 16), 3)

    def forward(self, x, adj_index):
        return self.second((x[0], self.first(x, adj_index).relu()), adj_index)


def bipartite(sources, targets, edges):
    x = (torch.randn(sources, 5), torch.randn(targets, 7))
    return x, torch.stack([torch.randint(sources, (edges,)), torch.randint(targets, (edges,))])


def test_bipartite_graphs():
    compiled = upscale_fx.prune(Bipartite(), 0.5, example_inputs=bipartite(9, 6, 20))
    x, edges = bipartite(31, 12, 50)
    for nodes in ((31, 12), {"x[0]": 31, "x[1]": 12}):
        handle = upscale_fx.prepare(compiled, edges, nodes)
        assert_identical(compiled(x, handle), compiled(x, edges))
        assert handle.num_nodes == nodes
    with pytest.raises(InputError, match=r"several kinds of nodes; pass num_nodes=\(num_source, num_target\)"):
        upscale_fx.prepare(compiled, edges, 31)
    with pytest.raises(InputError, match=r"how many rows x\[1\] has.*num_nodes=\(num_source, num_target\)"):
        upscale_fx.prepare(compiled, edges)
    with pytest.raises(InputError, match=r"'adj_index'\[1\] names node 1[01], but there are 1[01] nodes"):
        upscale_fx.prepare(compiled, edges, (31, int(edges[1].max())))
    with pytest.raises(InputError, match=r"'x\[0\]' has 9 rows, but the graph was prepared for 31"):
        compiled((x[0][:9], x[1]), handle)


def test_heterogeneous_graphs():
    example = test_hetero.graph(test_hetero.SIZES[0])
    compiled = upscale_fx.prune(test_hetero.Hetero().double(), 0.5, example_inputs=example)
    for seed, sizes in enumerate(test_hetero.SIZES):
        x, edges = test_hetero.graph(sizes, seed)
        handle = upscale_fx.prepare(compiled, edges, sizes)
        assert handle.num_edges == 120
        assert_identical(compiled(x, handle), compiled(x, edges))
        assert_identical(compiled(x_dict=x, edge_index_dict=handle), compiled(x, edges))
    with pytest.raises(InputError, match=r"how many rows x_dict\['item'\] has.*num_nodes=\{'user': \.\.\., 'item'"):
        upscale_fx.prepare(compiled, edge_index_dict=edges, num_nodes={"user": 23})
    with pytest.raises(InputError, match=r"no use for 'users'; this model has 'user', 'item'"):
        upscale_fx.prepare(compiled, edges, {"users": 23})
    with pytest.raises(InputError, match=r"'edge_index_dict' is not built as it was"):
        upscale_fx.prepare(compiled, {("user", "buys", "item"): EDGES}, sizes)


def test_arguments_of_their_own_come_with_the_handle_or_with_the_call():
    """Only pooling reads ``batch``, so a handle need not hold it."""
    compiled, inputs = pruned("pool-all"), zoo.ZOO["pool-all"].inputs(23, 70, graphs=3)
    expected = compiled(**inputs)
    x, edge_index, batch = inputs.values()
    without, held = (upscale_fx.prepare(compiled, edge_index, 23, **more) for more in ({}, {"batch": batch}))
    assert_identical(compiled(x, without, batch), expected)
    assert_identical(compiled(x, held), expected)
    with pytest.raises(InputError, match=r"'batch' is missing: the prepared graph holds 'edge_index' only"):
        compiled(x, without)
    with pytest.raises(InputError, match=r"'batch' is given, but the prepared graph holds one"):
        compiled(x, held, batch)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(9, 16), gnn.GCNConv(16, 3)

    def forward(self, x, edge_index):
        return self.conv(self.embed(x), edge_index)


def test_an_index_per_node_is_a_feature():
    tokens = torch.randint(9, (23,))
    compiled = upscale_fx.optimize(Tokens(), example_inputs=(tokens, EDGES))
    assert structure_of(compiled).arguments == ("edge_index",)
    assert_identical(compiled(tokens, upscale_fx.prepare(compiled, EDGES, 23)), compiled(tokens, EDGES))


class Noisy(nn.Module):
    """Draws edges at random; a graph prepared once must not keep one draw for ever."""

    def __init__(self):
        super().__init__()
        self.conv = gnn.GCNConv(12, 3)

    def forward(self, x, edge_index):
        noise = torch.randint_like(edge_index[0], 2).to(x.dtype) + torch.poisson(torch.ones_like(edge_index[0]).to(x))
        return self.conv(x, edge_index, noise)


class Dropped(Noisy):
    def forward(self, x, edge_index):
        fewer, _ = dropout_edge(edge_index, 0.5, training=True)
        return self.conv(x, fewer) + self.conv(x, edge_index)


@pytest.mark.parametrize("model", [Noisy, Dropped])
def test_what_draws_random_numbers_is_not_structure(model):
    compiled = upscale_fx.optimize(model().double())
    assert not {"randint_like", "poisson", "dropout_edge"} & set(structure_of(compiled).parts[0].summary.split(", "))
    handle = upscale_fx.prepare(compiled, EDGES, 23)
    assert not torch.equal(compiled(X, handle), compiled(X, handle))


class Summed(nn.Module):
    """A sum that inference writes over its first operand, which is structure."""

    def __init__(self):
        super().__init__()
        self.lin, self.conv = nn.Linear(3, 1), gnn.GraphConv(12, 3)

    def forward(self, x, edge_index, edge_weight, edge_attr):
        total = edge_weight * 2.0 + self.lin(edge_attr).view(-1)
        return self.conv(x, edge_index, total)


def test_inference_never_writes_over_a_prepared_graph():
    attributes = torch.randn(70, 3, dtype=torch.float64)
    inputs = (X, EDGES, WEIGHTS, attributes)
    written = WriteInPlace()(upscale_fx.trace(Summed().double(), inputs)).graph_module
    assert any(node.target is functions.add_into for node in written.graph.nodes)
    compiled = SplitStructure()(written).graph_module
    expected = compiled(*inputs)
    handle = upscale_fx.prepare(compiled, EDGES, 23, edge_weight=WEIGHTS)
    with torch.inference_mode():
        for _ in range(3):
            assert_identical(compiled(X, handle, edge_attr=attributes), expected)


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


def test_handles_pickle_copy_and_move(weighted, tmp_path):
    handle = upscale_fx.prepare(weighted, EDGES, 23, edge_weight=WEIGHTS)
    expected = weighted(X, EDGES, WEIGHTS)
    for twin in (pickle.loads(pickle.dumps(handle)), copy.deepcopy(handle), handle.to("cpu")):
        assert_identical(weighted(X, twin), expected)
    assert handle.to("meta").device == torch.device("meta")
    torch.save((weighted, handle, X, expected), tmp_path / "all.pt")
    script = (
        "import sys, torch; m, h, x, y = torch.load(sys.argv[1], weights_only=False); sys.exit(not m(x, h).equal(y))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "all.pt"], check=True)


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


@pytest.fixture
def _fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("name", ["family-gcn", "gat-4", "norm-graph"])
def test_torch_compile_takes_handles_of_all_sizes_in_one_graph(name):
    compiled = pruned(name)
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(compiled, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for seed, size in enumerate(SIZES):
            inputs = zoo.ZOO[name].inputs(*size, seed=seed)
            _, rest = prepared(fast, inputs) if seed == 0 else prepared(compiled, inputs)
            torch.testing.assert_close(fast(**rest), compiled(**inputs), rtol=1e-10, atol=1e-10)
    assert counter.frame_count == 1, "one graph for all handles"


@pytest.mark.usefixtures("_fresh_dynamo")
def test_a_compiled_call_refuses_a_handle_for_another_graph(gcn):
    handle = upscale_fx.prepare(gcn, EDGES, 23)
    for whole_graph, error in [(True, torch._dynamo.exc.Unsupported), (False, InputError)]:
        torch.compiler.reset()
        fast = torch.compile(gcn, fullgraph=whole_graph, dynamic=True, backend="eager")
        assert_identical(fast(X, handle), gcn(X, EDGES))
        for other in (X[:22], X.float()):
            with pytest.raises(error):
                fast(other, handle)


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
