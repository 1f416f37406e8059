"""The state of a compiled graph says which channels it is for, and loads into graphs of these channels only."""

import copy

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import same_state, state
from tests.compiled.states import AROUND, HANDLED, MODELS, Trainer, make, pruned
from tests.selection import every

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(40, 16, generator=DRAW, dtype=torch.float64)
EDGES = torch.randint(40, (2, 160), generator=DRAW)
KEY = "_extra_state"


def out(graph):
    """What a graph computes."""
    with torch.no_grad():
        return graph.eval()(X, EDGES)


def train(graph):
    """Take one step, so that the weights are others."""
    graph.train()
    optimizer = torch.optim.Adam(graph.parameters(), 0.05)
    graph(X, EDGES).square().sum().backward()
    optimizer.step()
    return graph.eval()


@pytest.mark.parametrize("name", every(9, MODELS))
def test_it_loads_into_graphs_of_the_same_channels(name):
    trained = train(pruned(name))
    model = make(name)
    masked = upscale_fx.compact(upscale_fx.mask(model, 0.5))
    for graph in (
        upscale_fx.prune(model, 0.5),
        masked,
        upscale_fx.optimize(masked),
        upscale_fx.compact(trained),
        copy.deepcopy(trained),
    ):
        graph.load_state_dict(trained.state_dict())
        torch.testing.assert_close(out(graph), out(trained), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", every(4, MODELS, 2))
def test_it_does_not_load_into_graphs_of_other_channels(name, strict):
    graph, other = pruned(name), pruned(name, seed=1)
    before = state(graph)
    with pytest.raises(upscale_fx.StateError, match=r"other channels are kept.*prune it again"):
        graph.load_state_dict(other.state_dict(), strict=strict)
    assert same_state(before, state(graph)), "nothing of it was loaded"
    with pytest.raises(RuntimeError, match="other channels"):  # it is the built-in type, too
        nn.ModuleDict({"net": graph}).load_state_dict(nn.ModuleDict({"net": other}).state_dict(), strict=strict)


@pytest.mark.parametrize("how", every(3, HANDLED))
def test_it_survives_what_is_done_with_states(how):
    graph = pruned("gcn")
    expected = out(graph)
    tolerance = 1e-1 if "bfloat16" in how else 1e-2 if "half" in how else 1e-9
    other = pruned("gcn", seed=1)
    for assign in (False, True):
        target = pruned("gcn")
        target.load_state_dict(HANDLED[how](graph.state_dict()), assign=assign)
        assert float((out(target.double()) - expected).abs().max()) < tolerance
        with pytest.raises(upscale_fx.StateError):
            other.load_state_dict(HANDLED[how](graph.state_dict()), assign=assign)


@pytest.mark.parametrize("around", every(3, AROUND))
def test_it_travels_with_modules_around(around):
    graph = train(pruned("gcn"))
    values = copy.deepcopy(AROUND[around](graph).state_dict())
    same, other = pruned("gcn"), pruned("gcn", seed=1)
    AROUND[around](same).load_state_dict(values)
    if around != "averaged":  # that one holds a copy
        torch.testing.assert_close(out(same), out(graph), rtol=0, atol=1e-12)
    with pytest.raises(upscale_fx.StateError, match="other channels"):
        AROUND[around](other).load_state_dict(values)


def test_checkpoints_of_a_trainer():
    content = Trainer(train(pruned("transformer"))).save()
    Trainer(pruned("transformer")).load(content)
    with pytest.raises(upscale_fx.StateError, match="Stack"):
        Trainer(pruned("transformer", seed=1)).load(content, strict=False)


def test_a_graph_with_all_channels_shares_its_state_with_the_model():
    model, other = make("gcn"), make("gcn", seed=1)
    for graph in (upscale_fx.trace(model), upscale_fx.optimize(model)):
        assert graph.state_dict().keys() == model.state_dict().keys()
        graph.load_state_dict(other.state_dict())
        torch.testing.assert_close(out(graph), out(other))
        make("gcn").load_state_dict(graph.state_dict())
        with pytest.raises(upscale_fx.StateError, match="has all channels, in place"):
            graph.load_state_dict(pruned("gcn").state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*_extra_state"):
        model.load_state_dict(pruned("gcn").state_dict())


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_that_does_not_say_its_channels(strict):
    graph = pruned("transformer")
    values = {name: value for name, value in graph.state_dict().items() if name != KEY}
    for unknown in (values, make("transformer").state_dict(), {"head.weight": values["head.weight"]}):
        with pytest.raises(upscale_fx.StateError, match=r"does not say which channels of Stack.*_extra_state"):
            graph.load_state_dict(unknown, strict=strict)
    graph.load_state_dict({**values, KEY: graph.get_extra_state()}, strict=strict)  # as the message says


def test_parts_that_are_whole_and_in_place_load_alone():
    graph = pruned("transformer")
    found = graph.load_state_dict({"head.bias": torch.full((5,), 7.0)}, strict=False)
    assert "first.lin_key.weight" in found.missing_keys
    assert graph.head.bias.tolist() == [7.0] * 5


def test_folds_are_part_of_the_layout():
    model = make("sage with batch norm")
    trained, graph = upscale_fx.optimize(model), upscale_fx.optimize(model, inference=True)
    for source, target in ((model, graph), (graph, trained), (pruned("sage with batch norm"), graph)):
        for strict in (True, False):
            with pytest.raises(upscale_fx.StateError):
                target.load_state_dict(source.state_dict(), strict=strict)
    again = upscale_fx.optimize(model, inference=True)
    again.load_state_dict(graph.state_dict())
    torch.testing.assert_close(out(again), out(graph))


class Shared(nn.Module):
    """One layer in two calls that need other rows of it, and a hidden layer."""

    def __init__(self, row):
        super().__init__()
        torch.manual_seed(0)
        self.both, self.first, self.second = nn.Linear(16, 16, bias=False), nn.Linear(16, 8), nn.Linear(8, 16)
        with torch.no_grad():
            self.both.weight[row] = 0
            self.second.weight[:, ::2] = 0

    def forward(self, x, edge_index):
        hidden = self.both(x).relu()
        hidden = hidden.index_add(0, edge_index[1], hidden[edge_index[0]])
        return self.both(hidden) + self.second(self.first(x).relu())


def test_what_each_call_of_a_layer_reads_is_part_of_the_layout():
    graph, other = (upscale_fx.compact(Shared(row).double()) for row in (1, 2))
    assert {n: v.shape for n, v in graph.state_dict().items()} == {n: v.shape for n, v in other.state_dict().items()}
    with pytest.raises(upscale_fx.StateError, match="calls of one layer share them in another way"):
        other.load_state_dict(graph.state_dict())
    again = upscale_fx.optimize(upscale_fx.compact(Shared(1).double()))
    again.load_state_dict(graph.state_dict())
    torch.testing.assert_close(out(again), out(graph))


@pytest.mark.slow
def test_after_steps_and_a_second_pruning():
    options = {"steps": 2, "between": lambda graph, step: None}
    graph, again = (upscale_fx.prune(make("gcn"), 0.5, **options) for _ in range(2))
    again.load_state_dict(graph.state_dict())
    further = upscale_fx.prune(graph, 0.5)
    upscale_fx.prune(again, 0.5).load_state_dict(further.state_dict())
    with pytest.raises(upscale_fx.StateError):
        further.load_state_dict(graph.state_dict())


def test_another_dtype_is_no_other_layout():
    graph = upscale_fx.optimize(upscale_fx.compact(upscale_fx.mask(make("gcn").float(), 0.5)), dtype=torch.bfloat16)
    pruned("gcn").load_state_dict(graph.state_dict())
    graph.load_state_dict(pruned("gcn").state_dict())


def test_functional_calls_compare_layouts_too():
    graph, other = pruned("gcn"), pruned("gcn", seed=1)
    called = torch.func.functional_call(graph, train(pruned("gcn")).state_dict(), (X, EDGES))
    torch.testing.assert_close(called, out(train(pruned("gcn"))))
    with pytest.raises(upscale_fx.StateError, match="other channels"):
        torch.func.functional_call(graph, other.state_dict(), (X, EDGES))


def test_changed_digests_are_refused():
    graph = pruned("gcn")
    whole = graph.get_extra_state()
    assert whole.dtype == torch.float32
    for wrong in (torch.zeros(17), whole[:5], whole * float("nan"), whole + torch.eye(17)[0], "text", None):
        with pytest.raises(upscale_fx.StateError, match="GCN"):
            graph.load_state_dict({**graph.state_dict(), KEY: wrong})
    reordered = whole + 3 * torch.eye(17)[-1]  # the last digest is that of the order
    with pytest.raises(upscale_fx.StateError, match="same channels are kept, but in another order"):
        graph.load_state_dict({**graph.state_dict(), KEY: reordered})


@pytest.mark.slow
def test_the_digest_is_the_same_in_every_process(fresh):
    code = """
import torch, upscale_fx
from torch_geometric.nn import GAT
torch.manual_seed(0)
print(upscale_fx.prune(GAT(16, 32, 2, 4, heads=4).double().eval(), 0.5).get_extra_state().int().tolist())
"""
    assert fresh.run(code) == [str(pruned("gat").get_extra_state().int().tolist())]
