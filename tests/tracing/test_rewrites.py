"""Calls that are recorded in another form, each with a table of ways in which models write them: all exact."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.utils as pyg
from torch import nn

import upscale_fx
from tests.comparison import assert_same_outputs, parameters
from tests.selection import every
from tests.tracing import asserting
from tests.tracing.asserting import Asserting
from upscale_fx import TraceError

pytestmark = [
    pytest.mark.usefixtures("double_precision", "seeded"),
    pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning"),  # barriers that stay, such as gathers of channels
]

#: ``h`` is a hidden value [N, 8], ``e`` an edge_index, ``b`` the graph of each node, ``m`` the model with its layers.
EXPRESSIONS = {
    "squeeze": [
        "m.one(h).squeeze()",
        "torch.squeeze(m.one(h))",
        "m.one(h).squeeze(-1)",
        "m.one(h.unsqueeze(1).squeeze())",
        "m.one(h[:, None, :, None].squeeze((1, 3)))",
        "m.one(h.squeeze(1).squeeze(0).squeeze(dim=-1))",
        "m.one(pyg.scatter(h, b, 0)).squeeze()",
        "m.one(h.mean(0, keepdim=True)).squeeze()",
        "(h.unsqueeze(1) @ m.three.weight.T[None]).squeeze()",
        "m.one(h.clone().unsqueeze(1).squeeze_(1)).squeeze_()",
        "m.one(h.view(1, -1, 8)).squeeze()",
    ],
    "in place on fresh tensors": [
        "m.three(h * torch.empty(h.size(0), 1).fill_(2.0))",
        "m.three(h + torch.zeros_like(h).fill_(0.5))",
        "m.three(h * h.new_empty(h.size(0)).fill_(h.max())[:, None])",
        "m.three(h + torch.ones_like(h).zero_())",
        "m.three(torch.zeros_like(h).copy_(h))",
        "m.three(torch.zeros_like(h).copy_(h[0]))",
        "m.three((h @ h.t()).fill_diagonal_(0.0) @ h)",
        "m.three(h.clone().index_fill_(0, e[0], 0.0))",
        "m.three(torch.zeros(3, 8).index_add_(0, e[0] % 3, h[e[1]]))",
        "m.three(m.written(torch.zeros(3, 8), e[0] % 3, h))",
        "m.three(h * torch.zeros(8).scatter_(0, e[0] % 8, 2.0))",
        "m.three(torch.zeros_like(h).exponential_().mul_(0) + h)",
        "m.three(torch.sigmoid_(h * 2).exp_().clamp_(max=2))",
    ],
    "rows gathered and scattered by expanded indices": [
        "m.three(h.gather(0, e[0].unsqueeze(1).expand(-1, 8)).sum(0) + h)",
        "m.three(torch.gather(h, 0, e[0][:, None].expand_as(h[e[0]])).sum(0) + h)",
        "m.three(torch.zeros_like(h).scatter_add_(0, e[1].view(-1, 1).expand(-1, 8), h[e[0]]))",
        "m.three(torch.scatter_add(h, 0, e[1][:, None].expand(-1, 8), h[e[0]]))",
        "m.three(torch.gather(h, 1, torch.arange(7, -1, -1).expand(h.size(0), 8)))",
        "m.three(h).gather(1, (b % 3)[:, None])",
        "m.three(h.scatter_add(0, e[1].view(-1, 1).repeat(1, 8), h[e[0]]))",
    ],
    "sizes of constants": [
        "m.three(h * torch.arange(8).expand(h.size(0), 8))",
        "m.three(h * torch.ones(1, 8).expand(h.size(0), -1))",
        "m.three(h + m.table(torch.arange(4).expand(h.size(0), 4)).sum(1))",
        "m.three(h) * torch.arange(h.size(0)).expand(3, -1).sum(0)[:, None]",
        "m.three(h) + torch.tensor([1.0, 2.0, 3.0]).repeat(h.size(0), 1)",
        "m.three(h) * torch.tensor(2.0).new_ones(h.size(0), 1)",
    ],
    "attention": [
        "m.three(F.scaled_dot_product_attention(m.q(h)[None], m.k(h)[None], m.v(h)[None])[0])",
        "m.three(F.scaled_dot_product_attention(m.q(h)[None], h[None], m.v(h)[None], is_causal=True)[0])",
        "m.three(F.scaled_dot_product_attention(m.q(h)[None], h[None], m.v(h)[None], m.band(h))[0])",
        "m.three(F.scaled_dot_product_attention(m.q(h)[None], h[None], h[None], m.band(h).double(), scale=0.3)[0])",
        "m.three(F.scaled_dot_product_attention(m.q(h)[None], m.k(h)[None], h[None], dropout_p=m.p())[0])",
        "m.three(F.scaled_dot_product_attention(*m.heads(h, b)).transpose(1, 2).flatten(2).mean(1))",
    ],
    "complex numbers": [
        "m.three(torch.fft.fft(h).real)",
        "m.three(torch.complex(h, 2 * h).imag)",
        "m.three((torch.complex(h, h.sin()) * torch.polar(torch.ones_like(h), h)).real)",
        "m.three(torch.view_as_real(torch.view_as_complex(h.view(-1, 4, 2))).flatten(1))",
        "m.three(torch.complex(h, h.cos()).abs())",
        "m.three((torch.complex(h, h.cos()).mH @ torch.complex(h, h)).real)",
    ],
    "convolutions": [
        "m.three(m.in_groups(h.unsqueeze(-1)).squeeze(-1))",
        "m.three(m.in_groups(h[:, :, None].expand(-1, -1, 3)).mean(-1))",
        "m.three(m.depthwise(h[:, :, None].expand(-1, -1, 5)).mean(-1))",
        "m.three(m.on_images(h[..., None, None]).flatten(1))",
        "m.three(h * m.sequence(m.table(torch.arange(6).expand(h.size(0), 6))).mean(-1)[:, :1])",
    ],
    "structure in dense form": [
        "m.three(pyg.to_dense_adj(e, max_num_nodes=h.size(0))[0] @ h)",
        "m.three((pyg.to_dense_adj(e, b) @ pyg.to_dense_batch(h, b)[0]).sum(1))",
        "m.three(pyg.to_dense_adj(e, edge_attr=h[e[0], 0]).squeeze(0).sum() * h)",
        "m.three(pyg.scatter(h, b, reduce='mean'))",
        "m.three(torch.exp(-torch.cdist(h, m.centres)) @ m.centres)",
    ],
}  # fmt: skip
CASES = [(kind, expression) for kind, expressions in EXPRESSIONS.items() for expression in expressions]


class Model(nn.Module):
    """Two layers of message passing, then the expression."""

    def __init__(self, expression="h"):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 8)
        self.one, self.three, self.table = nn.Linear(8, 1), nn.Linear(8, 3), nn.Embedding(8, 8)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.in_groups, self.depthwise = nn.Conv1d(8, 8, 1, groups=4), nn.Conv1d(8, 8, 3, groups=8)
        self.on_images, self.sequence = nn.Conv2d(8, 8, 1, groups=2, bias=False), nn.Conv1d(6, 4, 3)
        self.centres = nn.Parameter(torch.randn(4, 8))
        self.code = compile(expression, expression, "eval")

    def p(self):
        return 0.5 if self.training else 0.0

    @staticmethod
    def written(out, rows, h):
        out[rows] = 1.0
        return out + h.mean(0)

    @staticmethod
    def band(h):
        places = torch.arange(h.size(0))
        return (places[:, None] - places).abs() < 2

    def heads(self, h, b):
        dense, mask = pyg.to_dense_batch(h, b)
        q, k, v = (f(dense).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return q, k, v, mask[:, None, None, :]

    def forward(self, x, edge_index, batch):
        h = self.a(x).relu()
        h = self.b(h + pyg.scatter(h[edge_index[0]], edge_index[1], 0, h.size(0))).relu()
        return eval(self.code, {"h": h, "e": edge_index, "b": batch, "m": self, "torch": torch, "F": F, "pyg": pyg})


def graph(nodes=12, edges=30, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ends = torch.cat([torch.randint(nodes, (2, edges), generator=draw), torch.full((2, 1), nodes - 1)], 1)
    return torch.randn(nodes, 5, generator=draw), ends, torch.arange(nodes) * 3 // nodes


@pytest.mark.parametrize(("kind", "expression"), every(4, CASES), ids=[expression for _, expression in CASES])
def test_expression_is_exact(kind, expression):
    model = Model(expression).eval()
    traced = upscale_fx.trace(model, graph())
    masked = upscale_fx.mask(model, 0.5, example_inputs=graph())
    compact = upscale_fx.compact(masked, example_inputs=graph())
    calls = [graph(12, 30, 1), graph(30, 80, 2), graph(50, 60, 3)]
    with torch.no_grad():
        assert_same_outputs(model, traced, calls)
        assert_same_outputs(masked, compact, calls)
    assert parameters(compact) < parameters(traced)


SHRINK = ["squeeze", "attention", "complex numbers"]


@pytest.mark.parametrize("kind", SHRINK)
def test_these_forms_are_no_barriers(kind):
    """The layer before the first expression of a kind loses the channels that the layer after it does not read."""
    model = Model(EXPRESSIONS[kind][0] if kind != "complex numbers" else EXPRESSIONS[kind][4]).eval()
    compact = upscale_fx.prune(model, 0.5, example_inputs=graph())
    rows, columns = compact.get_parameter("b.weight").shape
    assert rows < 8
    assert columns == 4


def test_a_row_axis_is_squeezed_in_a_graph_of_one_row():
    model = Model("m.one(h).squeeze()").eval()
    compact = upscale_fx.prune(model, 0.5, example_inputs=graph())
    single = (torch.randn(1, 5), torch.zeros(2, 0, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    assert compact(*single).shape == model(*single).shape == ()


def test_an_axis_of_channels_keeps_its_place_where_one_channel_is_left():
    """``squeeze`` of 8 channels does nothing, and nothing either once 7 of them are gone."""
    model = Model("m.three(h.squeeze(1).squeeze())").eval()
    with torch.no_grad():
        model.three.weight[:, 1:] = 0
    compact = upscale_fx.compact(model, example_inputs=graph())
    assert compact.get_parameter("b.weight").shape[0] == 1
    assert_same_outputs(model, compact, [graph(), graph(20, 40, 1)])


def test_random_numbers_are_drawn_in_every_call():
    traced = upscale_fx.trace(Model("m.three(h + torch.rand(8) + 0 * torch.empty(8).uniform_(1, 2))").eval(), graph())
    torch.manual_seed(1)
    first = traced(*graph())
    assert not torch.equal(first, traced(*graph()))
    torch.manual_seed(1)
    assert torch.equal(first, traced(*graph()))


def test_assertions_on_values_are_skipped_and_the_report_says_so():
    model = Asserting().eval()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=graph()[:2])
    masked = upscale_fx.mask(model, 0.5, example_inputs=graph()[:2])
    assert_same_outputs(masked, compiled, [graph(20, 40, 1)[:2]])
    lines = Path(asserting.__file__).read_text().splitlines()
    for number in (n for n, line in enumerate(lines, 1) if line.strip().startswith("assert ")):
        assert f"not checked: the assertion on values at asserting.py:{number}" in str(upscale_fx.report(compiled))


class Branching(Model):
    def forward(self, x, edge_index, batch):
        if torch.isfinite(x).all():
            return self.three(self.a(x))
        return self.three(x[:, :1] + self.a(x))


def test_a_branch_is_no_assertion():
    with pytest.raises(TraceError, match="a branch depends on tensor values"):
        upscale_fx.trace(Branching().eval(), graph())


@pytest.mark.parametrize(
    "expression",
    [
        "m.three(h * m.written(torch.linspace(0, 1, 8), e[0] % 8, h[:, :8]))",
        "m.three(h * torch.linspace(0, 1, 8).index_fill_(0, e[0] % 8, 1))",
    ],
)  # fmt: skip
def test_a_write_into_a_constant_is_refused_with_the_way_out(expression):
    with pytest.raises(TraceError, match="into a constant tensor; make that tensor with"):
        upscale_fx.trace(Model(expression).eval(), graph())


@pytest.mark.parametrize(
    "expression",
    [
        "m.three(h * m.written(torch.arange(8), e[0] % 8, h[:, :8]))",
        "m.three(h * torch.arange(8).index_fill_(0, e[0] % 8, 1))",
    ],
)
def test_a_write_into_a_range_is_exact(expression):
    model = Model(expression).eval()
    traced = upscale_fx.trace(model, graph())
    for other in (graph(), graph(7, 9, 1), graph(31, 80, 2)):
        torch.testing.assert_close(traced(*other), model(*other))
