"""Models that no graph can hold: the refusal names the line and what to do, and what it names works."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import SAGEConv, global_mean_pool

import upscale_fx
from tests.networks import random_graph
from tests.tracing.checked import checked

X, EDGES = random_graph(12, 40, 6)
BATCH = torch.arange(12) // 4


class Model(nn.Module):
    """Two convolutions and a head; ``end`` is what the user does with the result."""

    def __init__(self, end):
        super().__init__()
        self.first, self.second, self.head = SAGEConv(6, 8), SAGEConv(8, 8), nn.Linear(8, 3)
        self.end = end

    def run(self, x, edge_index):
        h = self.first(x, edge_index).relu()
        return self.head(self.second(h, edge_index).relu())

    def forward(self, x, edge_index):
        return self.end(self.run(x, edge_index))


class Flagged(Model):
    def forward(self, x, edge_index, flag):
        return self.end(self.run(x, edge_index), flag)


class Batched(Model):
    def forward(self, x, edge_index, batch):
        return self.end(self.run(x, edge_index), batch)


class Yields(Model):
    def forward(self, x, edge_index):
        h = self.first(x, edge_index).relu()
        yield h
        yield self.end(self.head(self.second(h, edge_index).relu()))


class Collects(Model):
    def forward(self, x, edge_index):
        values = [self.first(x, edge_index).relu()]
        values.append(self.end(self.head(self.second(values[0], edge_index).relu())))
        return tuple(values)


class Later(Model):
    async def forward(self, x, edge_index):
        return self.run(x, edge_index)


def branch(h):
    if h.sum() > 0:
        return h
    return -h


def loop(h):
    while h.abs().max() > 0.1:
        h = h / 2
    return h


def fixed_steps(h):
    for _ in range(5):
        h = torch.where(h.abs().max() > 0.1, h / 2, h)
    return h


def check(h):
    if torch.isnan(h).any():
        raise ValueError("NaN")
    return h


def compare(h):
    return h * 2 if torch.equal(h, h.relu()) else h


def many(h):
    return h * 2 if h.size(0) > 9 else h


def per_graph(h, batch):
    return torch.stack([h[batch == graph].mean(0) for graph in range(int(batch.max()) + 1)])


def contains(h, batch):
    return h * 2 if 2 in batch else h


def numbers(h, batch):
    return h * batch.tolist()[3]


#: What is refused, what the message says of it, what to do, and the model that does it, with further arguments.
CASES = {
    "a branch on a sum": (Model(branch), r"branch depends on tensor values.*torch\.where\(condition, a, b\)",
                          Model(lambda h: torch.where(h.sum() > 0, h, -h)), ()),
    "a loop until": (Model(loop), r"tensor values.*fixed number of steps", Model(fixed_steps), ()),
    "a check that raises": (Model(check), r"tensor values.*as an assert", Model(checked), ()),
    "a comparison of tensors": (Model(compare), r"tensor values.*torch\.where",
                                Model(lambda h: torch.where((h == h.relu()).all(), h * 2, h)), ()),
    "the same condition in every call": (Model(branch), r"pass it as an argument \(True or False is built in\)",
                                         Flagged(lambda h, flag: h if flag else -h), (True,)),
    "a branch on the number of nodes": (Model(many), r"number of nodes.*decide outside.*pass the decision",
                                        Flagged(lambda h, flag: h * 2 if flag else h), (False,)),
    "item()": (Model(lambda h: h * h.max().item()), r"'\.item\(\)'.*leave the conversion out.*x \* x\.max\(\)",
               Model(lambda h: h * h.max()), ()),
    "float()": (Model(lambda h: h / float(h.abs().max())), r"Python number.*leave the conversion out",
                Model(lambda h: h / h.abs().max()), ()),
    "a number of every call": (Model(lambda h: h * h.max().item()), r"computed before and passed as an argument",
                               Flagged(lambda h, flag: h * flag), (2.5,)),
    "numpy()": (Model(lambda h: h * torch.from_numpy(h.detach().numpy()).sum()), r"'\.numpy\(\)'.*torch's functions",
                Model(lambda h: h * h.detach().sum()), ()),
    "tolist()": (Batched(numbers), r"'\.tolist\(\)'.*leave the conversion out",
                 Batched(lambda h, b: h * b[3]), (BATCH,)),
    "a loop over graphs": (Batched(per_graph), r"range\(\).*for all rows at once.*global_mean_pool",
                           Batched(global_mean_pool), (BATCH,)),
    "in": (Batched(contains), r"'in' looks at tensor values; compare instead",
           Batched(lambda h, b: torch.where((b == 2).any(), h * 2, h)), (BATCH,)),
    "yield in forward": (Yields(torch.relu), r"returns a builtins\.generator.*collect the values.*return tuple",
                         Collects(torch.relu), ()),
    "a generator expression": (Model(lambda h: (f(h) for f in (torch.relu, torch.tanh))), r"generator.*return tuple",
                               Model(lambda h: tuple(f(h) for f in (torch.relu, torch.tanh))), ()),
    "map": (Model(lambda h: map(torch.relu, [h])), r"builtins\.map.*return tuple",
            Model(lambda h: tuple(map(torch.relu, [h]))), ()),
    "zip in a dictionary": (Model(lambda h: {"pairs": zip([h], [h + 1], strict=True)}), r"builtins\.zip.*return tuple",
                            Model(lambda h: {"pairs": tuple(zip([h], [h + 1], strict=True))}), ()),
    "values of a dictionary": (Model(lambda h: {"a": h, "b": -h}.values()), r"dict_values.*return tuple",
                               Model(lambda h: tuple({"a": h, "b": -h}.values())), ()),
    "async": (Later(None), r"asynchronous.*without async", Model(torch.relu), ()),
}  # fmt: skip


def leaves(value):
    """All tensors of a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in leaves(part)]


@pytest.mark.parametrize("what", CASES)
@pytest.mark.filterwarnings("ignore:coroutine")  # nobody waits for it
def test_the_refusal_names_line_and_remedy(what):
    model, reason, _, _ = CASES[what]
    given = (X, EDGES, BATCH) if isinstance(model, Batched) else (X, EDGES)
    with pytest.raises(upscale_fx.TraceError, match=rf"test_remedies\.py:\d+: .*{reason}") as caught:
        upscale_fx.prune(model.double().eval(), 0.5, example_inputs=given)
    assert not any(text in str(caught.value) for text in ("unknown line", "Rewrite that line", "TraceError in"))


@pytest.mark.parametrize("what", CASES)
def test_the_remedy_is_traced_and_exact(what):
    _, _, model, more = CASES[what]
    torch.manual_seed(0)
    model = model.double().eval()
    masked = upscale_fx.mask(model, 0.5, example_inputs=(X, EDGES, *more))
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(X, EDGES, *more))
    assert sum(p.numel() for p in compiled.parameters()) < sum(p.numel() for p in model.parameters())
    for inputs in (
        (X, EDGES, *more),
        (X[:7], EDGES[:, (EDGES < 7).all(0)], *(m[:7] if m is BATCH else m for m in more)),
    ):
        for one, other in zip(leaves(compiled(*inputs)), leaves(masked(*inputs)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
