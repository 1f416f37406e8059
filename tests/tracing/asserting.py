"""A model that asserts things about its values. PYTEST_DONT_REWRITE: its assertions are what Python makes of them."""

import torch
from torch import nn


class Asserting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, edge_index):
        h = self.a(x)
        assert torch.isfinite(h).all(), "not finite"
        assert edge_index.max() < x.size(0) and not torch.isnan(h).any()  # noqa: PT018
        assert not (h > 1e9).any(), f"{h.max()}"
        assert x.size(0) > 1 and int(edge_index.max()) < x.size(0)  # noqa: PT018
        assert torch.allclose(h, h)
        return self.b(h.relu())
