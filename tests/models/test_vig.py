"""Vision GNN: a graph made inside the model, images as inputs, convolutions, and static axes that become rows.

Which node is nearer flips where two are almost equally far away, so images are random: no two distances are close.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

import upscale_fx
from tests.models.image_models import PATCHES, SIDE, assert_exact, images, pruned, settled, weights
from upscale_fx.compiled.functions import knn_by_features
from upscale_fx.compiled.module import inputs_of
from upscale_fx.errors import InputError
from upscale_fx.models import ViG
from upscale_fx.models.vig import Grapher

pytestmark = pytest.mark.usefixtures("double_precision")


def vig(**options):
    torch.manual_seed(0)
    return settled(ViG(7, **{"width": 12, "depth": 2, "neighbours": 4, "image": SIDE, **options}))


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


@pytest.mark.slow
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


@pytest.mark.slow
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
