"""What looks the same on both example graphs but depends on the graph: computed correctly, or refused, never frozen."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import upscale_fx

#: ``h`` is a hidden value [N, 8] of ``x`` [N, 5]; an expression with a branch on sizes must be refused.
EXPRESSIONS = {
    "h * (1 + x.size(0) // 20)": True,
    "h * (1 + round(0.05 * x.size(0)))": False,
    "h / x.size(0)": True,
    "h[: 1 + x.size(0) // 2]": True,
    "self.b(h) if x.size(0) > 100 else self.b(h.relu())": False,
    "self.b(h) if e.size(1) > 100 else self.b(h.relu())": False,
    "h * min(x.size(0), 50)": False,
    "h * (x.size(0) == 1)": False,
    "h.view(-1, 2, 4)[torch.arange(x.size(0)), (x[:, 0] > 2.2).long()]": True,
    "h[torch.arange(x.size(0))[:, None], (x[:, :1] > 2.2).long().expand(-1, 8)]": True,
    "torch.stack([h, 2 * h], 0)[(x[:, 0] > 2.2).long(), torch.arange(x.size(0))]": True,
    "F.instance_norm(h[None])[0]": True,
    "F.batch_norm(h.view(-1, 2, 4), None, None, training=True).flatten(1)": True,
    "h.flip(0)": True,
    "h.roll(1, 0)": True,
    "h[torch.arange(x.size(0)).flip(0), :4]": True,
    "h.repeat_interleave(2, dim=0)": True,
    "h.var(1)[:, None]": True,
    "h.flatten().sum()[None]": True,
    "h.view(-1, 2, 4)": True,
}


class Model(nn.Module):
    """A linear layer with dead and zero channels, then the expression."""

    def __init__(self, expression):
        super().__init__()
        self.a, self.b, self.expression = nn.Linear(5, 8), nn.Linear(8, 4), expression
        with torch.no_grad():
            self.a.weight[:, 1] = 0
            self.a.weight[[2, 5]] = 0
            self.a.bias[2] = 0

    def forward(self, x, e):
        h = self.a(x)
        return eval(self.expression, {"torch": torch, "F": F}, {"self": self, "h": h, "x": x, "e": e})


@pytest.mark.parametrize(("expression", "traces"), EXPRESSIONS.items())
def test_nothing_that_depends_on_the_graph_is_frozen(expression, traces):
    torch.manual_seed(0)
    model = Model(expression).double().eval()
    graph = torch.randn(9, 5).double(), torch.randint(9, (2, 20))
    if not traces:
        with pytest.raises(upscale_fx.TraceError):
            upscale_fx.trace(model, graph)
        return
    traced = upscale_fx.trace(model, graph)
    compacted = upscale_fx.compact(traced)
    for nodes in (1, 5, 40, 200):
        arguments = 3 * torch.randn(nodes, 5).double(), torch.randint(nodes, (2, 3 * nodes))
        for graph_module in (traced, compacted):
            torch.testing.assert_close(
                graph_module(*arguments), model(*arguments), rtol=1e-10, atol=1e-10, equal_nan=True
            )
