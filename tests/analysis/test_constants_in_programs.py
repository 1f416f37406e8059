"""Random programs whose layers hold constants: folded, fused and trained they compute what they computed."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F  # noqa: F401 (in programs)
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv
from torch_geometric.utils import add_self_loops, scatter  # noqa: F401 (in programs)

import upscale_fx
from tests.analysis.constant_channels import GRAPHS, IN, OUT, WIDTH, ready, same
from tests.selection import every

pytestmark = pytest.mark.usefixtures("seeded")
STEPS = (
    "h = self.{a}(h)",
    "h = self.{a}(h).relu()",
    "h = torch.sigmoid(h)",
    "h = F.elu(h) * self.scale",
    "h = h + self.{a}(k)",
    "h, k = k, h",
    "h = torch.cat([h, k], dim=-1)[:, 3:11]",
    "h = h.view(-1, 2, 4).flip(1).transpose(1, 2).flatten(1)",
    "h = self.conv_{a}(h, e)",
    "h = self.gat_{a}(h, e).sigmoid()",
    "h = scatter(h[e[0]], e[1], 0, h.size(0), 'mean') + k",
    "h = scatter(h[loops[0]], loops[1], 0, x.size(0), '{how}')",
    "h = self.norms[{place}](h)",
    "h = F.dropout(h, 0.3, self.training)",
    "h = torch.maximum(h, k - 0.5)",
    "h = h.view(-1, 4, 2).mean(-1, keepdim=True).expand(-1, -1, 2).flatten(1)",
    "h = h * k.view(-1, 2, 4).sum(-1, keepdim=True).repeat_interleave(4, dim=1)[:, :, 0]",
    "h = h @ self.square",
)


class Random(nn.Module):
    """A random program over values of width 8, in whose layers random rows, columns and biases are zero."""

    def __init__(self, number):
        super().__init__()
        draw = random.Random(number)
        torch.manual_seed(number)
        self.stem, self.head = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, OUT, bias=draw.random() < 0.5)
        self.scale, self.square = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH, WIDTH))
        for name in "ab":
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=draw.random() < 0.7))
            setattr(self, f"conv_{name}", draw.choice((GCNConv, SAGEConv))(WIDTH, WIDTH))
            setattr(self, f"gat_{name}", GATConv(WIDTH, 4, heads=2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(7))
        steps = draw.choices(STEPS, k=draw.randint(2, 7))
        self.steps = "\n".join(
            step.format(a=draw.choice("ab"), how=draw.choice(("mean", "max", "sum")), place=place)
            for place, step in enumerate(steps)
        )
        ready(self)
        with torch.no_grad():
            for name, value in self.named_parameters():
                if value.dim() == 2:
                    value[torch.rand(len(value)) < 0.6] = 0
                    value[:, torch.rand(value.shape[1]) < 0.1] = 0
                elif "norms" not in name and value.dim() == 1:
                    value[torch.rand(len(value)) < 0.2] = 0

    def forward(self, x, edge_index):
        h = self.stem(x).relu()
        loops, _ = add_self_loops(edge_index, num_nodes=x.size(0))
        names = {"self": self, "x": x, "h": h, "k": h, "e": edge_index, "loops": loops}
        exec(self.steps, globals(), names)
        return self.head(names["h"])


@pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")
@pytest.mark.parametrize("number", every(12, range(60)))
def test_random_programs(number):
    model = Random(number)
    compiled = upscale_fx.compact(model, example_inputs=GRAPHS[0])
    assert same(model, compiled), model.steps
    fast = upscale_fx.optimize(compiled, inference=True)
    assert same(model, fast), model.steps
    assert same(model, upscale_fx.optimize(upscale_fx.trace(model, GRAPHS[0]), inference=True)), model.steps
    if "dropout" not in model.steps:
        state = copy.deepcopy(model.state_dict())
        graphs = GRAPHS[:2]
        assert same(model.train(), compiled.train(), graphs=graphs), model.steps
        model.load_state_dict(state)
