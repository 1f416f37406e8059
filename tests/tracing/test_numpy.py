"""NumPy's numbers and arrays in forward(): values and dtypes are those of the model, and channels still go."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GATConv, GCNConv

import upscale_fx
from tests.comparison import assert_same_outputs, parameters
from tests.selection import every
from upscale_fx import InputError, TraceError

pytestmark = [
    pytest.mark.usefixtures("double_precision", "seeded"),
    # NumPy's own, of the model: torch's tensors take their results in an old form
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning"),
]

#: ``h`` is a hidden value [N, 16], ``m`` the model: ``m.weights`` are floats [16], ``m.places`` integers [16].
NUMBERS = [
    "h / m.scale",
    "m.scale / (h + 1)",
    "h * np.float64(.3) + np.float32(1)",
    "np.float64(.3) * h",
    "np.float32(.5) + h - np.int64(1)",
    "np.int32(3) - h",
    "(h + 1) ** np.float64(2)",
    "np.float64(2) ** h",
    "np.float64(3) // (h + 1) + h",
    "F.leaky_relu(h, np.float64(.1))",
    "F.dropout(h, p=np.float32(.1), training=m.training)",
    "F.elu(h, alpha=np.float32(.7))",
    "h.clamp(np.float32(.1), max=np.float64(.7))",
    "h.masked_fill(h > np.float64(.1), np.float64(.3))",
    "h + h.new_full((np.int64(16),), np.float32(.3))",
    "h + torch.full((16,), np.float64(.3), dtype=h.dtype)",
    "torch.where(h > np.float64(0.), h, np.float64(.2) * h)",
    "torch.where(np.float32(.1) <= h, h, np.float32(.2))",
    "torch.add(h, h, alpha=np.float64(.3))",
    "h.mul_(np.float64(.3)).add_(np.float32(1))",
    "m.changed(h, np.float32(.3))",
    "h * (h > .1).long().mul(np.float64(.5))",
    "h * ((h > .1).long() * np.bool_(True))",
    "h / np.sqrt(h.size(-1))",
    "h / np.sqrt(h.size(0))",
    "h * np.log1p(h.size(0))",
    "h * (np.float64(3) / h.size(0)) + np.int64(2) * h.size(0)",
    "h / np.prod(h.shape)",
    "h * torch.tensor([np.float64(.3), 2.0] * 8, dtype=h.dtype)",
    "(h * np.complex128(1j)).abs()",
]
SIZES = [
    "h.view(-1, np.int64(4), np.prod([2, 2])).transpose(1, 2).reshape(-1, np.prod([4, 4]))",
    "torch.cat([h[:, np.int64(8):], h[:, :np.int32(8)]], np.int64(1))",
    "torch.stack([h[:, i] for i in np.arange(16)[::-1]], 1)",
    "torch.cat([h[:, np.int64(2) * i : np.int64(2) * (i + 1)] for i in range(np.int64(8))], 1)",
    "torch.cat(h.split(list(np.array([4, 12])), 1)[::-1], 1)",
    "torch.cat(h.chunk(np.int64(4), 1)[::-1], 1)",
    "h.reshape(-1, *np.array([4, 4])).flatten(np.int64(1))",
    "h - h.mean(np.int64(0), keepdim=True)",
    "F.layer_norm(h, (np.int64(16),))",
]
ARRAYS = [
    "h[:, np.arange(16)]",
    "h[:, np.argsort(-m.weights)]",
    "h[:, [np.int64(3), np.int64(1)] * 8]",
    "F.pad(h[:, m.places % 3 != 0], (0, 5))",
    "h - h[np.array([0])]",
    "h * torch.tensor(m.weights, dtype=h.dtype)",
    "h * torch.as_tensor(m.weights, dtype=h.dtype)",
    "h * h.new_tensor(m.weights) + h.new_tensor(m.places)",
    "h * torch.from_numpy(m.weights).to(h.dtype)",
    "m.with_zeros(h, m.places > 9)",
    "sum(w * h for w in m.weights)",
]
#: torch leaves these to NumPy, which takes no tensor with a gradient: they work under torch.no_grad().
BY_NUMPY = [
    "h * m.weights",
    "h / m.weights.astype(np.float32)",
    "h + m.places",
    "h - m.weights[None]",
    "(h + 1) ** m.places",
    "h @ np.eye(16)",
    "h * np.array(.5)",
    "m.changed(h, m.weights)",
    "h * (h == m.weights) + h",
    "(10 * h) // m.weights + h",
]


class Model(nn.Module):
    def __init__(self, expression):
        super().__init__()
        self.code = compile(expression, "expression", "eval")
        self.convs = nn.ModuleList([GCNConv(5, 16), GCNConv(16, 16)])
        self.lin = nn.Linear(16, 3)
        self.scale, self.weights, self.places = np.sqrt(16), np.linspace(0.5, 1.5, 16), np.arange(16) + 1

    @staticmethod
    def changed(h, factor):
        alias = h = h.clone()
        h *= factor
        return h + alias

    @staticmethod
    def with_zeros(h, where):
        h = h.clone()
        h[:, where] = np.float64(0)
        h[:, np.int64(2)] = np.float64(0.5)
        return h

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        x = eval(self.code, {"h": x, "m": self, "np": np, "torch": torch, "F": F})
        return self.lin(x.to(self.lin.weight.dtype)), x[:, 0]


def graph(nodes=12, edges=30, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(nodes, 5, generator=draw, dtype=dtype), torch.randint(nodes, (2, edges), generator=draw)


CASES = NUMBERS + SIZES + ARRAYS + BY_NUMPY


@pytest.mark.parametrize("expression", every(5, CASES), ids=lambda expression: expression)
def test_expression_is_exact(expression):
    model = Model(expression).eval()
    calls = [graph(20, 50, 1), graph(2, 3, 2), graph(50, 60, 3)]
    with torch.no_grad():
        traced = upscale_fx.trace(model, graph())
        masked = upscale_fx.mask(model, 0.5, example_inputs=graph())
        compact = upscale_fx.compact(masked, example_inputs=graph())
        assert_same_outputs(model, traced, calls)
        assert_same_outputs(masked, compact, calls)
        assert_same_outputs(masked, upscale_fx.optimize(compact), calls)
    assert parameters(compact) < parameters(traced)


@pytest.mark.parametrize("expression", every(5, CASES, start=1), ids=lambda expression: expression)
def test_the_dtype_is_that_of_the_model(expression):
    model = Model(expression).float().eval()
    example = graph(dtype=torch.float32)
    with torch.no_grad():
        expected = model(*example)
        found = upscale_fx.prune(model, 0.0, example_inputs=example)(*example)
    assert [value.dtype for value in found] == [value.dtype for value in expected]


@pytest.mark.parametrize("expression", [NUMBERS[0], NUMBERS[3], SIZES[1], ARRAYS[0]])
def test_these_forms_are_no_barriers(expression):
    compact = upscale_fx.prune(Model(expression).eval(), 0.5, example_inputs=graph())
    assert compact.get_parameter("lin.weight").shape[1] <= 9
    assert compact.get_parameter("convs.1.lin.weight").shape[0] <= 9


HALF, TWO = np.float64(0.5), np.int64(2)


class Layers(nn.Module):
    """NumPy's numbers as the options of layers, and as arguments."""

    def __init__(self):
        super().__init__()
        self.conv = GATConv(5, np.int64(8), heads=np.int64(2), negative_slope=np.float64(0.1), dropout=np.float32(0.1))
        self.norm = nn.BatchNorm1d(np.int64(16), eps=np.float64(1e-3), momentum=np.float32(0.1))
        self.act, self.drop = nn.LeakyReLU(np.float64(0.1)), nn.Dropout(np.float32(0.2))
        self.lin = nn.Linear(np.int64(16), 3)

    def forward(self, x, edge_index, scale=HALF, power=TWO):
        return self.lin(self.drop(self.act(self.norm(self.conv(x, edge_index)))) * scale) ** power


@pytest.mark.parametrize("more", [{}, {"scale": np.float64(0.7)}, {"scale": np.float32(0.7), "power": np.int64(3)}])
def test_options_of_layers_and_arguments(more):
    model = Layers().eval()
    masked = upscale_fx.mask(model, 0.5, example_inputs=graph(), example_kwargs=more)
    compact = upscale_fx.prune(model, 0.5, example_inputs=graph(), example_kwargs=more)
    expected, found = masked(*graph(30, 60, 1), **more), compact(*graph(30, 60, 1), **more)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert parameters(compact) < parameters(model)
    if more:
        with pytest.raises(InputError, match=r"argument 'scale' was 0\.[67]"):
            compact(*graph(), scale=np.float64(0.2))


def test_an_array_is_copied_when_it_is_traced():
    model = Model("h[:, m.places - 1]").eval()
    traced = upscale_fx.trace(model, graph())
    expected = traced(*graph())
    model.places[:] = 1
    torch.testing.assert_close(traced(*graph()), expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("h * torch.from_numpy(np.arange(16) * h.size(0))", "a NumPy array is computed with a number of nodes"),
        ("np.sqrt(h)", "use torch's functions on it"),
        ("h * torch.from_numpy(np.concatenate([h, h]))[:1]", "use torch's functions on it"),
    ],
)
def test_what_numpy_would_compute_from_the_inputs_is_refused(expression, message):
    model = Model(expression).eval()
    with torch.no_grad(), pytest.raises(TraceError, match=message):
        upscale_fx.trace(model, graph())
