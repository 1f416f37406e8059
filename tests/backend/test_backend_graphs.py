"""What Dynamo captures becomes the model again: arguments of every kind, aggregations raised, mistakes noticed."""

import pytest
import torch
import torch_geometric.nn as gnn
import torch_geometric.utils as pyg
from torch import nn
from torch.fx.passes.infra.pass_manager import PassManager

import upscale_fx
from tests.backend.dynamo import MODELS, SIZES, basic, build, compile_, graph
from tests.comparison import assert_same, parameters
from upscale_fx import passes
from upscale_fx.backend.arguments import arguments_of, concrete_values
from upscale_fx.backend.clean import clean_graph
from upscale_fx.backend.likeness import describe
from upscale_fx.backend.raising import raise_leaves
from upscale_fx.backend.replay import CapturedModel, check_capture
from upscale_fx.models import SAGE

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Pooled(nn.Module):
    """A number of graphs that is an argument, by keyword, and one read off the batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = gnn.GCNConv(12, 16), nn.Linear(32, 5)

    def forward(self, x, edge_index, batch, batch_size):
        h = self.conv(x, edge_index).relu()
        return self.head(torch.cat([gnn.global_mean_pool(h, batch, batch_size), gnn.global_max_pool(h, batch)], -1))


class Kernels(nn.Module):
    """What Dynamo calls kernels for: a recurrent cell and attention."""

    def __init__(self):
        super().__init__()
        self.inner, self.cell = nn.Linear(12, 16), nn.GRUCell(16, 16)
        self.attention, self.head = nn.MultiheadAttention(16, 2), nn.Linear(16, 5)

    def forward(self, x, edge_index):
        h = self.inner(x).relu()
        h = self.cell(h[edge_index[0]][: x.size(0)], h[: edge_index.size(1)])
        return self.head(h + self.attention(h, h, h, need_weights=False)[0])


class Hetero(nn.Module):
    """Dictionaries of nodes and edges."""

    def __init__(self):
        super().__init__()
        kinds = {("paper", "cites", "paper"): (12, 12), ("author", "writes", "paper"): (7, 12)}
        kinds["paper", "written by", "author"] = (12, 7)
        self.conv = gnn.HeteroConv({kind: gnn.SAGEConv(widths, 16) for kind, widths in kinds.items()})
        self.head = nn.Linear(16, 5)

    def forward(self, x_dict, edge_index_dict):
        return self.head(self.conv(x_dict, edge_index_dict)["paper"].relu())


def pooled_inputs(nodes, edges):
    x, edge_index = graph(nodes, edges)
    return {"x": x, "edge_index": edge_index, "batch": torch.arange(nodes) * 3 // nodes, "batch_size": 3}


def hetero_inputs(nodes, edges):
    (x, cites), (y, writes) = graph(nodes, edges), graph(nodes // 2, edges // 2, seed=2)
    relations = {("paper", "cites", "paper"): cites, ("author", "writes", "paper"): writes}
    relations["paper", "written by", "author"] = writes.flip(0)
    return {"x_dict": {"paper": x, "author": y[:, :7].contiguous()}, "edge_index_dict": relations}


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (Pooled, pooled_inputs),
        (Kernels, lambda nodes, edges: dict(zip(("x", "edge_index"), graph(nodes, max(edges, 60)), strict=True))),
        (Hetero, hetero_inputs),
    ],
)
def test_arguments_of_every_kind(make, inputs):
    model = build(make)
    masked, fast = upscale_fx.mask(model, 0.5, example_kwargs=inputs(*SIZES[0])), compile_(model, amount=0.5)
    with torch.no_grad():
        for size in SIZES:
            assert_same(masked(**inputs(*size)), fast(**inputs(*size)))


@pytest.mark.slow
def test_two_models_in_one_function():
    first, second = build(basic(gnn.models.GCN)), build(lambda: SAGE(5, 16, 3, num_layers=2))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x, edge_index):
            return self.second(self.first(x, edge_index).relu(), edge_index)

    fast = compile_(lambda data: second(first(data["x"], data["edges"][0]).relu(), data["edges"][0]), amount=0.5)
    x, edge_index = graph(*SIZES[0])
    with torch.no_grad():
        expected = upscale_fx.mask(Both(), 0.5)(x, edge_index)
        assert_same(expected, fast({"x": x, "edges": (edge_index, None)}))


class Aggregates(nn.Module):
    def __init__(self, aggregation):
        super().__init__()
        self.conv, self.head = gnn.SimpleConv(aggregation), nn.Linear(12, 5)

    def forward(self, x, edge_index):
        return self.head(self.conv(x, edge_index))


def captured(model):
    """What the backend makes of a model's graph before it is traced."""
    kept = {}

    def keep(gm, values):
        arguments = arguments_of(gm, values)
        values = concrete_values(values)
        plain = clean_graph(gm, arguments)
        held = {a.name: values[a.place] for a in plain.held}
        inner = CapturedModel(plain, {k: v.item() if v.dim() == 0 else v for k, v in held.items()})
        inputs = describe(plain.given, {a.name: values[a.place] for a in plain.given}, inner)
        kept.update(graph=plain.graph, check=lambda other: check_capture(gm, arguments, other, inputs, values))
        kept["model"] = inner
        return gm.forward

    with torch.no_grad():
        torch.compile(model, backend=keep, fullgraph=True, dynamic=True)(*graph(*SIZES[0]))
    return kept


@pytest.mark.parametrize("aggregation", ["sum", "mean", "max", "min", "mul"])
def test_aggregations_are_raised(aggregation):
    raised = captured(build(lambda: Aggregates(aggregation)))["graph"]
    raise_leaves(raised)
    calls = [node.args[4] for node in raised.nodes if node.target is pyg.scatter and node.users]
    assert calls[-1] == aggregation
    assert not any(str(node.target).endswith("_") for node in raised.nodes), "nothing in place is left"


def test_softmax_over_edges_is_raised():
    raised = captured(build(MODELS["GAT"]))["graph"]
    raise_leaves(raised)
    assert sum(node.target is pyg.softmax for node in raised.nodes) == 2, "one per layer"
    assert not any(node.target == "exp" and node.users for node in raised.nodes if not _feeds_nothing(node))


def _feeds_nothing(node):
    """Whether all that a node leads to is dead."""
    return all(user.op != "output" and _feeds_nothing(user) for user in node.users)


def test_a_graph_that_was_misunderstood_is_noticed():
    kept = captured(build())
    kept["check"](kept["model"])
    with torch.no_grad():
        kept["model"].get_parameter("convs.1.lin_l.weight").mul_(1.01)
    with pytest.raises(upscale_fx.TraceError, match="did not understand the graph"):
        kept["check"](kept["model"])


def test_passes_run_inside_the_pass_manager_of_torch():
    traced = upscale_fx.trace(upscale_fx.mask(build(), 0.5))
    manager = PassManager(passes=[passes.ShareStructure(), passes.CompactChannels(), passes.RemoveDeadNodes()])
    result = manager(traced)
    assert result.modified
    assert parameters(result.graph_module) < parameters(traced)
    assert_same(traced(*graph(*SIZES[2])), result.graph_module(*graph(*SIZES[2])))
