"""What compaction leaves: how much smaller layers get, and which channels are read through views."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, SAGEConv

import upscale_fx
from tests.comparison import parameters
from tests.networks import FAMILIES
from tests.selection import every, only
from upscale_fx.compiled.module import unfused
from upscale_fx.models import SAGE, JKNet, SimpleGCN


def build(family, width=256, seed=0, **options):
    torch.manual_seed(seed)
    return family(32, width, 7, **options).eval()


def reorders(compiled):
    """(kind, node, what it reads) of every inserted reorder."""
    return [(n.meta["reorder"], n, n.args[0]) for n in compiled.graph.nodes if n.meta.get("reorder")]


def copies(compiled):
    return [node.name for kind, node, _ in reorders(compiled) if kind == "copy"]


def reading(compiled, parameter):
    """What the contraction with a parameter multiplies it with, before any row operation such as an aggregation."""
    (weight,) = [n for n in compiled.graph.nodes if n.op == "get_attr" and n.target == parameter]
    (contraction,) = weight.users
    node = next(n for n in contraction.all_input_nodes if n is not weight and n.op != "get_attr")
    while not node.meta.get("reorder") and not node.name.startswith(("relu", "dropout")):
        node = node.args[0]
    return node


def channels_read(compiled, node):
    """(tensor, first channel, channels) that a ``narrow`` view reads."""
    assert node.meta["reorder"] == "view"
    assert node.target in (torch.narrow, "narrow")
    source, dim, start, length = node.args
    assert dim in (-1, 1)
    return source, start, length


# Size ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("constrained", "limit"), [(False, 0.40), (True, 0.27)])
def test_the_middle_layer_of_sage_shrinks(constrained, limit):
    model = build(SAGE)
    compiled = upscale_fx.prune(model, 0.5, constrained=constrained)
    assert parameters(compiled.get_submodule("convs.1")) < limit * parameters(model.convs[1])


def test_constrained_readers_share_a_half():
    compiled = upscale_fx.prune(build(SAGE), 0.5, constrained=True)
    assert compiled.get_parameter("convs.1.lin_l.weight").shape == (128, 128)
    assert compiled.get_parameter("convs.1.lin_r.weight").shape == (128, 128)
    assert reorders(compiled) == []


@pytest.mark.parametrize(("amount", "left"), [(0.25, 192), (0.5, 128), (0.75, 64), (0.999, 1)])
def test_hidden_widths_of_a_gcn_are_exactly_the_share_kept(amount, left):
    compiled = upscale_fx.prune(build(SimpleGCN), amount)
    shapes = [tuple(compiled.get_parameter(f"convs.{i}.lin.weight").shape) for i in range(3)]
    assert shapes == [(left, 32), (left, left), (7, left)]
    assert compiled.get_parameter("convs.1.bias").shape == (left,)
    assert reorders(compiled) == []


@pytest.mark.parametrize("amount", only([0.5], [0.25, 0.5, 0.75]))
def test_a_sage_layer_keeps_the_union_of_its_readers(amount):
    """lin_l and lin_r of the next layer each choose their share; what neither reads is gone."""
    model = build(SAGE)
    masked = upscale_fx.mask(model, amount)
    compiled = upscale_fx.prune(model, amount)
    for layer in (0, 1):
        after = masked.convs[layer + 1]
        read = (after.lin_l.weight != 0).any(dim=0) | (after.lin_r.weight != 0).any(dim=0)
        assert len(compiled.get_parameter(f"convs.{layer}.lin_l.weight")) == int(read.sum())
        for reader in ("lin_l", "lin_r"):
            width = compiled.get_parameter(f"convs.{layer + 1}.{reader}.weight").shape[1]
            assert width == 256 - round(amount * 256)


# Views ---------------------------------------------------------------------------------------------------------------


def test_sage_reads_different_halves_of_one_tensor_through_views():
    compiled = unfused(upscale_fx.prune(build(SAGE), 0.5))
    left = channels_read(compiled, reading(compiled, "convs.1.lin_l.weight"))
    right = channels_read(compiled, reading(compiled, "convs.1.lin_r.weight"))
    assert left[0] is right[0], "one tensor"
    assert left[2] == right[2] == 128, "half of its original channels each"
    assert left[1] != right[1], "not the same half"
    assert copies(compiled) == []


def test_jumping_knowledge_and_the_next_layer_read_different_channels():
    compiled = unfused(upscale_fx.prune(build(JKNet), 0.5))
    (joined,) = [node for node in compiled.graph.nodes if node.target is torch.cat]
    for layer, part in enumerate(joined.args[0][:-1]):
        tensor, start, length = channels_read(compiled, part)
        source, start_, length_ = channels_read(compiled, reading(compiled, f"convs.{layer + 1}.lin.weight"))
        assert tensor is source, "one tensor"
        assert (start, length) != (start_, length_), "not the same channels"
        assert length_ == 128
    assert copies(compiled) == []


@pytest.mark.parametrize(("family", "views"), [(SAGE, 4), (JKNet, 4)])
def test_the_diff_shows_the_views(family, views):
    model = build(family)
    shown = str(upscale_fx.diff(model, upscale_fx.prune(model, 0.5)))
    rows = [line.split() for line in shown.splitlines() if line.startswith("+")]
    inserted = [row for row in rows if "view" in row]
    assert len(inserted) == views
    assert all("->" in row and "128]" in row[-1] for row in inserted if family is SAGE)
    assert f"{views} views, 0 copies" in shown
    assert max(map(len, shown.splitlines())) <= 120


class TwoReaders(nn.Module):
    """One hidden tensor and two linear layers that read it."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.left, self.right = GCNConv(12, width), nn.Linear(width, 6), nn.Linear(width, 6)

    def forward(self, x, edge_index):
        x = self.conv(x, edge_index).relu()
        return self.left(x) - self.right(x).tanh()


@pytest.mark.parametrize("seed", every(3, range(12)))
def test_two_readers_never_need_a_copy(seed):
    """Own, shared, own: whatever the two masks, both readers read slices, and nothing else is kept."""
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = TwoReaders(width=int(draw.integers(2, 40))).double().eval()
    width = model.left.in_features
    with torch.no_grad():
        for reader in (model.left, model.right):
            gone = draw.permutation(width)[: draw.integers(0, width)]
            reader.weight[:, gone] = 0
    compiled = upscale_fx.compact(model)
    assert copies(compiled) == []
    reads = [(reader.weight != 0).any(dim=0) for reader in (model.left, model.right)]
    assert [compiled.get_parameter(f"{n}.weight").shape[1] for n in ("left", "right")] == [int(r.sum()) for r in reads]
    assert len(compiled.get_parameter("conv.lin.weight")) == int((reads[0] | reads[1]).sum())
    upscale_fx.verify(model, compiled, (torch.randn(9, 12).double(), torch.randint(9, (2, 20))))


class Normalised(nn.Module):
    """A SAGE layer behind the L2 normalisation of another."""

    def __init__(self):
        super().__init__()
        self.first, self.second = SAGEConv(6, 37, normalize=True), SAGEConv(37, 3)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


def test_behind_a_barrier_one_gather_serves_two_readers_with_views():
    model = Normalised().double()
    compiled = upscale_fx.prune(model, 0.75)
    assert sorted(kind for kind, *_ in reorders(compiled)) == ["copy", "view", "view"]
    assert [compiled.get_parameter(f"second.{name}.weight").shape[1] for name in ("lin_l", "lin_r")] == [9, 9]
    upscale_fx.verify(upscale_fx.mask(model, 0.75), compiled, (torch.randn(9, 6).double(), torch.randint(9, (2, 20))))


class Twice(nn.Module):
    """One linear layer that is called two times."""

    def __init__(self):
        super().__init__()
        self.conv, self.shared, self.out = GCNConv(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x, edge_index):
        return self.out(self.shared(self.shared(self.conv(x, edge_index).relu()).relu()))


def test_a_layer_called_twice_stays_a_consumer():
    """Its calls keep other outputs, so it reads its weight through reorders; it is reported and pruned all the same."""
    model = Twice().double()
    compiled = upscale_fx.prune(model, 0.5)
    entries = {entry.name: entry.kept for entry in upscale_fx.report(compiled).entries}
    assert entries == {"conv.lin": 6, "shared": 8, "out": 8}
    again = upscale_fx.prune(compiled, {"shared": 0.5})
    assert {entry.name: entry.kept for entry in upscale_fx.report(again).entries}["shared"] == 4
    graph = torch.randn(9, 6).double(), torch.randint(9, (2, 20))
    upscale_fx.verify(upscale_fx.mask(compiled, {"shared": 0.5}), again, graph)


# Wide and deep -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", every(5, FAMILIES, 1))
def test_wide_models_are_pruned(family):
    model = build(family)
    compiled = upscale_fx.prune(model, 0.5)
    assert parameters(compiled) < 0.8 * parameters(model)
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (torch.randn(9, 32), torch.randint(9, (2, 20))))


@pytest.mark.slow
def test_a_hundred_layers_are_pruned():
    model = build(JKNet, width=32, num_layers=100).double()
    compiled = upscale_fx.prune(model, 0.5)
    assert math.isclose(parameters(compiled), 0.45 * parameters(model), rel_tol=0.2)
    assert copies(compiled) == []
    upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (torch.randn(9, 32).double(), torch.randint(9, (2, 20))))
