"""A GAT, and which modules a graph calls."""

import torch
from torch import nn
from torch_geometric.nn import GATConv

DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(9, 6, generator=DRAW, dtype=torch.float64), torch.randint(9, (2, 20), generator=DRAW)


def ready(model):
    return model.double().eval()


class GAT(nn.Module):
    """Three layers of ``heads`` heads, ``width`` channels each."""

    def __init__(self, width=8, heads=2, inputs=6):
        super().__init__()
        channels = width * heads
        self.convs = nn.ModuleList(
            [
                GATConv(inputs, width, heads=heads),
                GATConv(channels, width, heads=heads),
                GATConv(channels, 3, heads=heads, concat=False),
            ]
        )
        # Biases start at zero, which would hide what they do.
        for conv in self.convs:
            nn.init.normal_(conv.bias)

    def forward(self, x, edge_index):
        for conv in self.convs[:-1]:
            x = conv(x, edge_index).relu()
        return self.convs[-1](x, edge_index)
