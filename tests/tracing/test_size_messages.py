"""Features with channels first are understood, and what a message proposes to state works."""

import ast
import re

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import assert_same_outputs, parameters
from tests.tracing import size_models as models
from tests.tracing.size_models import WIDTH
from upscale_fx.errors import InputError

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Transposed(nn.Module):
    def __init__(self, pool=False):
        super().__init__()
        self.a, self.o, self.pool = nn.Linear(WIDTH, 16), nn.Linear(16, 3), pool

    def forward(self, x):
        h = self.a(x.permute(0, 2, 1)).relu()
        return self.o(h.mean(1) if self.pool else h)


#: Models of features [B, F, N], and their arguments for numbers of graphs and nodes.
FIRST = {
    "features and matrices": (models.ChannelsFirst,
                              lambda b, n: (torch.randn(b, WIDTH, n), torch.rand(b, 2, n, n))),
    "features and one matrix": (models.Distances, lambda b, n: (torch.randn(b, WIDTH, n), torch.rand(b, n, n))),
    "points": (models.Points, lambda b, n: (torch.randn(b, WIDTH, n),)),
    "transposed": (Transposed, lambda b, n: (torch.randn(b, WIDTH, n),)),
    "pooled": (lambda: Transposed(pool=True), lambda b, n: (torch.randn(b, WIDTH, n),)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_channels_may_come_first(name):
    make, call = FIRST[name]
    model, example = make().eval(), call(4, 9)
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    assert_same_outputs(masked, compiled, [example, call(3, 13), call(1, 5)])
    assert parameters(compiled) < parameters(model)


class Steps(nn.Module):
    """``[N, T, F]`` with an image's worth of reshaping that no guess sees through."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Conv2d(5, 16, (1, 1)), nn.Linear(16, 3)

    def forward(self, x):
        return self.o(self.a(x).relu().mean((2, 3)))


#: Model, example, and arguments of another size that the graph refuses with a proposal.
PROPOSED = {
    "matrix": (models.Matrix, torch.randn(4, 5, 9, 9), torch.randn(3, 5, 11, 11)),
    "one axis": (Steps, torch.randn(4, 5, 9, 7), torch.randn(3, 5, 11, 7)),
    "last axis": (Steps, torch.randn(4, 5, 9, 7), torch.randn(3, 5, 9, 8)),
    "same sizes": (Steps, torch.randn(4, 5, 9, 9), torch.randn(3, 5, 9, 12)),
    "batch too": (models.Matrix, torch.randn(2, 5, 6, 6), torch.randn(7, 5, 4, 4)),
}


@pytest.mark.parametrize("name", PROPOSED)
def test_what_a_refused_call_proposes_works(name):
    make, example, other = PROPOSED[name]
    model, example, other = make().eval(), example.double(), other.double()
    traced = upscale_fx.trace(model, (example,))
    with pytest.raises(InputError, match="dynamic_axes=") as refusal:
        traced(other)
    said = ast.literal_eval(re.search(r"dynamic_axes=(\{.*\}\})", str(refusal.value))[1])
    again = upscale_fx.trace(model, (example,), dynamic_axes=said)
    assert_same_outputs(model, again, [(example,), (other,)])


def test_a_fixed_number_of_nodes_proposes_no_axis():
    model = models.Windows().eval()
    with pytest.warns(upscale_fx.UpscaleWarning, match=r"60 nodes only.*axis 0 of 'x' is 60"):
        traced = upscale_fx.trace(model, models.graph(60))
    with pytest.raises(InputError, match="trace again with an example that has the other number") as refusal:
        traced(*models.graph(120))
    assert "dynamic_axes" not in str(refusal.value)


class Refusing(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.o = nn.Linear(width, 16), nn.Linear(16, 3)

    def forward(self, x, edge_index):
        if len(x) != 31:
            raise ValueError("other graphs are for others")
        return self.o(self.a(x).relu())


def test_a_refusal_names_the_axes_that_were_taken_for_rows():
    x, edges = torch.randn(30, 6), torch.randint(30, (2, 90))
    with pytest.raises(InputError, match=r"took axis 0 of 'x' \(30\) for rows.*dynamic_axes=\{'x': \{0: 'N'\}") as text:
        upscale_fx.trace(Refusing(6).eval(), (x, edges))
    assert "pass example_inputs" not in str(text.value)
    with pytest.raises(InputError, match="expects width 8"):
        upscale_fx.trace(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), (x,))
