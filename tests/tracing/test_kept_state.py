"""State kept on a model from call to call: harmless where no output depends on it, refused by its name otherwise."""

from collections import deque

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv
from torch_geometric.utils import degree

import upscale_fx
from tests.comparison import assert_same_outputs
from tests.selection import every
from upscale_fx import ModeError, TraceError

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Holder:
    """An object of a user's own that a model keeps something in."""

    def __init__(self):
        self.value = None


class Stateful(nn.Module):
    """Two convolutions, and a function of the model and its embeddings, which may keep something on the model."""

    def __init__(self, body):
        super().__init__()
        self.a, self.b, self.head, self.body = GCNConv(5, 8), GCNConv(8, 8), nn.Linear(8, 3), body
        self.gru, self.lstm = nn.GRUCell(8, 8), nn.LSTMCell(8, 8)
        self.h, self.step, self.ready, self.scale = None, 0, False, 1.0
        self.past, self.store, self.queue, self.holder = [], {}, deque(maxlen=3), Holder()
        self.plain = torch.zeros(8)
        self.register_buffer("memory", torch.zeros(8))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x, edge_index):
        h = self.b(self.a(x, edge_index).relu(), edge_index).relu()
        return self.body(self, h, edge_index)


def example(nodes=12, edges=30, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, 5, generator=draw), torch.randint(nodes, (2, edges), generator=draw)


def hidden_state(m, h, e):
    h = m.gru(h, m.h)
    m.h = h.detach()
    return m.head(h)


def two_states(m, h, e):
    m.h = m.lstm(h, m.h)
    return m.head(m.h[0])


def counted(m, h, e):
    m.step += 1
    return m.head(h) / m.step


def branch_after_many_calls(m, h, e):
    m.step += 1
    return m.head(h * 2 if m.step > 1000 else h)


def every_tenth_call(m, h, e):
    m.step = m.step + 1
    return m.head(h if m.step % 10 else -h)


def annealed(m, h, e):
    m.scale *= 0.9
    return m.head(h) * m.scale


def memory_read(m, h, e):
    out = m.head(h + m.memory)
    m.memory = 0.9 * m.memory + 0.1 * h.mean(0)
    return out


def memory_in_place(m, h, e):
    m.memory.mul_(0.9).add_(0.1 * h.mean(0))
    return m.head(h + m.memory)


def parameter_data(m, h, e):
    m.head.bias.data = m.head.bias.data * 0.9
    return m.head(h)


def listed(m, h, e):
    m.past.append(h.mean(0))
    return m.head(h + sum(m.past))


def queued(m, h, e):
    m.queue.append(h.mean(0))
    return m.head(h + torch.stack(list(m.queue)).mean(0))


def stored(m, h, e):
    before = m.store.get("mean", 0.0)
    m.store["mean"] = h.mean(0)
    return m.head(h + before)


def in_an_object(m, h, e):
    before, m.holder.value = m.holder.value, h.mean(0)
    return m.head(h if before is None else h + before)


def own_cache(m, h, e):
    if m.h is None:
        m.h = degree(e[1], h.size(0)).view(-1, 1)
    return m.head(h / (1 + m.h))


def plain_tensor(m, h, e):
    m.plain += 1
    return m.head(h + m.plain)


REFUSED = {
    hidden_state: "h", two_states: "h", counted: "step", branch_after_many_calls: "step", every_tenth_call: "step",
    annealed: "scale", memory_read: "memory", memory_in_place: "memory", parameter_data: "head.bias", listed: "past",
    queued: "queue", stored: "store.mean", in_an_object: "holder.value", own_cache: "h", plain_tensor: "plain",
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "name"), every(3, REFUSED.items()), ids=lambda value: getattr(value, "__name__", value)
)
def test_state_that_outputs_depend_on_is_refused_by_its_name(body, name):
    model = Stateful(body).eval()
    for call in (upscale_fx.trace, lambda m, a: upscale_fx.prune(m, 0.5, example_inputs=a)):
        with pytest.raises(TraceError, match=rf"keeps state on self \('{name}'.*make it an argument and an output"):
            call(model, example())
    assert (model.h, model.step, model.past, model.store) == (None, 0, [], {})


def test_state_that_an_earlier_call_left_is_refused_too():
    model = Stateful(hidden_state).eval()
    model(*example())
    with pytest.raises(TraceError, match="keeps state on self"):
        upscale_fx.trace(model, example())


def last_attention(m, h, e):
    m.last_attention = h.softmax(0)
    return m.head(h)


def counter(m, h, e):
    m.step += 1
    m.calls += 1
    return m.head(h)


def embeddings(m, h, e):
    m.past.append(h)
    m.store["last"] = h
    m.holder.value = h
    return m.head(h)


def statistics(m, h, e):
    m.memory = 0.9 * m.memory + 0.1 * h.mean(0)
    return m.head(h)


def loss(m, h, e):
    m.ready, m.h = True, h.square().mean()
    return m.head(h)


def reset(m, h, e):
    m.h = torch.zeros_like(h)
    for _ in range(2):
        m.h = m.gru(h, m.h)
    return m.head(m.h)


def overwritten(m, h, e):
    m.memory.copy_(h.mean(0))
    m.plain = h.mean(0)
    return m.head(h + m.memory + m.plain)


def size_noted(m, h, e):
    m.size = h.size(0)
    return m.head(h) / m.size


def keyed_by_input(m, h, e):
    if m.h is None or m.h[0] is not e:
        m.h = e, degree(e[1], h.size(0)).view(-1, 1)
    return m.head(h / (1 + m.h[1]))


HARMLESS = [last_attention, counter, embeddings, statistics, loss, reset, overwritten, size_noted, keyed_by_input]


@pytest.mark.parametrize("body", every(3, HARMLESS), ids=lambda body: body.__name__)
def test_state_that_no_output_depends_on_is_harmless(body):
    model = Stateful(body).eval()
    traced = upscale_fx.trace(model, example())
    masked = upscale_fx.mask(model, 0.5, example_inputs=example())
    compact = upscale_fx.compact(masked, example_inputs=example())
    assert model.past == []
    assert model.h is None
    assert model.step == 0
    calls = [example(12, 30, 1), example(40, 90, 2), example(12, 30, 3)]
    with torch.no_grad():
        assert_same_outputs(model, traced, calls)
        assert_same_outputs(masked, compact, calls)


def only_in_training(m, h, e):
    if m.training:
        m.memory = 0.9 * m.memory + 0.1 * h.mean(0)
    return m.head(h - m.memory)


def plain_only_in_training(m, h, e):
    if m.training:
        m.plain = 0.9 * m.plain + 0.1 * h.mean(0)
    return m.head(h - m.plain) if not m.training else m.head(h)


def annealed_dropout(m, h, e):
    if m.training:
        m.scale = max(0.1, m.scale * 0.5)
    return m.head(nn.functional.dropout(h, 0.5 * m.scale, m.training))


@pytest.mark.parametrize("body", [only_in_training, plain_only_in_training, annealed_dropout])
def test_state_of_training_makes_a_graph_for_eval_only(body):
    model = Stateful(body).eval()
    traced = upscale_fx.trace(model, example())
    assert_same_outputs(model, traced, [example(), example(30, 70, 1)])
    with pytest.raises(ModeError, match="eval\\(\\) only"):
        traced.train()


CALLS = {"number": 0}


class Global(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(5, 3)

    def forward(self, x, edge_index):
        CALLS["number"] += 1
        return self.lin(x) * CALLS["number"]


def test_state_outside_the_model_is_refused():
    with pytest.raises(TraceError, match="called again with the same inputs"):
        upscale_fx.trace(Global().eval(), example())


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = GCNConv(5, 8, cached=True), GCNConv(8, 3, cached=True)

    def forward(self, x, edge_index):
        return self.b(self.a(x, edge_index).relu(), edge_index)


def test_comparisons_do_not_depend_on_what_a_cache_holds():
    model = Cached().eval()
    model(*example())
    masked, compiled = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    assert upscale_fx.verify(masked, compiled, example()) < 1e-10
    masked(*example(20, 50, 1))
    assert upscale_fx.verify(masked, compiled, example()) < 1e-10
    assert upscale_fx.verify(model, upscale_fx.trace(model), example(20, 50, 1)) < 1e-10
    assert model.a.cached
    assert masked.a.cached
    torch.testing.assert_close(masked(*example(20, 50, 1)), compiled(*example(20, 50, 1)))  # its own graph is cached


def test_a_mask_starts_with_empty_caches():
    model = Cached().eval()
    model(*example())
    masked, compiled = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    assert_same_outputs(masked, compiled, [example(20, 50, 1)])
