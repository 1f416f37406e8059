"""Every rule has a case: each operation in the registry, between a layer that makes channels and one that reads some.

The table is in ``rule_cases``.
"""

import operator

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.utils as pyg
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_geometric.nn.aggr import MedianAggregation, QuantileAggregation

import upscale_fx
from tests.channels.rule_cases import TABLE
from tests.selection import every
from upscale_fx.compiled import functions, statistics
from upscale_fx.rules import REGISTRY

SPACES = {"torch": torch, "F": F, "operator": operator, "torch._C._nn": torch._C._nn, "pyg": pyg,
          "torch.linalg": torch.linalg, "functions": functions}  # fmt: skip
WIDTH = 6

#: In the registry, but no trace contains them: nothing to check.
UNREACHABLE = {
    F.tanh: "calls Tensor.tanh",
    F.sigmoid: "calls Tensor.sigmoid",
    functions.gather_channels: "compaction makes it; compacting attention models a second time meets it",
    functions.rows_of: "tracing makes it where a parameter has a row per node, see test_node_tables",
    functions.place_channels: "compaction makes it where recurrent states go",
    statistics.approximate_layer_norm: "a pass makes it; not exact, see test_approximate_norms",
    statistics.approximate_normalize: "likewise",
    statistics.approximate_statistic: "likewise",
}

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore:no channel could be removed"),
]


#: Module types of the registry, each with how to make one.
MODULES = {
    "Dropout": (nn.Dropout, lambda: nn.Dropout(0.5)),
    "_BatchNorm": (_BatchNorm, lambda: nn.BatchNorm1d(WIDTH)),
    "QuantileAggregation": (QuantileAggregation, MedianAggregation),
    "RNNBase": (nn.RNNBase, lambda: nn.LSTM(WIDTH, 4, batch_first=True)),
}


def resolve(name):
    """What the registry calls an operation: a function, the name of a tensor method, or a module type."""
    if name in MODULES:
        return MODULES[name][0]
    space, _, bare = name.rpartition(".")
    if space == "Tensor":
        return bare
    found = getattr(SPACES[space], bare)
    if getattr(found, "__module__", "").startswith("torch_geometric") and space == "torch":
        return getattr(torch._C._VariableFunctions, bare)  # PyG puts functions of its own in front of these
    return found


CASES = {name: code for names, code in TABLE for name in names.split()}


class Case(nn.Module):
    """A layer, the operation, a layer; zeros in both layers."""

    def __init__(self, name, code):
        super().__init__()
        self.first, self.other = nn.Linear(4, WIDTH), nn.Linear(4, WIDTH)
        self.matrix = nn.Parameter(torch.randn(WIDTH, 4))
        self.scale, self.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(WIDTH))
        self.register_buffer("spread", torch.rand(WIDTH) + 0.5)
        self.register_buffer("order", torch.tensor([5, 1, 0, 3]))
        self.module = MODULES.get(name, MODULES["_BatchNorm"])[1]()
        self.cube, self.blocks = nn.Parameter(torch.randn(2, WIDTH, 4)), nn.Parameter(torch.randn(2, 3, 2))
        self.table = nn.Parameter(torch.randn(5, WIDTH))
        self.name = name
        self.code = compile(code, "case", "eval")
        self.last = nn.Linear(self.hidden(*graph(5, 9)).shape[-1], 3)

    def hidden(self, x, edge_index):
        h, g = self.first(x), self.other(x)
        space, _, bare = self.name.rpartition(".")
        if not space:
            f = self.module
        elif space == "Tensor":
            f = lambda x, *args, **kwargs: getattr(x, bare)(*args, **kwargs)  # noqa: E731
        else:
            f = getattr(SPACES[space], bare)
        return eval(self.code, {"f": f, "h": h, "g": g, "e": edge_index, "m": self, "torch": torch, "pyg": pyg})

    def forward(self, x, edge_index):
        return self.last(self.hidden(x, edge_index))

    @staticmethod
    def row(h):
        """Number of each row."""
        return torch.arange(h.size(0))

    @staticmethod
    def thrice(h, g):
        """Three rows for each row, no two alike."""
        return torch.cat([h, g, h - 2 * g])

    @staticmethod
    def pointer(e, h):
        """Boundaries of segments of edges, one per node."""
        return F.pad(torch.cumsum(pyg.degree(e[1], h.size(0), dtype=torch.long), 0), (1, 0))

    def instance(self, f, h):
        """Instance norm of ``[B, C, L]``: over the last axis, rows or channels."""
        return f(h) if self.name == "F.instance_norm" else f(h, None, None, None, None, True, 0.1, 1e-5, False)


def graph(nodes, edges, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 4, generator=generator), torch.randint(nodes, (2, edges), generator=generator)


def build(name):
    """The case in eval mode: channel 1 is zero, 4 is constant, of 2 only some of the weights are left."""
    torch.manual_seed(0)
    model = Case(name, CASES[name]).eval()
    with torch.no_grad():
        for layer in (model.first, model.other):
            layer.weight[[1, 4]] = 0
            layer.weight[2, 1:] = 0
            layer.bias[1] = 0
        model.other.weight[5] = 0
        model.other.bias[5] = 0
        model.scale[[0, 1]] = 0
        model.matrix[[0, 3]] = 0
        model.matrix[:, 1] = 0
        kept = torch.arange(model.last.in_features) % 3 == 2
        if model.last.in_features < 3:
            kept[:] = True
        model.last.weight[:, ~kept] = 0
    return model


def operations(compiled):
    """What the registry knows the calls of a graph by; a module by the types it is of."""
    for node in compiled.graph.nodes:
        if node.op == "call_module":
            yield from type(compiled.get_submodule(node.target)).__mro__
        elif node.op in ("call_function", "call_method"):
            yield node.target


def assert_equal(model, compiled):
    for arguments in (graph(5, 9, 1), graph(17, 60, 2), graph(150, 300, 3)):
        expected, found = model(*arguments), compiled(*arguments)
        assert expected.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_every_operation_in_the_registry_has_a_case():
    assert set(REGISTRY) == {resolve(name) for name in CASES} | set(UNREACHABLE)


@pytest.mark.parametrize("name", every(4, CASES))
def test_operation_is_exact(name):
    model = build(name)
    traced = upscale_fx.trace(model, graph(8, 21))
    assert resolve(name) in list(operations(traced)), "the trace does not contain the operation"
    with torch.no_grad():
        assert_equal(model, traced)
        assert_equal(model, upscale_fx.compact(traced))


def test_unreachable_operations_have_no_case():
    assert not set(UNREACHABLE) & {resolve(name) for name in CASES}
