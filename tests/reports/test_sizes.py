"""The report's line of sizes: which axes of an argument keep the size that they have in the example."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.networks import random_graph

STEPS, WIDTH = 5, 6
X, EDGES = torch.randn(20, STEPS, WIDTH, dtype=torch.float64), random_graph(20, 60, WIDTH)[1]


class Sequence(nn.Module):
    """A recurrent layer over ``[N, T, F]`` that ``read`` reads."""

    def __init__(self, read, width=8):
        super().__init__()
        self.rnn, self.head, self.read = nn.LSTM(WIDTH, 8, batch_first=True), nn.Linear(width, 3), read

    def forward(self, x):
        return self.head(self.read(self.rnn(x)[0]).relu())


class WithEdges(Sequence):
    """The same, with a graph that it does not use."""

    def forward(self, x, edge_index):
        return super().forward(x)


class Convolved(Sequence):
    """With a convolution of the last step."""

    def __init__(self, read, width=8):
        super().__init__(read, width)
        self.conv = GCNConv(8, 8)

    def forward(self, x, edge_index):
        return self.head(self.conv(self.read(self.rnn(x)[0]), edge_index).relu())


def loop(out):
    return sum(out[:, step] for step in range(out.size(1)))


#: Model and arguments, and what the line says.
FIXED = {
    "a loop over steps": (Sequence(loop), (X,), "axis 1 of 'x' is 5"),
    "steps taken apart": (Sequence(lambda out: sum(out.unbind(1))), (X,), "axis 1 of 'x' is 5"),
    "the last step, with edges": (WithEdges(lambda out: out[:, -1]), (X, EDGES), "axis 1 of 'x' is 5"),
    "all steps, with edges": (WithEdges(lambda out: out.flatten(1), 8 * STEPS), (X, EDGES), "axis 1 of 'x' is 5"),
    "a loop, with edges": (WithEdges(loop), (X, EDGES), "axis 1 of 'x' is 5"),
    "a convolution": (Convolved(lambda out: out[:, -1]), (X, EDGES), "axis 1 of 'x' is 5"),
    "all steps": (Sequence(lambda out: out.flatten(1), 8 * STEPS), (X,), "graphs of 5"),
}


@pytest.mark.parametrize("what", FIXED)
@pytest.mark.filterwarnings("ignore:.*was traced for graphs of:upscale_fx.UpscaleWarning")
def test_a_fixed_number_of_steps_is_in_the_line(what):
    model, inputs, text = FIXED[what]
    model = model.double().eval()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=inputs)
    masked = upscale_fx.mask(model, 0.5, example_inputs=inputs)
    torch.testing.assert_close(compiled(*inputs), masked(*inputs), rtol=1e-10, atol=1e-12)
    assert f"sizes       {text}" in str(upscale_fx.report(compiled))
    with pytest.raises(upscale_fx.InputError, match="axis 1 is fixed at 5, got 7"):
        compiled(torch.randn(20, 7, WIDTH, dtype=torch.float64), *inputs[1:])


def test_a_free_number_of_steps_is_not():
    model = Sequence(lambda out: out[:, -1]).double().eval()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(X,))
    assert not upscale_fx.report(compiled).sizes
    assert compiled(torch.randn(20, 7, WIDTH, dtype=torch.float64)).shape == (20, 3)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(WIDTH, 8), nn.Linear(8, 3)

    def forward(self, x, scale):
        return self.o(self.a(x).relu() * scale)


def test_an_argument_without_axes_has_no_line():
    inputs = (torch.randn(20, WIDTH, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64))
    compiled = upscale_fx.prune(Scaled().double().eval(), 0.5, example_inputs=inputs)
    assert not upscale_fx.report(compiled).sizes
