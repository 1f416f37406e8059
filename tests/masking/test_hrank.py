"""HRank: ranks of the maps of a graph, an image or folded rows."""

import torch
from torch import nn

import upscale_fx
from tests.masking.observed import kept, observed
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.criteria import HRank
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.criteria.hrank import folded, ranks
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.removals import plan_removals


def planted_maps(height, width, wanted, seed=0):
    """Matrices ``[C, height, width]`` of given ranks."""
    draw = torch.Generator().manual_seed(seed)
    maps = [torch.randn(height, r, generator=draw) @ torch.randn(r, width, generator=draw) for r in wanted]
    return torch.stack(maps)


def test_ranks_are_found_in_float32():
    wanted = [0, 1, 3, 7, 12]
    assert ranks(planted_maps(12, 17, wanted)).tolist() == wanted


def test_rows_are_folded_row_by_row():
    assert folded(torch.arange(1, 8)[:, None]).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 0, 0]]]
    assert folded(torch.ones(1, 2)).shape == (2, 1, 1)
    assert folded(torch.ones(12, 1)).shape == (1, 3, 4)


class Identity(nn.Module):
    """Its hidden channels are what it is given."""

    def __init__(self, width):
        super().__init__()
        self.enter, self.last = nn.Linear(width, width, bias=False), nn.Linear(width, 3)
        with torch.no_grad():
            self.enter.weight.copy_(torch.eye(width))

    def forward(self, x, edge_index, batch):
        return self.last(self.enter(x))


def test_a_graph_has_one_map_per_channel_and_batches_are_averaged():
    first, second = [1, 2, 5, 9], [3, 0, 8, 9]
    batches = []
    for seed, wanted in enumerate((first, second)):
        x = planted_maps(9, 9, wanted, seed).reshape(4, 81).t().contiguous()
        batches.append((x, torch.zeros(2, 1, dtype=torch.long), torch.zeros(81, dtype=torch.long)))
    scores = observed(HRank(), Identity(4), batches, "last")
    assert scores.tolist() == [(a + b) / 2 for a, b in zip(first, second, strict=True)]


def test_graphs_of_a_batch_have_maps_of_their_own():
    parts = [planted_maps(5, 5, [1, 4, 2]), planted_maps(4, 4, [3, 2, 0], 1)]
    x = torch.cat([part.reshape(3, -1).t() for part in parts])
    batch = torch.tensor([0] * 25 + [1] * 16)
    scores = observed(HRank(), Identity(3), (x, torch.zeros(2, 1, dtype=torch.long), batch), "last")
    assert scores.tolist() == [2, 3, 1]


def test_large_graphs_are_sampled_by_seed():
    x = torch.randn(400, 3)
    x[:, 1] = 1.0
    batch = (x, torch.zeros(2, 1, dtype=torch.long), torch.zeros(400, dtype=torch.long))
    scores = observed(HRank(rows=64), Identity(3), batch, "last")
    assert scores.tolist() == [8, 1, 8]
    x[:, 2] = (torch.arange(400) < 100).float()
    again = [observed(HRank(rows=64), Identity(3), batch, "last", seed).tolist() for seed in (1, 1)]
    assert again[0] == again[1]


class Images(nn.Module):
    """Two convolutions: maps of its hidden channels are those of the images."""

    def __init__(self):
        super().__init__()
        self.enter, self.last = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.enter.weight.copy_(torch.eye(4)[:, :, None, None])

    def forward(self, images):
        return self.last(self.enter(images))


def test_images_have_their_own_maps():
    images = torch.stack([planted_maps(6, 8, [1, 2, 5, 6], seed) for seed in range(3)])
    images[0, 3] = 0.0
    model = Images()
    traced = upscale_fx.trace(model, (images,))
    flow = analyse(traced)
    removals = plan_removals(survey(flow), traced, MaskOptions(amount=0.5))
    scores = HRank().observe(flow, removals, [(images, {"images": images})], 0)
    found = next(s for s, r in zip(scores, removals, strict=True) if r.consumer.name == "last")
    assert found.tolist() == [1, 2, 5, 4]
    masked = upscale_fx.mask(model, 0.5, criterion="hrank", calibration=images, example_inputs=(images,))
    assert kept(masked, "last") == [2, 3]
