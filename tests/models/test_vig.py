"""Vision GNN: a graph made inside the model, images as inputs, convolutions, and static axes that become rows.

Which node is nearer flips where two are almost equally far away, so images are random: no two distances are close.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.modules.batchnorm import _BatchNorm

import upscale_fx
from upscale_fx.compiled.functions import knn_by_features
from upscale_fx.compiled.module import inputs_of
from upscale_fx.errors import InputError
from upscale_fx.models import ViG
from upscale_fx.models.vig import Grapher

SIDE, PATCHES, BATCHES = 16, 16, (1, 2, 5)

pytestmark = pytest.mark.usefixtures("double_precision")


def images(count, seed=1):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def settled(model):
    """The model in eval mode with running statistics of its own, and scales and shifts that are not all alike."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        model.train()
        for seed in range(3):
            model(images(4, seed))
    return model.eval()


def vig(**options):
    torch.manual_seed(0)
    return settled(ViG(7, **{"width": 12, "depth": 2, "neighbours": 4, "image": SIDE, **options}))


def assert_exact(expected, found, mode="eval"):
    getattr(expected, mode)()
    getattr(found, mode)()
    for count in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(found(images(count)), expected(images(count)), rtol=1e-10, atol=1e-10)


def pruned(model, **options):
    """What ``prune`` gives, and the masked model it must equal."""
    example = (images(2),)
    return tuple(f(model, 0.5, example_inputs=example, **options) for f in (upscale_fx.prune, upscale_fx.mask))


def weights(model):
    return {name: value.numel() for name, value in model.named_parameters() if value.dim() > 1}


# The model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"dilation": 2}, {"patch": 2, "neighbours": 3}, {"channels": 1, "dropout": 0.1}]
)
def test_gives_logits_for_every_image(count, options):
    model = ViG(5, **{"width": 8, "depth": 1, "neighbours": 4, "image": SIDE, **options}).eval()
    assert model(torch.randn(count, options.get("channels", 3), SIDE, SIDE)).shape == (count, 5)


def test_images_do_not_see_each_other():
    model = vig()
    torch.testing.assert_close(model(images(3))[1:2], model(images(3)[1:2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"depth": -1}, "depth must be at least 1, not -1"),
        ({"patch": 5}, "image=32 does not divide into patches of patch=5"),
        ({"patch": 8, "neighbours": 9, "dilation": 2}, r"neighbours \* dilation = 18, but an image has 16 patches"),
    ],
)
def test_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ViG(**options)


@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (4, 1), (3, 2), (6, 1)])
def test_nearest_neighbours_are_those_of_a_sort_of_all_distances(k, dilation):
    x = torch.randn(3 * 6, 5)
    found = knn_by_features(x, 6, k, dilation)
    for node in range(len(x)):
        own = range(node // 6 * 6, node // 6 * 6 + 6)
        ranked = sorted(own, key=lambda other: float((x[node] - x[other]).norm()))
        assert found[node].tolist() == ranked[: k * dilation : dilation]
        assert found[node, 0] == node


def test_grapher_is_the_equation_of_the_paper():
    torch.manual_seed(0)
    layer = Grapher(6, PATCHES, 4, 1).eval()
    x = torch.randn(2 * PATCHES, 6)
    h = layer.enter(x)
    rows = []
    for node, nearest in enumerate(knn_by_features(h, PATCHES, 4).tolist()):
        rows.append(torch.cat([h[node], torch.stack([h[other] - h[node] for other in nearest]).amax(dim=0)]))
    torch.testing.assert_close(layer(x), x + layer.leave(F.gelu(layer.conv(torch.stack(rows)))))


# Pruning -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "share"), [({}, 0.42), ({"constrained": True}, 0.35), ({"scope": "global", "inputs": True}, 0.5)]
)
def test_pruned_model_is_the_masked_one_and_much_smaller(options, share):
    model = vig(dilation=2)
    compiled, masked = pruned(model, **options)
    assert_exact(masked, compiled)
    assert_exact(masked, compiled, "train")
    assert not torch.allclose(masked.eval()(images(2)), model(images(2)))
    before, after = weights(model), weights(compiled)
    assert sum(after.values()) < share * sum(before.values())


def test_every_hidden_layer_reads_half_of_its_channels():
    model = vig()
    compiled, _ = pruned(model)
    for name, layer in compiled.named_parameters():
        if name.endswith("weight") and layer.dim() > 1 and name != "stem.0.weight":
            assert layer.shape[1] == model.get_parameter(name).shape[1] // 2, name


def test_channels_that_are_zero_are_not_kept_for_the_neighbours():
    model = vig()
    dead = [0, 3, 4, 11]
    with torch.no_grad():
        norm = model.blocks[0].enter[1]
        norm.weight[dead], norm.bias[dead] = 0, 0
    compiled = upscale_fx.compact(model, example_inputs=(images(2),))
    assert compiled.get_parameter("blocks.0.enter.0.weight").shape == (8, 12)
    assert_exact(model, compiled)


def test_neighbours_need_channels_that_nothing_else_reads():
    model = vig()
    with torch.no_grad():
        model.blocks[0].conv[0].weight[:, [2, 5, 14, 17]] = 0  # channels 2 and 5, and their differences
    compiled = upscale_fx.compact(model, example_inputs=(images(2),))
    assert compiled.get_parameter("blocks.0.enter.0.weight").shape == (12, 12)
    assert compiled.get_parameter("blocks.0.conv.0.weight").shape == (24, 20)
    assert_exact(model, compiled)


def test_a_layer_of_zeros_makes_all_nodes_alike():
    model = vig()
    with torch.no_grad():
        for parameter in model.blocks[0].enter[1].parameters():
            parameter.zero_()
    assert_exact(model, upscale_fx.compact(model, example_inputs=(images(2),)))


def test_pruning_twice():
    compiled, _ = pruned(vig())
    again, masked = pruned(compiled)
    assert_exact(masked, again)
    assert sum(weights(again).values()) < 0.6 * sum(weights(compiled).values())


def test_image_sizes_are_part_of_the_graph():
    compiled, _ = pruned(vig())
    assert inputs_of(compiled).arguments["images"].axes == ("B", 3, SIDE, SIDE)
    with pytest.raises(InputError, match=r"argument 'images' has shape \[2, 3, 8, 8\]"):
        compiled(torch.randn(2, 3, 8, 8))
    with pytest.raises(InputError, match=r"as in example_inputs=\(images,\)"):
        upscale_fx.prune(vig(), 0.5)


def test_copies_and_pickles():
    compiled, masked = pruned(vig())
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert_exact(masked, other)


def test_trains():
    compiled, _ = pruned(vig(dropout=0.1))
    compiled.train()
    target = torch.arange(8) % 7
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(compiled(images(8)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_torch_compile_takes_the_whole_graph_once():
    torch.compiler.reset()
    compiled, _ = pruned(vig(depth=1))
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(compiled, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        fast(images(2))
        once = counter.frame_count
        for count in (2, 3, 7):
            torch.testing.assert_close(fast(images(count)), compiled(images(count)), rtol=1e-10, atol=1e-10)
    assert counter.frame_count == once, "one graph for all batches"
    torch.compiler.reset()


# Other people's ------------------------------------------------------------------------------------------------------


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


def test_grouped_convolution_is_a_barrier_that_is_named():
    model = settled(Images(nn.Identity(), nn.Conv2d(8, 10, 1, groups=2), 10))
    compiled, _ = pruned(model)
    assert "conv2d" in str(upscale_fx.report(compiled)).split("barrier")[1]
