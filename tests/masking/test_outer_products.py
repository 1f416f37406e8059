"""Values made of two that are broadcast against each other: what reads them is pruned, and raw inputs stay raw."""

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import assert_same_outputs, parameters

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Outer(nn.Module):
    """``body`` joins ``a [N, 16]``, ``b [N, 4]`` and the raw ``x [N, 12]`` to ``[N, 16, 4]``, in any order."""

    def __init__(self, body):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(12, 16), nn.Linear(12, 4), nn.Linear(64, 4)
        self.scale, self.body = nn.Parameter(torch.rand(4)), body

    def forward(self, x):
        return self.out(self.body(self, self.a(x).relu(), self.b(x), x).flatten(1))


KINDS = {
    "product": lambda m, a, b, x: a.unsqueeze(2) * b.unsqueeze(1),
    "product, reversed": lambda m, a, b, x: b[:, :, None] * a[:, None],
    "sum": lambda m, a, b, x: a.unsqueeze(2) + b.unsqueeze(1),
    "difference": lambda m, a, b, x: (a[:, :, None] - b[:, None]).relu(),
    "quotient": lambda m, a, b, x: a.unsqueeze(2) / (b.abs() + 1).unsqueeze(1),
    "maximum": lambda m, a, b, x: torch.maximum(a[:, :, None], b[:, None]),
    "where": lambda m, a, b, x: torch.where(b[:, None] > 0, a[:, :, None], 0.0),
    "shares": lambda m, a, b, x: a[:, :, None] * b.softmax(1)[:, None],
    "a parameter": lambda m, a, b, x: a[:, :, None] * m.scale,
    "expanded": lambda m, a, b, x: a[:, :, None].expand(-1, -1, 4) * b[:, None].expand(-1, 16, -1),
    "of raw inputs": lambda m, a, b, x: a[:, :, None] * x[:, None, :4],
    "bmm": lambda m, a, b, x: torch.bmm(a.unsqueeze(2), b.unsqueeze(1)),
    "einsum": lambda m, a, b, x: torch.einsum("ni,nj->nij", a, b),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_reads_an_outer_product_is_pruned_exactly(kind):
    model = Outer(KINDS[kind]).eval()
    masked = upscale_fx.mask(model, 0.5, example_inputs=(torch.rand(7, 12),))
    compact = upscale_fx.compact(masked, example_inputs=(torch.rand(7, 12),))
    calls = [(torch.rand(9, 12),), (torch.rand(1, 12),)]
    assert_same_outputs(masked, compact, calls)
    assert_same_outputs(masked, upscale_fx.optimize(compact), calls)
    assert compact.get_parameter("out.weight").shape[1] < 64
    assert parameters(compact) < 0.8 * parameters(model)


def test_an_outer_product_of_raw_inputs_is_raw():
    model = Outer(lambda m, a, b, x: torch.cat([x, x[:, :4]], 1)[:, :, None] * x[:, None, :4]).eval()
    with pytest.raises(upscale_fx.NothingToPruneError, match=r"out \(64 channels\): reads raw inputs only"):
        upscale_fx.prune(model, 0.5, example_inputs=(torch.rand(7, 12),))
    pruned = upscale_fx.prune(model, 0.5, inputs=True, example_inputs=(torch.rand(7, 12),))
    masked = upscale_fx.mask(model, 0.5, inputs=True, example_inputs=(torch.rand(7, 12),))
    assert_same_outputs(masked, pruned, [(torch.rand(9, 12),)])
