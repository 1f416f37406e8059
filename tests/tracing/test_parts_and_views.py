"""Refusals that name what is changed or taken apart, with a way out that works; constants that forward() makes."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.comparison import assert_same_outputs
from upscale_fx import TraceError

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Depths(nn.Module):
    """Embeds the depth of every node, cut off at 4; ``cut`` gets the input ``[N, 1]``."""

    def __init__(self, cut):
        super().__init__()
        self.emb, self.hidden, self.out, self.cut = nn.Embedding(5, 8), nn.Linear(8, 8), nn.Linear(8, 3), cut

    def forward(self, x, depth):
        return self.out(self.hidden(self.emb(self.cut(depth)).relu()).relu())


def cut_off(depth):
    depth[depth > 4] = 4
    return depth


def clamped(depth):
    return depth.clamp_(max=4)


def depths(rows=9):
    return torch.rand(rows, 2), torch.arange(rows)[:, None] % 5


#: A view of the input, and its change in place.
VIEWS = {
    "view": (lambda d: d.view(-1), cut_off),
    "squeeze": (lambda d: d.squeeze(1), cut_off),
    "flatten": (lambda d: d.flatten(), clamped),
    "column": (lambda d: d[:, 0], cut_off),
    "transpose": (lambda d: d.t(), lambda d: cut_off(d)[0]),
    "itself": (lambda d: d, lambda d: cut_off(d)[:, 0]),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_changed_view_of_an_input_is_named_and_a_clone_helps(kind):
    view, change = VIEWS[kind]
    with pytest.raises(
        TraceError, match=r"the input 'depth'.* is changed in place.*; change a copy of it, depth\.clone"
    ):
        upscale_fx.trace(Depths(lambda d: change(view(d))).eval(), depths())
    for copied in (lambda d: change(view(d).clone()), lambda d: change(view(d.clone()))):
        model = Depths(copied).eval()
        masked, pruned = (f(model, 0.5, example_inputs=depths()) for f in (upscale_fx.mask, upscale_fx.prune))
        assert_same_outputs(masked, pruned, [depths(20)])


def test_a_changed_view_of_a_hidden_value_is_told_to_copy():
    def cut(d):
        hidden = (d + 0)[:, 0]
        view = hidden.view(1, -1)
        return cut_off(hidden) + 0 * view[0]

    with pytest.raises(TraceError, match=r"another view is still in use; change a copy of it, made with \.clone\(\)"):
        upscale_fx.trace(Depths(cut).eval(), depths())


class Parts(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.first, self.second, self.body = GCNConv(5, 8), GCNConv(8, 3), body

    def forward(self, x, edge_index):
        h = self.first(x, edge_index).relu()
        return self.second(h + self.body(h, edge_index), edge_index)


def graph(nodes=12, edges=30, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 5, generator=draw), torch.randint(nodes, (2, edges), generator=draw)


def without_the_first(h):
    return torch.cat([h[h.size(0) // 2 :], h[: h.size(0) // 2]])


APART = {
    "chunk of edges": lambda h, e: torch.cat(h[e[0]].chunk(2, 0)[::-1]).sum(0),
    "chunk of nodes": lambda h, e: torch.cat(h.chunk(2)[::-1]),
    "chunk by keyword": lambda h, e: torch.cat(torch.chunk(h[e[0]], chunks=3, dim=0)[::-1]).mean(0),
    "chunk backwards": lambda h, e: torch.cat(h.t().chunk(2, -1)[::-1], 1).t(),
    "split": lambda h, e: torch.cat(h[e[1]].split(4)[::-1]).sum(0),
    "unbind": lambda h, e: torch.stack(h.unbind(0)[::-1]),
}


@pytest.mark.parametrize("kind", APART)
def test_parts_along_rows_are_refused_as_such(kind):
    with pytest.raises(TraceError, match=r"test_parts_and_views\.py:\d+: a tensor is taken apart along its rows"):
        upscale_fx.trace(Parts(APART[kind]).eval(), graph())


@pytest.mark.parametrize(
    "body",
    [
        lambda h, e: without_the_first(h),
        lambda h, e: without_the_first(h[e[0]]).sum(0),
        lambda h, e: torch.cat(h.chunk(2, 1)[::-1], 1),
    ],
    ids=["by index", "edges by index", "channels"],
)
def test_parts_by_index_and_of_channels_work(body):
    model = Parts(body).eval()
    masked, pruned = (f(model, 0.5, example_inputs=graph()) for f in (upscale_fx.mask, upscale_fx.prune))
    assert_same_outputs(masked, pruned, [graph(20, 50, 1), graph(2, 1, 2)])


CONSTANTS = {
    "eye": lambda h: nn.functional.linear(h, torch.eye(8)),
    "product": lambda h: h @ torch.eye(8).flip(0),
    "numbers": lambda h: h @ torch.tensor([[1.0, 2.0]] * 8) @ torch.ones(2, 8),
    "einsum": lambda h: torch.einsum("nc,cd->nd", h, torch.tril(torch.eye(8))),
    "arange": lambda h: nn.functional.linear(h, torch.arange(64.0).view(8, 8)),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_constant_of_forward_is_no_buffer_of_the_model(kind):
    model = Parts(lambda h, e: CONSTANTS[kind](h)).eval()
    with pytest.warns(
        upscale_fx.UpscaleWarning, match=r"is a constant that forward\(\) makes \(test_parts_and_views\.py:"
    ):
        pruned = upscale_fx.prune(model, 0.5, example_inputs=graph())
    assert_same_outputs(upscale_fx.mask(model, 0.5, example_inputs=graph()), pruned, [graph(20, 50, 1)])
    text = " ".join(str(upscale_fx.report(pruned)).split())
    assert "_tensor_constant" not in text
    assert "is a buffer" not in text
