"""FoldAttention on the graphs it is made for."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, SAGEConv

import upscale_fx
from tests.comparison import stored
from tests.passes.attending import EDGES, GAT, X, ready
from tests.selection import only
from upscale_fx.models import GATv2
from upscale_fx.passes import FoldAttention

pytestmark = pytest.mark.usefixtures("seeded")


def folded_names(gm):
    return {name for name in gm.state_dict() if name.endswith("_folded")}


@pytest.mark.parametrize("amount", only([0.5], [0.25, 0.5, 0.75]))
@pytest.mark.parametrize(("width", "heads"), only([(8, 2)], [(8, 2), (4, 1), (4, 4)]))
def test_folding_is_exact_and_adds_only_folded_parameters(width, heads, amount):
    model = ready(GAT(width, heads))
    masked, compiled = upscale_fx.mask(model, amount), upscale_fx.prune(model, amount)
    assert upscale_fx.verify(masked, compiled, (X, EDGES)) < 1e-12
    added = stored(compiled) - set(model.state_dict())
    assert added == folded_names(compiled)
    assert added <= {f"convs.{n}.att_{side}_folded" for n in range(3) for side in ("src", "dst")}
    for name in added:
        assert compiled.get_parameter(name).shape[0] == heads
        assert name.removesuffix("_folded") not in compiled.state_dict(), "what was folded is gone"


def test_a_pruned_gat_has_layers_of_half_the_rows_and_columns():
    compiled = upscale_fx.prune(ready(GAT(width=8, heads=2)), 0.5)
    assert folded_names(compiled)
    shapes = [tuple(compiled.get_parameter(f"convs.{n}.lin.weight").shape) for n in range(3)]
    assert shapes[0] == (8, 6)
    assert shapes[1][0] == 8
    assert compiled.get_parameter("convs.0.bias").shape == (8,)


def test_a_constrained_gat_has_half_of_everything():
    compiled = upscale_fx.prune(ready(GAT(width=8, heads=2)), 0.5, constrained=True)
    assert tuple(compiled.get_parameter("convs.1.lin.weight").shape) == (8, 8)


def test_folding_is_left_out_where_it_does_not_pay():
    """At amount 0, a fold costs ``inputs`` products per head where the vector costs ``width``."""
    model = ready(GAT(width=4, heads=2, inputs=16))
    x = torch.randn(9, 16, dtype=torch.float64)
    compiled = upscale_fx.prune(model, 0)
    assert folded_names(compiled) == set()
    assert compiled.state_dict().keys() == model.state_dict().keys()
    assert upscale_fx.verify(model, compiled, (x, EDGES)) < 1e-12
    result = FoldAttention()(upscale_fx.trace(model))
    assert not result.modified


def test_folding_keeps_frozen_what_was_frozen():
    for frozen in (True, False):
        model = ready(GAT()).requires_grad_(not frozen)
        compiled = upscale_fx.prune(model, 0.5)
        names = folded_names(compiled)
        assert names
        assert {compiled.get_parameter(name).requires_grad for name in names} == {not frozen}


def test_a_folded_model_trains_and_is_pruned_again():
    model = ready(GAT())
    compiled = upscale_fx.prune(model, 0.5)
    compiled(X, EDGES).square().sum().backward()
    assert all(compiled.get_parameter(name).grad.any() for name in folded_names(compiled))
    masked, again = upscale_fx.mask(compiled, 0.5), upscale_fx.prune(compiled, 0.5)
    assert upscale_fx.verify(masked, again, (X, EDGES)) < 1e-12
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in compiled.parameters())


def test_the_vector_of_gatv2_is_never_folded():
    """A leaky relu stands between its layer and its vector."""
    model = ready(GATv2(6, 16, 3))
    assert folded_names(upscale_fx.prune(model, 0.5)) == set()
    assert not FoldAttention()(upscale_fx.trace(model)).modified


def test_a_vector_shared_by_two_layers_folds_into_each():
    class Shared(nn.Module):
        """One attention layer, called on two tensors."""

        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = SAGEConv(6, 16), GATConv(16, 8, heads=2), nn.Linear(16, 3)

        def forward(self, x, edge_index):
            h = self.stem(x, edge_index).relu()
            h = self.conv(h, edge_index).relu()
            return self.head(self.conv(h, edge_index).relu())

    model = ready(Shared())
    compiled = upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.5), compiled, (X, EDGES)) < 1e-12
