"""Names of layers that a compiled graph has for itself are refused by name; all others work."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.comparison import assert_same_outputs
from upscale_fx import TraceError

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Model(nn.Module):
    def __init__(self, name, value, call):
        super().__init__()
        self.conv, self.lin, self.name, self.call = GCNConv(5, 8), nn.Linear(8, 3), name, call
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def forward(self, x, edge_index):
        return self.lin(self.call(getattr(self, self.name), self.conv(x, edge_index).relu()))


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.encoder, self.head = inner, nn.Linear(3, 3)

    def forward(self, x, edge_index):
        return self.head(self.encoder(x, edge_index).relu())


def graph(nodes=9, edges=20, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 5, generator=draw), torch.randint(nodes, (2, edges), generator=draw)


#: What the attribute is, and how it is used.
KINDS = {
    "layer": (lambda: nn.Linear(8, 8), lambda own, h: own(h).relu()),
    "list": (lambda: nn.ModuleList([nn.Linear(8, 8)]), lambda own, h: own[0](h).relu()),
    "norm": (lambda: nn.BatchNorm1d(8), lambda own, h: own(h)),
    "parameter": (lambda: nn.Parameter(torch.rand(8)), lambda own, h: h * own),
    "buffer": (lambda: torch.rand(8), lambda own, h: h * own),
    "unused layer": (lambda: nn.Linear(8, 8), lambda own, h: h),
}
TAKEN = [
    "graph", "code", "meta", "_graph", "_code", "recompile", "to_folder", "print_readable", "add_submodule",
    "delete_all_unused_submodules", "write_code", "check_can_train", "shape_env", "_tracer_cls", "_replace_hooks",
]  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_taken_name_is_refused(name):
    for make, call in KINDS.values():
        model = Model(name, make(), call).eval()
        with pytest.raises(TraceError, match=rf"self\.{name} has a name that .* needs for itself; rename the attr"):
            upscale_fx.prune(model, 0.5, example_inputs=graph())


@pytest.mark.parametrize("name", ["after_switch", "check_can_train", "eval_only", "graph_place"])
def test_a_taken_name_in_a_part_is_refused(name):
    model = Outer(Model(name, *(f if n else f() for n, f in enumerate(KINDS["layer"])))).eval()
    with pytest.raises(TraceError, match=rf"self\.encoder\.{name} has a name that a part of a compiled graph needs"):
        upscale_fx.mask(model, 0.5, example_inputs=graph())


@pytest.mark.parametrize(
    "name", ["prepare", "report", "nodes", "inputs", "record", "root", "graphs", "plain", "layout"]
)
def test_other_names_work(name):
    for make, call in KINDS.values():
        model = Model(name, make(), call).eval()
        masked = upscale_fx.mask(model, 0.5, example_inputs=graph())
        pruned = upscale_fx.prune(model, 0.5, example_inputs=graph())
        assert_same_outputs(masked, pruned, [graph(20, 40, 1)])


@pytest.mark.parametrize("name", ["graph", "code", "meta", "recompile", "_graph"])
def test_plain_values_and_nested_layers_may_have_these_names(name):
    plain = Model(name, 0.5, lambda own, h: own * h).eval()
    nested = Outer(Model(name, KINDS["layer"][0](), KINDS["layer"][1])).eval()
    for model in (plain, nested):
        masked = upscale_fx.mask(model, 0.5, example_inputs=graph())
        pruned = upscale_fx.prune(model, 0.5, example_inputs=graph())
        assert_same_outputs(masked, pruned, [graph(20, 40, 1)])


class Gates(nn.Module):
    """Layers, or parameters, by names that a dictionary allows."""

    def __init__(self, names, make):
        super().__init__()
        self.conv, self.out = GCNConv(5, 8), nn.Linear(8, 3)
        parts = {name: make() for name in names}
        self.scales = isinstance(next(iter(parts.values())), nn.Parameter)
        self.gates = nn.ParameterDict(parts) if self.scales else nn.ModuleDict(parts)

    def forward(self, x, edge_index):
        h = self.conv(x, edge_index).relu()
        for gate in self.gates.values():
            h = (h * gate if self.scales else gate(h)).relu()
        return self.out(h)


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(8, 8), lambda: nn.Parameter(torch.rand(8))], ids=["layer", "parameter"]
)
@pytest.mark.parametrize(
    ("names", "word"), [(["and", "or"], "and"), (["out", "in"], "in"), (["None"], "None"), (["is"], "is")]
)
def test_keywords_of_python_are_refused_by_name(make, names, word):
    with pytest.raises(
        TraceError, match=rf"self\.gates\.{word} is named by a keyword of Python.* such as to '{word}_layer'"
    ):
        upscale_fx.prune(Gates(names, make).eval(), 0.5, example_inputs=graph())


@pytest.mark.parametrize("names", [["out", "a-b"], ["print", "1x"], ["match", "self"]])
def test_other_names_of_dictionaries_work(names):
    model = Gates(names, lambda: nn.Linear(8, 8)).eval()
    compiled, masked = (f(model, 0.5, example_inputs=graph()) for f in (upscale_fx.prune, upscale_fx.mask))
    assert upscale_fx.verify(masked, compiled, graph()) < 1e-9
