"""``torch.compile(model, backend="upscale")``: exactly the masked model, on every size, and never an old answer."""

import shutil

import pytest
import torch
import torch_geometric.nn as gnn
import torch_geometric.utils as pyg
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.fx.passes.infra.pass_manager import PassManager
from torch.nn import functional as F

import upscale_fx
from upscale_fx import passes
from upscale_fx.backend import upscale
from upscale_fx.backend.arguments import arguments_of, plain_values
from upscale_fx.backend.captured import captured_graph
from upscale_fx.backend.likeness import describe
from upscale_fx.backend.raising import raise_leaves
from upscale_fx.backend.replay import CapturedModel, check_capture
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

SIZES = ((23, 70), (40, 31), (57, 200))  # nodes, edges


def family(cls):
    return lambda: cls(12, 16, 5, num_layers=2)


def basic(cls, **options):
    return lambda: cls(12, 16, 2, 5, **options)


MODELS = {
    **{cls.__name__: family(cls) for cls in (SimpleGCN, SAGE, GATv2, GraphTransformer, JKNet)},
    "GCN": basic(gnn.models.GCN, dropout=0.3),
    "GraphSAGE": basic(gnn.models.GraphSAGE, jk="max"),
    "GAT": basic(gnn.models.GAT, heads=4),
    "GIN": basic(gnn.models.GIN, norm="batch_norm"),
}


class Spy:
    """The backend, and every graph it made."""

    def __init__(self):
        self.made = []

    def __call__(self, gm, example_inputs, **options):
        self.made.append(upscale(gm, example_inputs, **options))
        return self.made[-1]

    @property
    def compiled(self):
        return self.made[-1].compiled


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def build(make=None):
    torch.manual_seed(0)
    model = (make or MODELS["SAGE"])().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases start at zero, all alike
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def graph(nodes, edges, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 12, dtype=torch.float64, generator=draw), torch.randint(nodes, (2, edges), generator=draw)


def compile_(model, backend="upscale", dynamic=True, **options):
    return torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic, options={"inner": "eager", **options})


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def size_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


def failure(call):
    """What a compilation fails with, as the user sees it."""
    with pytest.raises(BackendCompilerFailed) as caught, torch.no_grad():
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_masked_model_at_every_size_with_one_graph(name):
    model, spy = build(MODELS[name]), Spy()
    masked, fast = upscale_fx.mask(model, 0.5), compile_(model, spy, amount=0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for size in SIZES:
            assert_same(fast(*graph(*size)), masked(*graph(*size)))
    assert len(spy.made) == 1
    assert size_of(spy.compiled) < 0.75 * size_of(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model is untouched"


def test_it_is_as_small_as_what_prune_makes():
    model, spy = build(), Spy()
    with torch.no_grad():
        compile_(model, spy, amount=0.5)(*graph(*SIZES[0]))
    assert size_of(spy.compiled) == size_of(upscale_fx.prune(model, 0.5))


@pytest.mark.parametrize(
    "options",
    [
        {"amount": 0.5, "constrained": True},
        {"amount": 0.25, "inputs": True, "scope": "global", "criterion": "l1"},
        {"amount": {"convs.1": 0.75}, "round_to": 3},
        {"amount": 0.5, "ignore": "convs.1.lin_r"},
    ],
    ids="-".join,
)
def test_options_are_those_of_prune(options):
    model = build()
    with torch.no_grad():
        assert_same(compile_(model, **options)(*graph(*SIZES[0])), upscale_fx.mask(model, **options)(*graph(*SIZES[0])))


def test_a_callback_sees_every_pass_and_so_the_report():
    seen = []
    with torch.no_grad():
        compile_(build(), amount=0.5, callback=lambda *step: seen.append(step))(*graph(*SIZES[0]))
    assert any(isinstance(one, passes.CompactChannels) for one, _, _ in seen)
    report = upscale_fx.report(seen[-1][2])
    assert report.after.parameters < report.before.parameters == size_of(build())


def test_without_amount_it_only_optimises():
    model, spy = build(), Spy()
    with torch.no_grad():
        assert_same(compile_(model, spy)(*graph(*SIZES[0])), model(*graph(*SIZES[0])))
    assert size_of(spy.compiled) == size_of(model)


@pytest.mark.parametrize("inner", ["aot_eager", *(["inductor"] if shutil.which("g++") else [])])
def test_the_rest_goes_to_another_backend(inner):
    model = build()
    fast, masked = compile_(model, amount=0.5, inner=inner), upscale_fx.mask(model, 0.5)
    with torch.inference_mode():
        for size in SIZES:
            assert_same(fast(*graph(*size)), masked(*graph(*size)))


@pytest.mark.parametrize(
    ("dynamic", "first"),
    [(None, (23, 70)), (None, (30, 30)), (True, (12, 16))],
    ids=["usual", "as many nodes as edges", "as many nodes as channels"],
)
def test_sizes_are_dynamic_from_the_first_call_on(dynamic, first):
    """Also those that Dynamo would make constants of; the tensors given stay unmarked."""
    model, spy = build(), Spy()
    fast, masked = compile_(model, spy, dynamic, amount=0.5), upscale_fx.mask(model, 0.5)
    with torch.no_grad():
        for size in (first, *SIZES):
            inputs = graph(*size)
            assert_same(fast(*inputs), masked(*inputs))
            assert not any(name for tensor in inputs for name in vars(tensor))
    assert len(spy.made) == 1


def test_a_single_node_has_a_graph_of_its_own():
    model = build(MODELS["SimpleGCN"])
    fast, masked = compile_(model, amount=0.5), upscale_fx.mask(model, 0.5)
    with torch.no_grad():
        for size in ((23, 70), (1, 1), (2, 1)):
            assert_same(fast(*graph(*size)), masked(*graph(*size)))


def changed_in_place(model):
    with torch.no_grad():
        model.convs[1].lin_l.weight.mul_(-2).add_(1)


def changed_columns(model):
    weight = model.convs[1].lin_l.weight.data
    weight[:, [0, 1]] = weight[:, [1, 0]]


def changed_by_numpy(model):
    model.convs[1].lin_r.weight.data.numpy()[:, :4] *= 9


def replaced(model):
    model.convs[1].lin_l.weight = nn.Parameter(torch.randn(5, 16, dtype=torch.float64))


def trained(model):
    model(*graph(*SIZES[1])).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def loaded(model):
    model.load_state_dict(family(SAGE)().state_dict())


CHANGES = (changed_in_place, changed_columns, changed_by_numpy, replaced, trained, loaded)


def test_a_changed_model_is_pruned_anew():
    model, spy = build(), Spy()
    fast, inputs = compile_(model, spy, amount=0.5), graph(*SIZES[0])
    with torch.no_grad():
        old = fast(*inputs)
    for change in CHANGES:
        change(model)
        with torch.no_grad():
            found = fast(*inputs)
            assert_same(found, upscale_fx.mask(model, 0.5)(*inputs))
        assert not torch.allclose(found, old), change
        old = found
    assert len(spy.made) == 1, "Dynamo did not notice"


def test_buffers_and_numbers_count_as_parameters_do():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = gnn.SAGEConv(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)
            self.slope = 0.1

        def forward(self, x, edge_index):
            return self.head(F.leaky_relu(self.norm(self.conv(x, edge_index)), self.slope))

    model, spy = build(Scaled), Spy()
    fast, inputs = compile_(model, spy, amount=0.5), graph(*SIZES[0])
    with torch.no_grad():
        fast(*inputs)
        for change in (lambda: model.norm.running_mean.fill_(2), lambda: setattr(model, "slope", 0.7)):
            change()
            assert_same(fast(*inputs), upscale_fx.mask(model, 0.5)(*inputs))


def test_an_unchanged_model_is_not_pruned_anew():
    model, spy = build(), Spy()
    fast = compile_(model, spy, amount=0.5)
    with torch.no_grad():
        fast(*graph(*SIZES[0]))
        compiled = spy.compiled
        model.convs[0].lin_l.weight = nn.Parameter(model.convs[0].lin_l.weight.clone())
        fast(*graph(*SIZES[1]))
    assert spy.compiled is compiled


def test_without_fullgraph_an_error_says_so():
    for make, where in ((MODELS["SimpleGCN"], "broken at loop.py"), (MODELS["SAGE"], "Pass fullgraph=True")):
        fast = torch.compile(build(make), backend="upscale", options={"amount": 0.5})
        message = failure(lambda fast=fast: fast(*graph(*SIZES[0])))
        assert "needs torch.compile(..., fullgraph=True)" in message
        assert where in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amuont": 0.5}, "unknown option 'amuont' of backend='upscale'; valid options: ['amount', 'criterion'"),
        ({"amount": 1}, "amount must be a number in [0, 1)"),
        ({"amount": 0.5, "criterion": "l7"}, "unknown criterion 'l7'"),
        ({"amount": 0.5, "ignore": "layers.*"}, "valid names: ['convs.0.lin_l', 'convs.0.lin_r', 'convs.1.lin_l'"),
        ({"amount": 0.01}, "nothing to prune"),
        ({"inner": "upscale"}, "names no other backend"),
    ],
    ids=str,
)
def test_bad_options_are_refused_with_what_is_valid(options, message):
    assert message in failure(lambda: compile_(build(), **options)(*graph(*SIZES[0])))


def test_a_mode_is_refused():
    fast = torch.compile(build(), backend="upscale", fullgraph=True, mode="max-autotune")
    assert "takes no mode" in failure(lambda: fast(*graph(*SIZES[0])))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own
def test_gradients_of_parameters_are_refused_and_those_of_inputs_exact():
    model, (x, edge_index) = build(), graph(*SIZES[0])
    with pytest.raises(BackendCompilerFailed, match=r"torch\.no_grad\(\) or torch\.inference_mode\(\); to train"):
        compile_(model, amount=0.5)(x, edge_index)
    model.requires_grad_(False)
    grown = []
    for module in (compile_(model, amount=0.5, inner="aot_eager"), upscale_fx.mask(model, 0.5)):
        module(x.requires_grad_(), edge_index).square().sum().backward()
        grown.append(x.grad)
        x.grad = None
    assert_same(*grown)


def test_batch_norm_in_training_is_refused():
    model = build(MODELS["GIN"]).train()
    assert "call model.eval() first" in failure(lambda: compile_(model, amount=0.5)(*graph(*SIZES[0])))


def test_dropout_in_training_draws():
    fast = compile_(build().train(), amount=0.5)
    with torch.no_grad():
        assert not torch.equal(fast(*graph(*SIZES[0])), fast(*graph(*SIZES[0])))


def test_a_compiled_model_is_refused():
    again = compile_(upscale_fx.compact(upscale_fx.mask(build(), 0.5)), amount=0.5)
    assert "upscale_fx.prune(compiled, amount)" in failure(lambda: again(*graph(*SIZES[0])))


def test_a_layer_that_caches_its_graph_is_refused():
    fast = compile_(build(lambda: gnn.GCNConv(12, 16, cached=True)), amount=0.5, inputs=True)
    with torch.no_grad():
        fast(*graph(*SIZES[0]))  # has no cache yet
    assert "cached=True" in failure(lambda: fast(*graph(*SIZES[0])))


def test_empty_graphs_are_refused():
    x, edge_index = graph(5, 9)
    assert "axis 1 of 'edge_index' is empty" in failure(lambda: compile_(build(), amount=0.5)(x, edge_index[:, :0]))


def test_arguments_need_not_be_contiguous():
    model = build()
    fast, masked, (x, edge_index) = compile_(model, amount=0.5), upscale_fx.mask(model, 0.5), graph(46, 140)
    with torch.no_grad():
        for step in (2, 1, 3):
            inputs = x[::step], edge_index[:, ::step] // step
            assert_same(fast(*inputs), masked(*inputs))


def test_what_cannot_be_traced_names_the_line():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x, edge_index):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.second(self.first(x))

    message = failure(lambda: compile_(build(Sorts), amount=0.5)(*graph(*SIZES[0])))
    assert "torch.autocast within forward()" in message
    assert "test_backend.py:" in message


def test_a_model_for_one_size_is_refused():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.first, self.second = nn.Parameter(torch.randn(23, 12)), nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x, edge_index):
            return self.second(self.first(x + self.own).relu())

    message = failure(lambda: compile_(build(Positions), amount=0.5)(*graph(23, 70)))
    assert "fixed axis 0 of 'x' at 23" in message


def test_recurrent_layers_are_refused():
    with torch._dynamo.config.patch(allow_rnn=True):
        make = lambda: JKNet(12, 16, 5, num_layers=2, mode="lstm")  # noqa: E731
        message = failure(lambda: compile_(build(make), amount=0.5)(*graph(*SIZES[0])))
    assert "found torch.lstm, whose weights cannot be told apart here (at jumping_knowledge.py:" in message


def test_autocast_is_refused():
    fast = compile_(build(), amount=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "model.bfloat16()" in failure(lambda: fast(*graph(*SIZES[0])))


def test_a_graph_module_of_ones_own_is_refused():
    with pytest.raises(upscale_fx.InputError, match=r"call upscale_fx\.prune"):
        upscale(torch.fx.symbolic_trace(nn.Linear(3, 3)), [torch.zeros(1, 3)])


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
            assert_same(fast(**inputs(*size)), masked(**inputs(*size)))


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
        assert_same(fast({"x": x, "edges": (edge_index, None)}), expected)


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
        values = plain_values(values)
        captured = captured_graph(gm, arguments)
        held = {a.name: values[a.place] for a in captured.held}
        inner = CapturedModel(captured, {k: v.item() if v.dim() == 0 else v for k, v in held.items()})
        inputs = describe(captured.given, {a.name: values[a.place] for a in captured.given}, inner)
        kept.update(graph=captured.graph, check=lambda other: check_capture(gm, arguments, other, inputs, values))
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
    assert size_of(result.graph_module) < size_of(traced)
    assert_same(result.graph_module(*graph(*SIZES[2])), traced(*graph(*SIZES[2])))
