"""In layers with heads every head loses the same share."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import BatchNorm, GATConv, GATv2Conv, GCNConv, SAGEConv, TransformerConv

import upscale_fx
from tests.masking.zeros import per_head, zero_columns
from tests.networks import Stack

pytestmark = pytest.mark.usefixtures("seeded")


def zero_rows(layer):
    """Output channels of a layer that it leaves at zero, bias included, as a set."""
    return set(((layer.weight == 0).all(dim=1) & (layer.bias == 0)).nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("heads", "width", "amount", "removed"), [(3, 5, 0.5, 2), (2, 4, 0.25, 1), (4, 4, 0.75, 3), (2, 3, 0.99, 2)]
)
class TestHeads:
    """In a layer with heads, every head loses ``round(amount * C)`` of its own C channels."""

    def test_the_reader_of_concatenated_heads(self, heads, width, amount, removed):
        model = Stack(GATConv(6, width, heads=heads), GCNConv(heads * width, 3))
        gone = zero_columns(upscale_fx.mask(model, amount), "convs.1.lin")
        assert per_head(gone, heads, width) == [removed] * heads

    def test_through_batch_norm_and_residual(self, heads, width, amount, removed):
        class Normed(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = GATConv(6, width, heads=heads), BatchNorm(heads * width)
                self.skip, self.head = nn.Linear(6, heads * width), nn.Linear(heads * width, 3)

            def forward(self, x, edge_index):
                return self.head((self.norm(self.conv(x, edge_index)) + self.skip(x)).relu())

        gone = zero_columns(upscale_fx.mask(Normed(), amount), "head")
        assert per_head(gone, heads, width) == [removed] * heads

    def test_the_vector_of_gatv2(self, heads, width, amount, removed):
        model = Stack(GATv2Conv(6, width, heads=heads), GCNConv(heads * width, 3))
        vector = upscale_fx.mask(model, amount).convs[0].att
        assert vector.shape == (1, heads, width)
        assert (vector == 0).sum(dim=-1).flatten().tolist() == [removed] * heads
        lowest = model.convs[0].att.abs().argsort(dim=-1)[..., :removed]
        assert not vector.gather(-1, lowest).any(), "by magnitude, the smallest entries go"

    @pytest.mark.parametrize("concat", [True, False])
    def test_the_product_of_query_and_key(self, heads, width, amount, removed, concat):
        model = Stack(TransformerConv(6, width, heads=heads, concat=concat), nn.Identity())
        model.convs[1] = SAGEConv(heads * width if concat else width, 3)
        layer = upscale_fx.mask(model, amount).convs[0]
        gone = zero_rows(layer.lin_query)
        assert zero_rows(layer.lin_key) == gone, "channels of a product go in pairs"
        assert per_head(gone, heads, width) == [removed] * heads
        assert layer.lin_value.weight.all(), "values are read by the next layer, on its own"


def test_a_product_with_edge_features_vanishes_at_its_queries():
    """Keys then hold a node's part and an edge's part; neither is read where the query is zero."""

    class WithEdges(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = TransformerConv(6, 4, heads=2, edge_dim=5), nn.Linear(8, 3)

        def forward(self, x, edge_index, edge_attr):
            return self.head(self.conv(x, edge_index, edge_attr).relu())

    model = WithEdges()
    masked = upscale_fx.mask(
        model, 0.5, example_inputs=(torch.randn(9, 6), torch.randint(9, (2, 20)), torch.randn(20, 5))
    )
    assert per_head(zero_rows(masked.conv.lin_query), 2, 4) == [2, 2]


def test_attention_vectors_that_fold_are_no_consumers():
    """GAT's logits are folded into its input, so its vectors need no mask."""
    model = Stack(GATConv(6, 4, heads=2), GATConv(8, 3))
    masked = upscale_fx.mask(model, 0.5)
    for before, after in zip(model.convs, masked.convs, strict=True):
        assert torch.equal(before.att_src, after.att_src)
        assert torch.equal(before.att_dst, after.att_dst)
