"""What a consumer reads of a running model: rows of its channels, which its weights sum to its outputs."""

import numpy as np
import pytest
import torch
from torch import fx, nn

import upscale_fx
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.masking.consumers.readings import operands_of
from upscale_fx.masking.consumers.survey import survey

WIDTH, OUT = 6, 4


class Heads(nn.Module):
    """One layer on every head."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(WIDTH // 2, OUT)

    def forward(self, x, edge_index):
        return self.lin(x.view(-1, 2, WIDTH // 2))


class PerHead(nn.Module):
    """A weight for each head."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, WIDTH // 2, OUT))

    def forward(self, x, edge_index):
        return torch.einsum("nhc,hco->nho", x.view(-1, 2, WIDTH // 2), self.weight)


class Image(nn.Module):
    """A convolution over places, of as many input channels as a row has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(WIDTH // 2, OUT, 1, bias=False)

    def forward(self, x, edge_index):
        return self.conv(x.view(-1, WIDTH // 2, 2, 1))


#: Models, and how their outputs become one row ``[OUT]`` for every row of the reading.
MODELS = {
    "a layer on every head": (Heads, lambda out: out.reshape(-1, OUT)),
    "a convolution": (Image, lambda out: out.permute(0, 2, 3, 1).reshape(-1, OUT)),
}


def read(model):
    """The only consumer of a model, the graph, what a call on 5 rows computes, and its result."""
    given = torch.randn(5, WIDTH), torch.randint(5, (2, 9))
    root = upscale_fx.trace(model.eval(), given)
    flow = analyse(root)
    (consumer,) = survey(flow).consumers
    values = {}

    class Recorder(fx.Interpreter):
        def run_node(self, node):
            values[node] = super().run_node(node)
            return values[node]

    with torch.no_grad():
        result = Recorder(root).run(*given)
    return consumer, flow, values, result


@pytest.mark.parametrize("name", MODELS)
def test_rows_times_weights_are_outputs(name):
    make, as_rows = MODELS[name]
    torch.manual_seed(0)
    model = make()
    consumer, flow, values, result = read(model)
    (reading,) = consumer.readings
    rows = reading.rows(flow, values, np.arange(consumer.count)[None])[:, 0]
    weight = consumer.weight(model).reshape(OUT, consumer.count)
    bias = model.lin.bias if name == "a layer on every head" else 0.0
    torch.testing.assert_close(rows @ weight.T + bias, as_rows(result))
    some = reading.rows(flow, values, np.arange(consumer.count)[None], torch.tensor([3, 1]))[:, 0]
    torch.testing.assert_close(some, rows.reshape(5, 2, -1)[[3, 1]].reshape(4, -1))


def test_blocks_are_the_heads_of_a_weight_per_head():
    torch.manual_seed(0)
    model = PerHead()
    consumer, flow, values, result = read(model)
    rows = consumer.readings[0].rows(flow, values, np.arange(WIDTH).reshape(2, -1))
    assert rows.shape == (5, 2, WIDTH // 2)
    torch.testing.assert_close(torch.einsum("nhc,hco->nho", rows, model.weight), result)


def test_operands_of_a_product_are_both_sides_and_none_of_what_is_no_contraction():
    consumer, flow, _, _ = read(PerHead())
    (site,) = consumer.sites
    left, right = operands_of(flow, site)
    assert left.value is consumer.readings[0].operands[0].value
    assert left.columns.tolist() == [list(range(WIDTH))]
    assert right.value.op == "get_attr"
    assert sorted(right.columns.reshape(-1).tolist()) == list(range(WIDTH * OUT))
    assert all(not operands_of(flow, node) for node in flow.nodes if node is not site)


def test_channels_that_a_call_does_not_read_are_zero():
    consumer, flow, values, _ = read(Heads())
    wide = consumer.readings[0].placed(np.array([3, 0, 1]), 5)
    rows = wide.rows(flow, values, np.arange(5)[None])[:, 0]
    torch.testing.assert_close(rows[:, [3, 0, 1]], consumer.readings[0].rows(flow, values, np.arange(3)[None])[:, 0])
    assert not rows[:, [2, 4]].any()
