"""A layer, a norm, an activation, a layer; and the data they are compared on."""

import torch

WIDTH = 24
DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(30, 5, generator=DRAW, dtype=torch.float64), torch.randint(30, (2, 90), generator=DRAW)
