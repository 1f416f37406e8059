"""Embedding tables that only sums of products read: their columns are channels, removed exactly."""

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.comparison import assert_same

HEAD, TYPE, TAIL = torch.tensor([0, 3, 5, 11, 2, 2]), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([4, 4, 1, 0, 9, 2])


class Triples(nn.Module):
    """A score of triples; ``body`` gets the model and rows of three tables."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.nodes, self.relations, self.other = nn.Embedding(12, 8), nn.Embedding(4, 8), nn.Embedding(12, 8)
        self.linear, self.body = nn.Linear(8, 8, bias=False), body

    def forward(self, head, rel, tail):
        return self.body(self, self.nodes(head), self.relations(rel), self.other(tail), tail)


#: Models and, per table, how many columns are left at 0.5.
KINDS = {
    "a dot product": (lambda m, h, r, t, tail: (h * t).sum(-1), {"nodes": 4, "other": 4}),
    "a triple product": (lambda m, h, r, t, tail: (h * r * t).sum(-1), {"nodes": 4, "relations": 4, "other": 4}),
    "one table twice": (lambda m, h, r, t, tail: (h * r * m.nodes(tail)).sum(-1), {"nodes": 4, "relations": 4}),
    "scaled": (lambda m, h, r, t, tail: (2 * h * t).sum(dim=1, keepdim=True).sigmoid(), {"nodes": 4, "other": 4}),
    "a sum of tables": (lambda m, h, r, t, tail: ((h + r) * t).sum(-1), {"nodes": 4, "relations": 4, "other": 4}),
    "through a layer": (lambda m, h, r, t, tail: (m.linear(h) * t).sum(-1), {"other": 4}),
    "by functional embedding": (
        lambda m, h, r, t, tail: (nn.functional.embedding(tail, m.nodes.weight) * t).sum(-1),
        {"nodes": 4, "other": 4},
    ),
    "dropout between": (
        lambda m, h, r, t, tail: (nn.functional.dropout(h, 0.5, m.training) * t).sum(-1),
        {"nodes": 4, "other": 4},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_removed_exactly(kind):
    body, left = KINDS[kind]
    model = Triples(body).double().eval()
    example = {"head": HEAD, "rel": TYPE, "tail": TAIL}
    masked = upscale_fx.mask(model, 0.5, example_kwargs=example)
    compiled = upscale_fx.prune(model, 0.5, example_kwargs=example)
    assert_same(masked(**example), compiled(**example))
    more = {"head": HEAD.flip(0)[:3], "rel": TYPE[:3], "tail": HEAD[:3]}
    assert_same(masked(**more), compiled(**more))
    assert {name: compiled.get_parameter(f"{name}.weight").shape[1] for name in left} == left


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("make", [gnn.DistMult, gnn.ComplEx])
def test_knowledge_graph_embeddings_of_pyg(make, calibrated):
    torch.manual_seed(0)
    model = make(12, 4, 8).double().eval()
    example = {"head_index": HEAD, "rel_type": TYPE, "tail_index": TAIL}
    options = {"calibration": [{key: value.repeat(6) for key, value in example.items()}]} if calibrated else {}
    masked = upscale_fx.mask(model, 0.5, example_kwargs=example, **options)
    compiled = upscale_fx.prune(model, 0.5, example_kwargs=example, **options)
    assert_same(masked(**example), compiled(**example))
    assert sum(p.numel() for p in compiled.parameters()) == sum(p.numel() for p in model.parameters()) // 2


@pytest.mark.parametrize(
    "body",
    [
        lambda m, h, r, t, tail: ((h * t).sum(-1), h, t),
        lambda m, h, r, t, tail: (h * t).sum(-1) + (h - t).norm(dim=-1),
        lambda m, h, r, t, tail: (h + r - t).abs().sum(-1),
        lambda m, h, r, t, tail: (h.cumsum(-1) * t.cumsum(-1)).sum(-1),
        lambda m, h, r, t, tail: (h.softmax(-1) * t.softmax(-1)).sum(-1),
    ],
    ids=["returned too", "a distance too", "a distance", "mixed before", "softmax before"],
)
def test_tables_that_something_else_reads_are_left_alone(body):
    with pytest.raises(upscale_fx.NothingToPruneError):
        upscale_fx.prune(Triples(body).double().eval(), 0.5, example_kwargs={"head": HEAD, "rel": TYPE, "tail": TAIL})
