"""Fused graphs in the transforms of torch.func, under torch.jit.trace and torch.jit.script."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune
from torch_geometric import nn as gnn
from torch_geometric.data import Data

import upscale_fx
from tests.networks import Stack, random_graph
from tests.selection import only

WIDTH = 6
X, EDGES = random_graph(20, 70, WIDTH)
OTHER = random_graph(33, 90, WIDTH, seed=1)


class Pooled(Stack):
    """Graph-level, with a batch norm."""

    def __init__(self):
        super().__init__(gnn.GCNConv(WIDTH, 8), gnn.GINConv(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))))
        self.head = nn.Linear(8, 2)

    def forward(self, x, edge_index):
        return self.head(self.run(x, edge_index).relu()).mean(0, keepdim=True)


class OfData(Stack):
    """forward(data)."""

    def forward(self, data):
        return self.run(data.x, data.edge_index)


MODELS = {
    "sum": lambda: Stack(gnn.GCNConv(WIDTH, 8), gnn.GCNConv(8, 3)),
    "mean": lambda: Stack(gnn.SAGEConv(WIDTH, 8), gnn.SAGEConv(8, 3)),
    "max": lambda: Stack(gnn.SAGEConv(WIDTH, 8, aggr="max"), gnn.SAGEConv(8, 3, aggr="max")),
    "attention": lambda: Stack(gnn.GATConv(WIDTH, 4, heads=2), gnn.GATv2Conv(8, 3)),
    "products": lambda: Stack(gnn.TransformerConv(WIDTH, 8), gnn.TransformerConv(8, 3)),
    "pooled": Pooled,
}


def made(name):
    """The masked model and the fused graph."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    return upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)


def parameters(module):
    return {name: value.detach() for name, value in module.named_parameters()}


#: What is computed of a model that takes features and edges.
TRANSFORMS = {
    "grad": lambda f: torch.func.grad(lambda x: f(x, EDGES).square().sum())(X),
    "vjp": lambda f: torch.func.vjp(lambda x: f(x, EDGES), X)[1](f(X, EDGES)),
    "jvp": lambda f: torch.func.jvp(lambda x: f(x, EDGES), (X,), (X,)),
    "jacrev": lambda f: torch.func.jacrev(lambda x: f(x, EDGES))(X),
    "jacfwd": lambda f: torch.func.jacfwd(lambda x: f(x, EDGES))(X),
    "vmap": lambda f: torch.vmap(lambda x: f(x, EDGES))(torch.stack([X, 2 * X])),
    "hessian": lambda f: torch.func.hessian(lambda t: f(t * X, EDGES).square().sum())(torch.ones(1, dtype=X.dtype)),
}


@pytest.mark.parametrize("name", only(["sum", "max"], MODELS))
def test_transforms_give_what_they_give_for_the_model(name):
    model, fused = made(name)
    for transform in TRANSFORMS.values():
        for recording in (True, False):
            with torch.set_grad_enabled(recording):
                torch.testing.assert_close(transform(fused), transform(model), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["mean", "attention"])
def test_parameters_are_arguments(name):
    _, fused = made(name)
    plain = upscale_fx.compact(fused)

    def gradients(graph):
        return torch.func.grad(lambda p: torch.func.functional_call(graph, p, (X, EDGES)).square().sum())(
            parameters(graph)
        )

    torch.testing.assert_close(gradients(fused), gradients(plain), rtol=1e-9, atol=1e-11)
    doubled = {key: 2 * value for key, value in parameters(fused).items()}
    called = torch.func.functional_call(fused, doubled, (X, EDGES))
    torch.testing.assert_close(called, torch.func.functional_call(plain, doubled, (X, EDGES)))
    assert (called - fused(X, EDGES)).abs().max() > 0.01


def test_dual_numbers_go_through():
    model, fused = made("max")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        tangents = [forward_ad.unpack_dual(module(dual, EDGES)).tangent for module in (model, fused)]
    torch.testing.assert_close(*tangents)


def test_masks_hooks_copies_and_changed_weights_count_in_transforms():
    _, fused = made("mean")
    seen = []
    fused.get_submodule("convs.1.lin_r").register_forward_hook(lambda module, args, out: seen.append(out.shape))
    prune.random_unstructured(fused.get_submodule("convs.1.lin_l"), "weight", 0.5)
    for graph in (fused, copy.deepcopy(fused)):
        seen.clear()
        for _ in range(2):
            with torch.no_grad():
                for value in graph.parameters():
                    value.mul_(1.1)
            out = graph(X, EDGES)
            torch.testing.assert_close(torch.vmap(lambda x, graph=graph: graph(x, EDGES))(X[None])[0], out)
        assert len(seen) == 4, "once a call"


@pytest.mark.parametrize("name", ["mean", "attention"])
def test_prepared_graphs_are_refused_in_transforms(name):
    _, fused = made("sum" if name == "mean" else name)
    handle = upscale_fx.prepare(fused, EDGES, len(X))
    with pytest.raises(upscale_fx.UnsupportedError, match=r"torch\.func.*prepared graph.*pass edge_index itself"):
        torch.func.grad(lambda x: fused(x, handle).sum())(X)


def test_fused_graphs_that_were_changed_by_hand_are_refused_in_transforms():
    _, fused = made("mean")
    output = fused.graph.output_node()
    with fused.graph.inserting_before(output):
        doubled = fused.graph.call_function(torch.mul, (output.args[0], 2))
    output.args = (doubled,)
    fused.recompile()
    fused(X, EDGES)
    with pytest.raises(upscale_fx.UnsupportedError, match=r"changed|made by hand \(node 'mul.*compact\(\) returns"):
        torch.func.grad(lambda x: fused(x, EDGES).sum())(X)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes that PyG compares
def test_torch_jit_trace_gives_a_program_for_other_graphs_too(name):
    _, fused = made(name)
    for graph in (fused, upscale_fx.compact(fused)):
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(graph, (X, EDGES)), file)
        file.seek(0)
        loaded = torch.jit.load(file)
        for inputs in ((X, EDGES), OTHER):
            torch.testing.assert_close(loaded(*inputs), graph(*inputs), rtol=1e-9, atol=1e-11)


class Around(nn.Module):
    """A module that calls a graph."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def forward(self, x, edge_index):
        return self.graph(x, edge_index)


SCRIPTED = {
    "the graph": lambda graph: graph,
    "a graph that is not fused": upscale_fx.compact,
    "a list of layers": lambda graph: graph.convs,
    "a layer": lambda graph: graph.get_submodule("convs.0"),
    "a module around": Around,
    "a container around": nn.Sequential,
    "parts in another container": lambda graph: nn.ModuleDict({"convs": graph.convs}),
}


@pytest.mark.parametrize("what", SCRIPTED)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torch_jit_script_is_refused_with_the_way_out(what):
    _, fused = made("mean")
    with pytest.raises(
        upscale_fx.UnsupportedError, match=r"cannot compile .*torch\.export.*torch\.compile.*torch\.save"
    ):
        torch.jit.script(SCRIPTED[what](fused))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_part_alone_is_refused_by_torch_jit_trace():
    _, fused = made("mean")
    with pytest.raises(upscale_fx.PartError, match=r"'convs\.0' cannot be called alone.*Call the graph"):
        torch.jit.trace(fused.get_submodule("convs.0"), (X, EDGES))


def test_objects_go_through_transforms():
    torch.manual_seed(0)
    model = OfData(gnn.SAGEConv(WIDTH, 8), gnn.SAGEConv(8, 3)).double().eval()
    fused = upscale_fx.prune(model, 0.5, example_inputs=(Data(x=X, edge_index=EDGES),))

    def gradient(f):
        return torch.func.grad(lambda x: f(Data(x=x, edge_index=EDGES)).square().sum())(X)

    masked = upscale_fx.mask(model, 0.5, example_inputs=(Data(x=X, edge_index=EDGES),))
    torch.testing.assert_close(gradient(fused), gradient(masked))
