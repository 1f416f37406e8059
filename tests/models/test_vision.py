"""Vision GNNs of others: neighbours found by hand, convolutions on images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.image_models import PATCHES, assert_exact, pruned, settled, weights

pytestmark = pytest.mark.usefixtures("double_precision")


class OwnViG(nn.Module):
    """A Vision GNN as people write it: nodes ``[B, P, C]`` after a convolution, k-NN by hand."""

    def __init__(self, nearest, gather, width=12):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width)
        self.enter, self.conv = nn.Linear(width, width), nn.Linear(2 * width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 7)
        self.nearest, self.gather = nearest, gather

    def forward(self, images):
        x = F.gelu(self.norm(self.stem(images))).flatten(2).transpose(1, 2)
        h = self.enter(x)
        relative = (self.gather(h, self.nearest(h)) - h.unsqueeze(2)).max(dim=2).values
        x = x + F.gelu(self.conv(torch.cat([h, relative], dim=-1)))
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(dim=1))


def nearest_by_cdist(h):
    return torch.cdist(h, h).topk(4, largest=False).indices


def nearest_by_products(h):
    squares = (h * h).sum(dim=-1, keepdim=True)
    return (2 * torch.matmul(h, h.transpose(1, 2)) - squares - squares.transpose(1, 2)).topk(4).indices


def nearest_by_angle(h):
    h = F.normalize(h, dim=-1)
    return (h @ h.transpose(-2, -1)).topk(4, dim=-1)[1]


def gather_both(h, index):
    return h[torch.arange(h.size(0)).view(-1, 1, 1), index]


def gather_offsets(h, index):
    batch, nodes, width = h.shape
    first = torch.arange(batch).view(-1, 1, 1) * nodes
    return h.reshape(batch * nodes, width)[(index + first).view(-1)].view(batch, nodes, 4, width)


def gather_groups(h, index):
    first = torch.arange(h.size(0)).view(-1, 1, 1) * PATCHES
    return h.reshape(-1, h.size(-1))[index + first]


def gather_expanded(h, index):
    index = index.unsqueeze(-1).expand(-1, -1, -1, h.size(-1))
    return torch.gather(h.unsqueeze(1).expand(-1, PATCHES, -1, -1), 2, index)


@pytest.mark.parametrize(
    ("nearest", "gather"),
    [
        (nearest_by_cdist, gather_both),
        (nearest_by_products, gather_offsets),
        (nearest_by_products, gather_groups),
        (nearest_by_angle, gather_expanded),
    ],
)
def test_neighbours_found_by_hand(nearest, gather):
    torch.manual_seed(0)
    model = settled(OwnViG(nearest, gather))
    compiled, masked = pruned(model)
    assert_exact(masked, compiled)
    assert sum(weights(compiled).values()) < 0.5 * sum(weights(model).values())


class Images(nn.Module):
    """Convolutions with something between them, and the mean over space."""

    def __init__(self, between, last, inputs):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second, self.norm, self.between = (
            nn.Conv2d(8, 8, 3, padding="same", bias=False),
            nn.BatchNorm2d(8),
            between,
        )
        self.last, self.head = last, nn.Linear(inputs, 7)

    def forward(self, images):
        x = self.between(F.gelu(self.norm(self.second(self.first(images)))))
        x = self.last(x)
        return self.head(x.relu().flatten(2).mean(dim=-1) if x.dim() > 2 else x)


def crop(x):
    return x[:, :, 1:5, 2:]


def doubled(x):
    return torch.cat([x, x.flip(1)], dim=1)


def flat(x):
    return x.flatten(2)


def heads(x):
    """Four heads of two channels as rows of their own nodes ``[B * H * W, 4, 2]``, and back to ``[B, H * W, 4, 2]``."""
    nodes = x.permute(0, 2, 3, 1).unflatten(-1, (4, 2)).flatten(0, 2) * 2
    return nodes.view(x.size(0), 64, 4, 2).mean(dim=1).flatten(1)


#: What stands between and last, and how many channels the head reads.
IMAGE_MODELS = {
    "1x1": (nn.Identity, lambda: nn.Conv2d(8, 10, 1), 10),
    "crop": (lambda: crop, lambda: nn.Conv2d(8, 10, 3, stride=2, dilation=1), 10),
    "two images": (lambda: doubled, lambda: nn.Conv2d(16, 10, (2, 3)), 10),
    "rows": (nn.Identity, lambda: nn.AdaptiveAvgPool2d(1), 8),
    "sequence": (lambda: flat, lambda: nn.Conv1d(8, 10, 5, stride=5), 10),
    "groups": (nn.Identity, lambda: nn.Conv2d(8, 10, 1, groups=2), 10),
    "pooled": (lambda: nn.MaxPool2d(2), lambda: nn.Conv2d(8, 10, 2), 10),
    "heads": (nn.Identity, lambda: heads, 8),
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_convolutions(name):
    torch.manual_seed(0)
    between, last, inputs = IMAGE_MODELS[name]
    model = settled(Images(between(), last(), inputs))
    compiled, masked = pruned(model)
    assert_exact(masked, compiled)
    assert_exact(masked, compiled, "train")
    assert compiled.get_parameter("first.0.weight").shape == (4, 3, 3, 3)
    assert compiled.get_parameter("second.weight").shape[1] == 4


@pytest.mark.parametrize("groups", [2, 8])
def test_a_grouped_convolution_is_exact(groups):
    compiled, masked = pruned(settled(Images(nn.Identity(), nn.Conv2d(8, 16, 1, groups=groups), 16)))
    assert_exact(masked, compiled)
