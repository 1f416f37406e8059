"""Features and weights in another dtype: how far the outputs move, and what keeps its precision."""

import copy

import pytest
import torch
from torch import fx, nn
from torch_geometric.nn import GATConv, GCNConv, PNAConv, SAGEConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import degree

from tests.comparison import gap
from tests.passes.cast import IN, WIDTH, cast, graph, precision_line, single
from tests.selection import every
from tests.zoo import make
from upscale_fx.compiled.module import inputs_of, record_of, unfused
from upscale_fx.passes import CastPrecision

pytestmark = pytest.mark.usefixtures("seeded")


def pna(source, target):
    scalers = ["identity", "amplification", "attenuation"]
    return PNAConv(source, target, ["mean", "max", "std"], scalers, deg=torch.tensor([0, 4, 8, 4, 1]))


CONVOLUTIONS = {
    "GCN": GCNConv,
    "SAGE-mean": SAGEConv,
    "SAGE-sum": lambda i, o: SAGEConv(i, o, aggr="sum"),
    "GAT": GATConv,
    "PNA": pna,
}


def values(gm, arguments):
    """What every node computes."""
    interpreter = fx.Interpreter(gm, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*arguments)
    return interpreter.env


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", every(4, CONVOLUTIONS))
def test_half_precision(name, fuse):
    model, arguments = single(CONVOLUTIONS[name]), graph(200, 1500)
    compiled = cast(model, torch.bfloat16, fuse=fuse)
    expected, found = model(*arguments), compiled(*arguments)
    assert found.dtype == torch.float32
    assert {p.dtype for p in compiled.parameters()} == {torch.bfloat16}
    assert 0 < gap(expected, found) < 0.02
    assert 0 < gap(expected, unfused(compiled).eval()(*arguments)) < 0.02


def hub(nodes):
    """A node with an edge from every other one, and positive features, so that nothing cancels."""
    draw = torch.Generator().manual_seed(0)
    edges = torch.randint(nodes, (2, 7 * nodes), generator=draw)
    edges[:, :nodes] = torch.stack([torch.arange(nodes), torch.zeros(nodes, dtype=torch.long)])
    return torch.rand(nodes, IN, generator=draw) + 0.5, edges


#: By how much the mean error is smaller than that of ``model.bfloat16()``. On a CPU torch adds up scattered rows in
#: float32 too, so that what a mean or a sum of neighbours is rounded to in the end is all there is to lose.
BETTER = {"GCN": 0.85, "GAT": 0.95, "PNA": 0.6, "SAGE-mean": 1.1, "SAGE-sum": 1.1}


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", every(2, BETTER))
@torch.no_grad()
def test_many_neighbours(name, fuse):
    conv = CONVOLUTIONS[name](IN, WIDTH).eval()
    for parameter in conv.parameters():
        parameter.abs_()
    x, edge_index = hub(2000)
    expected = conv(x, edge_index)
    naive = (copy.deepcopy(conv).bfloat16()(x.bfloat16(), edge_index).float() - expected).abs() / expected
    found = (cast(conv, torch.bfloat16, fuse=fuse)(x, edge_index) - expected).abs() / expected
    assert found[0].max() < 0.01
    assert found.mean() < BETTER[name] * naive.mean()


class Counted(nn.Module):
    """Divides by a degree that it counts itself."""

    def forward(self, x, edge_index):
        total = torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])
        ones = x.new_ones(edge_index.size(1))
        return total / x.new_zeros(x.size(0)).index_add(0, edge_index[1], ones).clamp(min=1).unsqueeze(1)


def test_fresh_tensors_are_structure():
    class Numbered(nn.Module):
        def forward(self, x, edge_index):
            return x * 2, x.new_zeros(x.size(0)) + torch.arange(x.size(0))

    arguments = graph(1000, 1)
    assert torch.equal(cast(Numbered(), torch.bfloat16, arguments)(*arguments)[1], torch.arange(1000.0))


def test_counting_beyond_256():
    x, edge_index = hub(2000)
    expected = Counted()(x, edge_index)[0]
    compiled = cast(Counted(), torch.bfloat16, (x, edge_index))
    assert gap(expected, compiled(x, edge_index)[0]) < 0.01
    found = values(compiled, (x, edge_index))
    counts = [value for value in found.values() if isinstance(value, torch.Tensor) and value.dtype == torch.float32]
    assert any(torch.equal(value, degree(edge_index[1], 2000)) for value in counts)
    assert gap(expected, Counted()(x.bfloat16(), edge_index)[0].float()) > 1


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(IN, WIDTH)

    def forward(self, x, edge_index, edge_weight):
        return self.conv(x, edge_index, edge_weight)


def test_degrees_and_normalisation_stay_in_single_precision():
    x, edge_index = hub(1000)
    weight = torch.rand(7000)
    compiled = cast(Weighted().eval(), torch.bfloat16)
    found = values(compiled, (x, edge_index, weight))
    (norm,) = (value[1] for node, value in found.items() if node.target is gcn_norm)
    torch.testing.assert_close(norm, gcn_norm(edge_index, weight, 1000)[1], rtol=0, atol=0)
    assert norm.dtype == torch.float32

    compiled = cast(single(pna), torch.bfloat16)
    found = values(compiled, (x, edge_index))
    degrees = [value for node, value in found.items() if node.target is degree]
    assert degrees
    assert all(torch.equal(value, degree(edge_index[1], 1000)) for value in degrees)


def test_batch_norms_keep_single_precision():
    model = make("residual-batch-norm").float()
    compiled = cast(model, torch.bfloat16)
    dtypes = {name: value.dtype for name, value in compiled.state_dict().items()}
    assert dtypes["norms.0.weight"] == dtypes["norms.2.running_var"] == torch.float32
    assert dtypes["convs.0.lin.weight"] == dtypes["leave.bias"] == torch.bfloat16
    arguments = graph(60, 200)
    assert gap(model(*arguments), compiled.eval()(*arguments)) < 0.02


def test_double_to_single_precision():
    model = make("gin")
    compiled = cast(model, torch.float32)
    arguments = graph(dtype=torch.float64)
    found = compiled(*arguments)
    assert found.dtype == torch.float64
    assert 0 < gap(model(*arguments), found) < 1e-5
    assert {p.dtype for p in compiled.parameters()} == {torch.float32}
    assert precision_line(compiled).startswith("float32: outputs differ by at most")


def test_the_error_is_measured():
    model = single(SAGEConv)
    compiled = cast(model, torch.bfloat16)
    found = record_of(compiled).precision
    assert found.dtype == "bfloat16"
    assert 0 < found.mean <= found.largest < 0.02
    arguments = inputs_of(compiled).example({"N": 300, "E": 900, "B": 5})
    assert gap(model(**arguments), compiled(**arguments)) <= found.largest
    assert precision_line(compiled) == f"bfloat16: outputs differ by at most {100 * found.largest:.2g} % of the largest"
    finer = record_of(cast(model, torch.float16)).precision
    assert finer.largest < found.largest / 2


def test_a_graph_cast_before_keeps_the_error_it_has():
    compiled = cast(single(SAGEConv), torch.bfloat16)
    again = CastPrecision(torch.bfloat16)(compiled).graph_module
    assert record_of(again).precision == record_of(compiled).precision
    assert torch.equal(again(*graph()), compiled(*graph()))


def test_overflow_is_told():
    model = single(SAGEConv)
    with torch.no_grad():
        model.two.lin_l.weight.mul_(1e5)
    line = precision_line(cast(model, torch.float16))
    assert line == "float16: outputs cannot be compared on example graphs: they overflow, or select other rows"
