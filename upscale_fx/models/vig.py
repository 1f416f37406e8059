"""Vision GNN: the nodes are patches of an image, and every block connects each node to the most similar nodes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upscale_fx.compiled.functions import knn_by_features


class ViG(nn.Module):
    """Vision GNN, isotropic (Han et al., NeurIPS 2022, arXiv:2206.00272, section 3): images to class logits.

    An image is cut into ``P = (image / patch) ** 2`` patches, which are the nodes; all hidden values are
    ``[B * P, width]``. A block is a :class:`Grapher` and a :class:`FeedForward`; the head reads the mean over patches.

    Args:
        classes: width of the logits.
        width: width of the nodes between blocks.
        depth: number of blocks.
        neighbours: neighbours of a node, itself included.
        patch: side of a patch in pixels.
        image: side of an image in pixels.
        channels: channels of a pixel.
        dilation: neighbours are every ``dilation``-th of the nearest ``neighbours * dilation`` nodes.
        dropout: probability that a hidden value of a feed-forward network or of the head is dropped in training.

    Raises:
        ValueError: if a number is below 1, patches do not tile the image, or there are fewer patches than neighbours.
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        width: int = 48,
        depth: int = 4,
        neighbours: int = 9,
        patch: int = 4,
        image: int = 32,
        channels: int = 3,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _require_positive(
            classes=classes, width=width, depth=depth, neighbours=neighbours, patch=patch, image=image,
            channels=channels, dilation=dilation,
        )  # fmt: skip
        self.patch, self.width, self.patches, self.dropout = patch, width, (image // patch) ** 2, dropout
        if image % patch:
            raise ValueError(f"image={image} does not divide into patches of patch={patch}")
        if neighbours * dilation > self.patches:
            raise ValueError(
                f"neighbours * dilation = {neighbours * dilation}, but an image has {self.patches} patches"
            )
        # A convolution whose kernel is its stride is a linear layer on the pixels of a patch.
        self.stem = nn.Sequential(*_normed(channels * patch**2, width), nn.GELU(), *_normed(width, width))
        self.position = nn.Parameter(0.02 * torch.randn(self.patches, width))
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(Grapher(width, self.patches, neighbours, dilation))
            self.blocks.append(FeedForward(width, dropout))
        self.hidden, self.classifier = nn.Linear(width, 4 * width), nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``[B, classes]`` of images ``[B, channels, image, image]``."""
        pixels = F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)  # [B, P, channels * patch ** 2]
        nodes = self.stem(pixels.flatten(0, 1)).view(-1, self.patches, self.width)
        x = (nodes + self.position).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        pooled = F.gelu(self.hidden(x.view(-1, self.patches, self.width).mean(dim=1)))
        logits: Tensor = self.classifier(F.dropout(pooled, p=self.dropout, training=self.training))
        return logits


class Grapher(nn.Module):
    """``x + max-relative graph convolution`` between two linear layers (equations 4 and 5), batch norm after each.

    ``forward`` takes and returns ``[B * P, width]``. Edges connect nearest neighbours in the output of the first linear
    layer.

    Args:
        width: width of the nodes.
        patches: nodes of an image, P.
        neighbours: neighbours of a node.
        dilation: neighbours are every ``dilation``-th of the nearest nodes.
    """

    def __init__(self, width: int, patches: int, neighbours: int, dilation: int) -> None:
        super().__init__()
        self.patches, self.neighbours, self.dilation = patches, neighbours, dilation
        self.enter = _normed(width, width)
        self.conv = _normed(2 * width, 2 * width)
        self.leave = _normed(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the nodes ``[B * P, width]`` of this block."""
        h = self.enter(x)
        nearest = knn_by_features(h, self.patches, self.neighbours, self.dilation)
        relative = h[nearest].amax(dim=1) - h  # the largest x_j - x_i, channel by channel
        updated: Tensor = x + self.leave(F.gelu(self.conv(torch.cat([h, relative], dim=1))))
        return updated


class FeedForward(nn.Module):
    """``x + W2 gelu(W1 x)`` (equation 6) with batch norm after each layer, four times as wide inside.

    Args:
        width: width of the nodes.
        dropout: probability that a hidden value is dropped in training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.enter, self.leave, self.dropout = _normed(width, 4 * width), _normed(4 * width, width), dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the nodes ``[B * P, width]`` of this block."""
        hidden = F.dropout(F.gelu(self.enter(x)), p=self.dropout, training=self.training)
        updated: Tensor = x + self.leave(hidden)
        return updated


def _normed(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
