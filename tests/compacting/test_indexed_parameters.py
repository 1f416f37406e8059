"""Layers whose weight is a part of a parameter, taken by several indices at once: its channels go like any others."""

import pytest
import torch
from torch import nn

import upscale_fx
from tests.comparison import assert_same_outputs, parameters

#: By the way it is written: the shape of the parameter, and the weights ``[8, 8]`` that are taken of it.
PARTS = {
    "w[0, 0]": ((2, 3, 8, 8), lambda w: [w[0, 0]]),
    "w[0, 0] + w[1, 2]": ((2, 3, 8, 8), lambda w: [w[0, 0], w[1, 2]]),
    "w[0, :, 1]": ((2, 8, 3, 8), lambda w: [w[0, :, 1], w[1, :, 0]]),
    "w[:, 1, :, 0]": ((8, 2, 8, 3), lambda w: [w[:, 1, :, 0]]),
    "w[..., 1, 1]": ((8, 8, 2, 2), lambda w: [w[..., 1, 1], w[..., 0, 1]]),
    "w[1, 0, 2]": ((2, 2, 3, 8, 8), lambda w: [w[1, 0, 2], w[0, 1, 1]]),
    "w[0, 0] of as many as channels": ((8, 8, 8, 8), lambda w: [w[0, 0], w[7, 7]]),
    "w[0][0] + w[0, 0]": ((2, 2, 8, 8), lambda w: [w[0][0], w[0, 0]]),
}


class Indexed(nn.Module):
    def __init__(self, shape, parts):
        super().__init__()
        self.first, self.last, self.parts = nn.Linear(5, 8), nn.Linear(8, 3), parts
        self.weight = nn.Parameter(torch.randn(shape) / 4)

    def forward(self, x):
        h = self.first(x).relu()
        return self.last(sum(h.roll(shift, 0) @ part for shift, part in enumerate(self.parts(self.weight))).relu())


@pytest.mark.parametrize("name", PARTS)
def test_channels_of_an_indexed_weight_are_removed(name):
    torch.manual_seed(0)
    model = Indexed(*PARTS[name]).double()
    masked = upscale_fx.mask(model, 0.5)
    compacted = upscale_fx.compact(masked)
    assert compacted.first.weight.shape == (4, 5)
    assert compacted.last.weight.shape == (3, 4)
    assert parameters(compacted) < 0.5 * parameters(model)
    assert_same_outputs(masked, compacted, [(torch.randn(rows, 5, dtype=torch.float64),) for rows in (4, 11)])
    fused = upscale_fx.prune(model, 0.5)
    assert_same_outputs(masked, fused, [(torch.randn(6, 5, dtype=torch.float64),)])
