"""A layer with functional dropout: its mode is that of the module that it is called in."""

import torch.nn.functional as F
from torch import nn


class Dropping(nn.Module):
    """A linear layer between two dropouts, one of which reads the mode, and one a rate that depends on it."""

    def __init__(self, width, out):
        super().__init__()
        self.lin = nn.Linear(width, out)

    def forward(self, x):
        x = self.lin(F.dropout(x, 0.5, self.training))
        return F.dropout(x, 0.25 if self.training else 0.0)
