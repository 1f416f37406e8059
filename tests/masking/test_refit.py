"""The refit against least squares on explicit rows."""

import torch
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv, RGCNConv, SAGEConv, TransformerConv
from torch_geometric.utils import add_remaining_self_loops, scatter

from tests.masking.refitted import HIDDEN, OUT, RELATIONS, WIDTH, Two, columns, graph, refitted, two
from upscale_fx.models import JKNet


def best(rows, target, kept):
    """Least squares on the kept columns of explicit rows; other weights are zero."""
    weight = rows.new_zeros(rows.shape[1], target.shape[1])
    weight[kept] = torch.linalg.lstsq(rows[:, kept], target).solution
    return weight


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def seen(model, layer, arguments):
    """What a layer reads and returns when the model runs."""
    calls = []
    hook = layer.register_forward_hook(lambda module, given, result: calls.append((given[0], result)))
    with torch.no_grad():
        model(*arguments)
    hook.remove()
    return calls[0]


def ones(rows):
    return rows.new_ones(len(rows), 1)


def test_gcn_is_fitted_behind_its_aggregation():
    model, given = two(GCNConv), graph()
    masked, _ = refitted(model, given)
    x, target = seen(masked, masked.last, given)[0], seen(model, model.last, given)[1]
    edges, _ = add_remaining_self_loops(given[1], num_nodes=len(x))
    degree = torch.zeros(len(x), dtype=x.dtype).index_add(0, edges[1], torch.ones(edges.shape[1], dtype=x.dtype))
    scale = degree[edges[0]].rsqrt() * degree[edges[1]].rsqrt()
    rows = torch.zeros_like(x).index_add(0, edges[1], scale[:, None] * x[edges[0]])
    kept = torch.cat([columns(masked.last.lin), torch.tensor([True])])
    assert kept.sum() == HIDDEN // 2 + 1
    expected = best(torch.cat([rows, ones(rows)], dim=1), target, kept)
    close(torch.cat([masked.last.lin.weight.T, masked.last.bias[None]]), expected)


def test_both_branches_of_sage_are_fitted_together():
    model, given = two(SAGEConv), graph()
    masked, _ = refitted(model, given)
    x, target = seen(masked, masked.last, given)[0], seen(model, model.last, given)[1]
    mean = scatter(x[given[1][0]], given[1][1], dim_size=len(x), reduce="mean")
    kept = torch.cat([columns(masked.last.lin_l, masked.last.lin_r), torch.tensor([True])])
    expected = best(torch.cat([mean, x, ones(x)], dim=1), target, kept)
    last = masked.last
    close(torch.cat([last.lin_l.weight.T, last.lin_r.weight.T, last.lin_l.bias[None]]), expected)


def test_the_head_of_a_jumping_knowledge_network_is_fitted_to_all_layers():
    torch.manual_seed(0)
    model = JKNet(WIDTH, HIDDEN, OUT).double().eval()
    given = graph()
    masked, _ = refitted(model, given)
    head = masked.lin
    x, target = seen(masked, head, given)[0], seen(model, model.lin, given)[1]
    rows = torch.cat([x, ones(x)], dim=1)
    kept = torch.cat([columns(head), torch.tensor([True])])
    # Channels may be dead (ReLU): weights are not unique, what they compute is.
    expected = rows[:, kept] @ torch.linalg.lstsq(rows[:, kept], target, driver="gelsd").solution
    close(rows @ torch.cat([head.weight.T, head.bias[None]]), expected)


def test_all_relations_of_rgcn_and_the_root_are_fitted_together():
    model = two(RGCNConv, RELATIONS)
    x, edges = graph(300)
    given = x, edges, torch.arange(edges.shape[1]) % RELATIONS
    masked, _ = refitted(model, given)
    h, target = seen(masked, masked.last, given)[0], seen(model, model.last, given)[1]
    means = [
        scatter(h[edges[0, given[2] == r]], edges[1, given[2] == r], dim_size=len(h), reduce="mean")
        for r in range(RELATIONS)
    ]
    weight = torch.cat([*masked.last.weight, masked.last.root, masked.last.bias[None]])
    kept = (weight != 0).any(dim=1)
    assert kept.sum() == (RELATIONS + 1) * HIDDEN // 2 + 1
    close(weight, best(torch.cat([*means, h, ones(h)], dim=1), target, kept))


def felt(values, logits, target):
    """What a softmax over the edges of each target feels of values ``[E, ...]``, one target after the other."""
    found = torch.zeros_like(values)
    for node in target.unique():
        own = target == node
        share = logits[own].softmax(dim=0)
        found[own] = (values[own] - (share[:, None] * values[own]).sum(dim=0)) * share.sqrt()[:, None]
    return found


def test_the_attention_vector_of_gatv2_is_fitted_to_logits_head_by_head():
    torch.manual_seed(0)
    heads, width = 3, 8
    model = Two(GCNConv(WIDTH, HIDDEN), GATv2Conv(HIDDEN, width, heads=heads, add_self_loops=False)).double().eval()
    given = graph()
    masked, _ = refitted(model, given)

    def products(net):
        h, conv = seen(net, net.last, given)[0], net.last
        left, right = (lin(h).view(-1, heads, width) for lin in (conv.lin_l, conv.lin_r))
        return torch.nn.functional.leaky_relu(left[given[1][0]] + right[given[1][1]], 0.2)

    target = (products(model) * model.last.att).sum(-1)
    rows = products(masked)
    for head in range(heads):
        found = masked.last.att[0, head]
        assert (found != 0).sum() == width // 2
        own = [felt(part, target[:, head], given[1][1]) for part in (rows[:, head], target[:, head, None])]
        close(found[:, None], best(*own, found != 0))


def test_products_of_queries_and_keys_are_scaled_to_the_least_error():
    """What is left of an error that weights have been fitted to is orthogonal to what they weigh."""
    torch.manual_seed(0)
    heads, width = 2, 8
    model = Two(GCNConv(WIDTH, HIDDEN), TransformerConv(HIDDEN, width, heads=heads)).double().eval()
    given = graph()
    amount = {"*": 0.0, "*lin_key*": 0.5}
    masked, plan = refitted(model, given, amount)
    assert not plan.notes

    def products(net):
        h, conv = seen(net, net.last, given)[0], net.last
        query, key = (lin(h).view(-1, heads, width) for lin in (conv.lin_query, conv.lin_key))
        return query[given[1][1]] * key[given[1][0]]

    logits = products(model).sum(-1) / width**0.5
    felt_rows = [
        torch.stack([felt(products(net)[:, h], logits[:, h], given[1][1]) for h in range(heads)], dim=1)
        for net in (masked, model)
    ]
    rows, lacking = felt_rows[0], felt_rows[1].sum(-1) - felt_rows[0].sum(-1)
    kept = rows.abs().amax(dim=0) > 0
    assert kept.sum(dim=1).tolist() == [width // 2] * heads or kept.sum() < heads * width
    across = torch.einsum("ehc,eh->hc", rows, lacking)
    size = rows.norm(dim=0) * lacking.norm(dim=0)[:, None]
    assert (across.abs() <= 1e-8 * size.clamp(min=1e-30)).all()
    assert lacking.norm() > 1e-3  # there was something to lose


def test_an_lstm_is_fitted_to_its_gates():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.lstm = nn.Linear(WIDTH, HIDDEN), nn.LSTM(HIDDEN, 5, batch_first=True, bidirectional=True)

        def forward(self, x, edge_index):
            x = self.first(x).tanh()
            return self.lstm(torch.stack([x, x.roll(1, 0)], dim=1))[0].sum(dim=1)

    torch.manual_seed(0)
    model = Sequence().double().eval()
    given = graph()
    masked, plan = refitted(model, given)
    assert not plan.notes
    dense, x = seen(model, model.lstm, given)[0], seen(masked, masked.lstm, given)[0].reshape(-1, HIDDEN)
    for side in ("", "_reverse"):
        own = [getattr(net.lstm, f"{name}_ih_l0{side}") for net in (model, masked) for name in ("weight", "bias")]
        target = dense.reshape(-1, HIDDEN) @ own[0].T + own[1]
        kept = torch.cat([(own[2] != 0).any(dim=0), torch.tensor([True])])
        assert kept.sum() == HIDDEN // 2 + 1
        close(torch.cat([own[2].T, own[3][None]]), best(torch.cat([x, ones(x)], dim=1), target, kept))


def test_a_layer_called_twice_is_fitted_to_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, OUT)

        def forward(self, x, edge_index):
            x = self.first(x).tanh()
            return self.shared(x) * self.shared(x.roll(1, 0).sin())

    torch.manual_seed(0)
    model = Twice().double().eval()
    given = graph()
    masked, _ = refitted(model, given)
    h = model.first(given[0]).tanh()
    rows = torch.cat([h, h.roll(1, 0).sin()])
    target = model.shared(rows)
    kept = torch.cat([columns(masked.shared), torch.tensor([True])])
    expected = best(torch.cat([rows, ones(rows)], dim=1), target, kept)
    close(torch.cat([masked.shared.weight.T, masked.shared.bias[None]]), expected)


def test_dense_attention_is_fitted_over_all_pairs():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(WIDTH, HIDDEN)
            self.query, self.key = nn.Linear(HIDDEN, 8), nn.Linear(HIDDEN, 8)

        def forward(self, x, edge_index):
            x = self.first(x).tanh()
            return (self.query(x) @ self.key(x).T).softmax(dim=-1) @ x

    torch.manual_seed(0)
    model = Dense().double().eval()
    given = graph(60)
    masked, plan = refitted(model, given, {"*": 0.0, "*query*": 0.5})
    assert not plan.notes

    def sides(net):
        h = net.first(given[0]).tanh()
        return net.query(h), net.key(h)

    (q, k), (dense_q, dense_k) = sides(masked), sides(model)
    products = torch.einsum("ic,jc->ijc", q, k).reshape(-1, 8)
    lacking = (dense_q @ dense_k.T).reshape(-1) - products.sum(dim=1)
    size = products.norm(dim=0) * lacking.norm()
    assert ((products.T @ lacking).abs() <= 1e-8 * size.clamp(min=1e-30)).all()
    assert lacking.norm() > 1e-3
