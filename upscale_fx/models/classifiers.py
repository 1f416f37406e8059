"""Five ready-made graph neural networks, built from PyTorch Geometric's layers.

All of them classify nodes: ``forward(x, edge_index)`` takes node features ``[N, input_dim]`` and edges ``[2, E]`` and
returns logits ``[N, output_dim]``. Each hidden layer is `convolution -> relu -> dropout`, so the networks differ only
in their convolutions (and in the head of JKNet). ``convs`` holds the convolutions, first to last.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, GCNConv, JumpingKnowledge, SAGEConv, TransformerConv

__all__ = ["SAGE", "GATv2", "GraphTransformer", "JKNet", "SimpleGCN"]


class _ConvolutionStack(nn.Module):
    """Convolutions over one graph, with relu and dropout after all of them but the last."""

    def __init__(self, convolutions: Iterable[nn.Module], dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convolutions)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the logits ``[N, output_dim]`` of node features ``[N, input_dim]`` on edges ``[2, E]``."""
        *hidden, last = self.convs
        for convolution in hidden:
            x = self._activate(convolution(x, edge_index))
        logits: Tensor = last(x, edge_index)
        return logits

    def _activate(self, x: Tensor) -> Tensor:
        return F.dropout(x.relu(), p=self.dropout, training=self.training)


class SimpleGCN(_ConvolutionStack):
    """Graph convolutional network (Kipf and Welling, ICLR 2017, arXiv:1609.02907, equation 2).

    Args:
        input_dim: width of the node features.
        hidden_dim: width of every hidden layer.
        output_dim: width of the logits.
        num_layers: number of convolutions, the first and the last included.
        dropout: probability that a hidden value is dropped in training.

    Raises:
        ValueError: if a width or the number of layers is below 1.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, *, num_layers: int = 3, dropout: float = 0.5
    ) -> None:
        widths = _layer_widths(input_dim, hidden_dim, output_dim, num_layers)
        super().__init__((GCNConv(source, target) for source, target in widths), dropout)


class SAGE(_ConvolutionStack):
    """GraphSAGE with mean aggregation (Hamilton et al., NeurIPS 2017, arXiv:1706.02216, algorithm 1).

    Each layer reads its input twice, through ``lin_l`` (the neighbours' mean) and ``lin_r`` (the node itself).

    Args:
        input_dim: width of the node features.
        hidden_dim: width of every hidden layer.
        output_dim: width of the logits.
        num_layers: number of convolutions, the first and the last included.
        dropout: probability that a hidden value is dropped in training.

    Raises:
        ValueError: if a width or the number of layers is below 1.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, *, num_layers: int = 3, dropout: float = 0.5
    ) -> None:
        widths = _layer_widths(input_dim, hidden_dim, output_dim, num_layers)
        super().__init__((SAGEConv(source, target) for source, target in widths), dropout)


class GATv2(_ConvolutionStack):
    """Graph attention network with dynamic attention (Brody et al., ICLR 2022, arXiv:2105.14491, equation 7).

    Hidden layers concatenate their heads, ``[N, heads, hidden_dim / heads]`` to ``[N, hidden_dim]``; the last layer
    averages them, as in the first graph attention network (Velickovic et al., ICLR 2018, equation 6).

    Args:
        input_dim: width of the node features.
        hidden_dim: width of every hidden layer, all heads together.
        output_dim: width of the logits.
        num_layers: number of convolutions, the first and the last included.
        dropout: probability that a hidden value is dropped in training.
        heads: attention heads of every layer.

    Raises:
        ValueError: if a width or a number is below 1, or `hidden_dim` does not divide by `heads`.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        *,
        num_layers: int = 3,
        dropout: float = 0.5,
        heads: int = 4,
    ) -> None:
        layers = _attention_layers(input_dim, hidden_dim, output_dim, num_layers, heads)
        super().__init__(
            (GATv2Conv(source, width, heads=heads, concat=concat) for source, width, concat in layers), dropout
        )


class GraphTransformer(_ConvolutionStack):
    """Graph transformer: dot-product attention over neighbours (Shi et al., IJCAI 2021, arXiv:2009.03509).

    Hidden layers concatenate their heads, ``[N, heads, hidden_dim / heads]`` to ``[N, hidden_dim]``; the last layer
    averages them.

    Args:
        input_dim: width of the node features.
        hidden_dim: width of every hidden layer, all heads together.
        output_dim: width of the logits.
        num_layers: number of convolutions, the first and the last included.
        dropout: probability that a hidden value is dropped in training.
        heads: attention heads of every layer.

    Raises:
        ValueError: if a width or a number is below 1, or `hidden_dim` does not divide by `heads`.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        *,
        num_layers: int = 3,
        dropout: float = 0.5,
        heads: int = 4,
    ) -> None:
        layers = _attention_layers(input_dim, hidden_dim, output_dim, num_layers, heads)
        super().__init__(
            (TransformerConv(source, width, heads=heads, concat=concat) for source, width, concat in layers), dropout
        )


class JKNet(_ConvolutionStack):
    """Jumping knowledge network over graph convolutions (Xu et al., ICML 2018, arXiv:1806.03536).

    Every convolution is hidden. The linear head ``lin`` reads their outputs, ``[N, hidden_dim]`` each, joined.

    Args:
        input_dim: width of the node features.
        hidden_dim: width of every convolution.
        output_dim: width of the logits.
        num_layers: number of convolutions; the linear head comes on top.
        dropout: probability that a hidden value is dropped in training.
        mode: how layers are joined: ``"cat"`` (side by side), ``"max"`` (channel by channel) or ``"lstm"``
            (weighted by the attention of a bidirectional LSTM).

    Raises:
        ValueError: if a width or the number of layers is below 1, or `mode` is unknown.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        *,
        num_layers: int = 3,
        dropout: float = 0.5,
        mode: str = "cat",
    ) -> None:
        if mode not in ("cat", "max", "lstm"):
            raise ValueError(f"mode must be 'cat', 'max' or 'lstm', not {mode!r}")
        _require_positive(output_dim=output_dim)
        widths = _layer_widths(input_dim, hidden_dim, hidden_dim, num_layers)
        super().__init__((GCNConv(source, target) for source, target in widths), dropout)
        self.jump = JumpingKnowledge(mode, channels=hidden_dim, num_layers=num_layers)
        self.lin = nn.Linear(hidden_dim * num_layers if mode == "cat" else hidden_dim, output_dim)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the logits ``[N, output_dim]`` of node features ``[N, input_dim]`` on edges ``[2, E]``."""
        layers = []
        for convolution in self.convs:
            x = self._activate(convolution(x, edge_index))
            layers.append(x)
        logits: Tensor = self.lin(self.jump(layers))
        return logits


def _layer_widths(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> Iterator[tuple[int, int]]:
    """Yield the (input, output) width of every layer, first to last."""
    _require_positive(input_dim=input_dim, hidden_dim=hidden_dim, output_dim=output_dim, num_layers=num_layers)
    return pairwise([input_dim, *[hidden_dim] * (num_layers - 1), output_dim])


def _attention_layers(
    input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, heads: int
) -> list[tuple[int, int, bool]]:
    """Return (input width, width per head, concatenate the heads?) of every layer, first to last."""
    _require_positive(heads=heads)
    if hidden_dim % heads:
        raise ValueError(f"hidden_dim={hidden_dim} does not divide into heads={heads}; it is the width of all heads")
    *hidden, (last, _) = _layer_widths(input_dim, hidden_dim, output_dim, num_layers)
    return [*((source, target // heads, True) for source, target in hidden), (last, output_dim, False)]


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
