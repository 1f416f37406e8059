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


class Sampled(nn.Module):
    """Scores of a user [B] and K sampled items [B, K] each; ``body`` gets the model, the rows and the ids."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items, self.other = nn.Embedding(9, 8), nn.Embedding(12, 8), nn.Embedding(9, 8)
        self.linear, self.body = nn.Linear(8, 8, bias=False), body

    def forward(self, user, sampled):
        return self.body(self, self.users(user), self.items(sampled), user, sampled)


BOTH = {"users": 4, "items": 4}
SAMPLED = {
    "broadcast": (lambda m, u, i, *ids: (u.unsqueeze(1) * i).sum(-1), BOTH),
    "items first": (lambda m, u, i, *ids: (i * u[:, None]).sum(dim=2, keepdim=True), BOTH),
    "expanded": (lambda m, u, i, *ids: (u.unsqueeze(1).expand_as(i) * i).sum(-1), BOTH),
    "repeated": (lambda m, u, i, *ids: (u[:, None].repeat(1, 6, 1) * i).sum(-1), BOTH),
    "a mean": (lambda m, u, i, *ids: (u[:, None] * i).mean(-1), BOTH),
    "bmm": (lambda m, u, i, *ids: torch.bmm(i, u.unsqueeze(2)).squeeze(2), BOTH),
    "bmm transposed": (lambda m, u, i, *ids: torch.bmm(u.unsqueeze(1), i.transpose(1, 2)).squeeze(1), BOTH),
    "matmul": (lambda m, u, i, *ids: (i @ u.unsqueeze(-1)).squeeze(-1), BOTH),
    "einsum": (lambda m, u, i, *ids: torch.einsum("bd,bkd->bk", u, i), BOTH),
    "a positive pair too": (
        lambda m, u, i, user, s: ((m.items(s[:, 0]) * u).sum(-1), (u.unsqueeze(1) * i).sum(-1).sigmoid().mean(1)),
        BOTH,
    ),
    "a triple": (
        lambda m, u, i, user, s: ((u * m.other(user)).unsqueeze(1) * i).sum(-1),
        {"users": 4, "other": 4, "items": 4},
    ),
    "items only": (lambda m, u, i, user, s: (i * m.items(s.flip(1))).sum(-1), {"items": 4}),
    "through a layer": (lambda m, u, i, *ids: (m.linear(u).unsqueeze(1) * i).sum(-1), {"items": 4}),
    "items returned": (lambda m, u, i, *ids: ((u.unsqueeze(1) * i).sum(-1), i), {"users": 4, "items": 8}),
}


def ids(rows, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(9, (rows,), generator=draw), torch.randint(12, (rows, 6), generator=draw)


@pytest.mark.parametrize("calibrated", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SAMPLED)
def test_tables_with_sampled_rows_lose_columns_exactly(kind, calibrated):
    body, left = SAMPLED[kind]
    model = Sampled(body).double().eval()
    options = {"calibration": [ids(40, 1)]} if calibrated else {}
    masked = upscale_fx.mask(model, 0.5, example_inputs=ids(5), **options)
    compact = upscale_fx.compact(masked, example_inputs=ids(5))
    for call in (ids(7, 2), ids(1, 3)):
        assert_same(masked(*call), compact(*call))
        assert_same(masked(*call), upscale_fx.optimize(compact)(*call))
    assert {name: compact.get_parameter(f"{name}.weight").shape[1] for name in left} == left


def test_joined_tables_lose_channels_of_either():
    body = lambda m, u, i, user, s: (torch.cat([u, m.other(user)], 1)[:, None] * torch.cat([i, i], 2)).sum(-1)  # noqa: E731
    model = Sampled(body).double().eval()
    masked, pruned = (f(model, 0.5, example_inputs=ids(5)) for f in (upscale_fx.mask, upscale_fx.prune))
    assert_same(masked(*ids(9, 1)), pruned(*ids(9, 1)))
    kept = [pruned.get_parameter(f"{name}.weight").shape[1] for name in ("users", "other")]
    assert sum(kept) == 8
