"""The five ready-made families: shapes, structure, refusals, and dropout that follows train() and eval()."""

import pytest
import torch
from torch_geometric.nn import GATv2Conv, GCNConv, SAGEConv, TransformerConv

from tests.networks import FAMILIES, random_graph
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN

ATTENTION = (GATv2, GraphTransformer)
LAYER = {SimpleGCN: GCNConv, SAGE: SAGEConv, GATv2: GATv2Conv, GraphTransformer: TransformerConv, JKNet: GCNConv}

families = pytest.mark.parametrize("family", FAMILIES)


def graph(nodes=9, edges=20, width=6):
    return random_graph(nodes, edges, width, dtype=torch.float32)


@families
@pytest.mark.parametrize("num_layers", [1, 2, 3, 5])
@pytest.mark.parametrize(("nodes", "edges"), [(9, 20), (1, 1), (4, 0)])
def test_gives_logits_for_every_node(family, num_layers, nodes, edges):
    model = family(6, 16, 3, num_layers=num_layers)
    assert model(*graph(nodes, edges)).shape == (nodes, 3)


@families
def test_has_the_layers_of_its_family(family):
    model = family(6, 16, 3, num_layers=4)
    assert [type(layer) for layer in model.convs] == [LAYER[family]] * 4


@families
def test_default_is_three_layers_with_half_dropped(family):
    model = family(6, 16, 3)
    assert (len(model.convs), model.dropout) == (3, 0.5)


@pytest.mark.parametrize("family", ATTENTION)
def test_hidden_width_is_that_of_all_heads(family):
    first, middle, last = family(6, 16, 3, heads=2).convs
    assert [(layer.in_channels, layer.out_channels, layer.heads) for layer in (first, middle, last)] == [
        (6, 8, 2),
        (16, 8, 2),
        (16, 3, 2),
    ]
    assert (first.concat, middle.concat, last.concat) == (True, True, False)


@pytest.mark.parametrize(("mode", "width"), [("cat", 48), ("max", 16), ("lstm", 16)])
def test_jumping_knowledge_modes(mode, width):
    model = JKNet(6, 16, 3, mode=mode)
    assert model.lin.in_features == width
    assert model(*graph()).shape == (9, 3)


@families
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dropout_follows_the_mode(family, mode):
    torch.manual_seed(0)
    model = getattr(family(6, 32, 3), mode)()
    same = torch.equal(model(*graph()), model(*graph()))
    assert same == (mode == "eval")


@families
def test_dropout_of_zero_changes_nothing(family):
    torch.manual_seed(0)
    model = family(6, 32, 3, dropout=0.0)
    torch.testing.assert_close(model.train()(*graph()), model.eval()(*graph()))


@families
def test_learns(family):
    """Every parameter of every layer takes part in the logits, given a graph with messages."""
    torch.manual_seed(0)
    model = family(6, 16, 3, dropout=0.0)
    model(*graph()).square().sum().backward()
    # Biases of keys shift all logits of a softmax alike, so their gradient is rightly zero.
    idle = [name for name, p in model.named_parameters() if not p.grad.any() and not name.endswith("lin_key.bias")]
    assert idle == []


@pytest.mark.parametrize("family", ATTENTION)
def test_refuses_a_width_that_does_not_divide_by_heads(family):
    with pytest.raises(ValueError, match=r"hidden_dim=10 does not divide into heads=4"):
        family(6, 10, 3, heads=4)


@pytest.mark.parametrize("family", ATTENTION)
def test_refuses_no_heads(family):
    with pytest.raises(ValueError, match="heads must be at least 1, not 0"):
        family(6, 16, 3, heads=0)


@families
@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((0, 16, 3), {}, "input_dim must be at least 1, not 0"),
        ((6, -4, 3), {}, "hidden_dim must be at least 1, not -4"),
        ((6, 16, 0), {}, "output_dim must be at least 1, not 0"),
        ((6, 16, 3), {"num_layers": 0}, "num_layers must be at least 1, not 0"),
    ],
)
def test_refuses_sizes_below_one(family, sizes, options, message):
    with pytest.raises(ValueError, match=message):
        family(*sizes, **options)


def test_refuses_an_unknown_jumping_knowledge_mode():
    with pytest.raises(ValueError, match="mode must be 'cat', 'max' or 'lstm', not 'sum'"):
        JKNet(6, 16, 3, mode="sum")


@families
def test_weights_move_to_another_model_by_name(family):
    source, target = family(6, 16, 3).eval(), family(6, 16, 3).eval()
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(source(*graph()), target(*graph()))
