"""A residual graph convolutional network with batch norms: tensors that many layers read."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm, GCNConv


class ResidualGCN(nn.Module):
    """Graph convolutions with skip connections and batch norms, between two linear layers.

    Args:
        input_dim: width of the node features.
        hidden_dim: width of every hidden layer.
        output_dim: width of the logits.
        num_layers: number of convolutions, without the two linear layers.
        dropout: probability that a value of the embedding or of a block is dropped in training.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(input_dim, hidden_dim)
        self.convs = nn.ModuleList(GCNConv(hidden_dim, hidden_dim) for _ in range(num_layers))
        self.norms = nn.ModuleList(BatchNorm(hidden_dim) for _ in range(num_layers))
        self.lin = nn.Linear(hidden_dim, output_dim)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the logits ``[N, output_dim]`` of node features ``[N, input_dim]`` on edges ``[2, E]``."""
        x = self._drop(self.embed(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + self._drop(norm(conv(x, edge_index)).relu())
        logits: Tensor = self.lin(x)
        return logits

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, p=self.dropout, training=self.training)
