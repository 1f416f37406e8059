"""The cost of inference that GCNP reports."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.reports.gcnp import GCNP
from tests.selection import every
from upscale_fx.reports.inference_cost import cost_per_node

pytestmark = pytest.mark.usefixtures("seeded")
# Nodes, edges stored (an undirected edge twice), features, width of a branch, classes; ratios at 2x, 4x, 8x.
PAPER = {
    "Flickr": (89_250, 899_756, 500, 256, 7, ["2.66", "6.38", "14.2"]),
    "Arxiv": (169_343, 2_315_598, 128, 512, 40, ["3.48", "11.0", "31.2"]),
    "Reddit": (232_965, 2 * 11_606_919, 602, 128, 41, ["2.29", "4.95", "10.3"]),
    "Yelp": (716_847, 2 * 6_977_410, 300, 512, 100, ["3.10", "8.55", "21.1"]),
}


def three_digits(number):
    return f"{number:#.3g}"


@pytest.mark.parametrize("name", every(4, PAPER))  # the degree is rounded down: 10, 13, 99, 19
def test_full_inference_costs_what_gcnp_says(name):
    nodes, stored, features, width, classes, ratios = PAPER[name]
    degree = stored // nodes
    model = GCNP(features, width, classes).eval()
    dense = cost_per_node(upscale_fx.trace(model), degree=degree).full
    found = []
    for budget in (2, 4, 8):
        pruned = upscale_fx.prune(model, 1 - 1 / budget, constrained=True)
        found.append(three_digits(dense / cost_per_node(pruned, degree=degree).full))
    assert found == ratios


class Normed(GCNP):
    """The same with the norms that the authors' code has: of every branch, and of what the classifier reads."""

    def __init__(self, features, width, classes):
        super().__init__(features, width, classes)
        self.norms = nn.ModuleList(gnn.LayerNorm(width, mode="node") for _ in range(4))

    def forward(self, x, edge_index):
        for number, conv in enumerate(self.convs):
            own, neighbours = conv(x, edge_index).chunk(2, dim=-1)
            x = torch.cat([self.norms[2 * number](own), self.norms[2 * number + 1](neighbours)], dim=-1)
        return self.head(nn.functional.normalize(x, dim=-1))


def test_norms_over_channels_cost_nothing():
    nodes, stored, *shape, _ = PAPER["Reddit"]
    asked = {"degree": stored // nodes, "fanouts": [stored // nodes, 32]}
    plain, normed = (cost_per_node(upscale_fx.trace(kind(*shape)), **asked) for kind in (GCNP, Normed))
    assert plain == normed


def test_the_paper_counts_what_it_writes():
    features, width, classes, degree = 500, 256, 7, 10
    cost = cost_per_node(upscale_fx.trace(GCNP(features, width, classes)), degree=degree)
    layers = 2 * features * width + 2 * (2 * width) * width + 2 * width * classes
    assert cost.full_aggregation == 2 * degree * width
    assert cost.full == layers + cost.full_aggregation
