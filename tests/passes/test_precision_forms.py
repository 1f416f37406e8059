"""Casting: what is refused and named, what keeps its dtype, and that a cast graph is still a model."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, MessagePassing

import upscale_fx
from tests.comparison import gap
from tests.passes.cast import IN, WIDTH, cast, graph, precision_line, single
from upscale_fx import InputError, UpscaleError
from upscale_fx.compiled.module import record_of
from upscale_fx.passes import CastPrecision

pytestmark = pytest.mark.usefixtures("seeded")


def test_nothing_to_cast():
    traced = upscale_fx.trace(single(GCNConv))
    result = CastPrecision(torch.float32)(traced)
    assert result.graph_module is traced
    assert not result.modified
    assert precision_line(traced) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, "bfloat16", None])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match=r"must be one of torch.bfloat16, torch.float16, torch.float32, got"):
        CastPrecision(dtype)


def test_operations_that_fail_are_named():
    class Distances(MessagePassing):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(IN, WIDTH)

        def forward(self, x, edge_index):
            return torch.cdist(self.lin(x), self.lin.weight.t()[:4])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Distances()

        def forward(self, x, edge_index):
            return self.inner(x, edge_index)

    expected = r"cdist at node cdist \(inner, test_precision_forms.py:\d+\) fails in bfloat16: .*not implemented"
    with pytest.raises(UpscaleError, match=expected):
        cast(Model().eval(), torch.bfloat16, graph())


def test_constants_of_a_dtype_are_those_of_the_new_one():
    class Least(nn.Module):
        def forward(self, x, edge_index):
            low = torch.finfo(x.dtype).min
            return x.masked_fill(x < 0, low).amax(dim=1), torch.full((x.size(0),), 0.5, dtype=x.dtype), edge_index[0]

    arguments = graph()
    found = cast(Least(), torch.float16, arguments)(*arguments)
    assert [value.dtype for value in found] == [torch.float32, torch.float32, torch.int64]
    assert gap(Least()(*arguments)[0], found[0]) < 1e-3


def test_results_of_any_form_keep_their_dtypes():
    class Largest(nn.Module):
        def forward(self, x, edge_index):
            return {"top": x.max(dim=1), "both": [x * 2, edge_index]}

    arguments = graph()
    found = cast(Largest(), torch.bfloat16, arguments)(*arguments)
    assert found["top"][0].dtype == found["both"][0].dtype == torch.float32
    assert found["top"][1].dtype == torch.int64


def test_inputs_are_still_checked():
    compiled = cast(single(GCNConv), torch.bfloat16)
    x, edge_index = graph()
    kept = x.clone()
    compiled(x, edge_index)
    assert torch.equal(x, kept)
    assert x.dtype == torch.float32
    with pytest.raises(InputError, match="width 12, got 11"):
        compiled(x[:, 1:], edge_index)


def test_the_graph_given_keeps_its_precision():
    traced = upscale_fx.trace(single(GCNConv))
    before = copy.deepcopy(traced.state_dict())
    assert CastPrecision(torch.bfloat16)(traced).modified
    assert all(torch.equal(value, before[key]) for key, value in traced.state_dict().items())
    assert record_of(traced).precision is None


def test_a_cast_graph_is_still_a_model():
    model = single(GCNConv)
    model.one.lin.weight.requires_grad_(False)
    compiled = cast(model, torch.bfloat16)
    arguments = graph()
    expected = compiled(*arguments)
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert torch.equal(other(*arguments), expected)
        assert precision_line(other) == precision_line(compiled)
    compiled.train()
    compiled(*arguments).square().sum().backward()
    assert {name for name, p in compiled.named_parameters() if p.grad is None} == {"one.lin.weight"}
    assert upscale_fx.prune(compiled, 0.5)(*arguments).dtype == torch.float32


def test_a_weight_with_two_readers():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(IN, IN), nn.Linear(IN, IN)
            self.b.weight = self.a.weight

        def forward(self, x, edge_index):
            return self.b(self.a(x).relu())

    compiled = cast(Tied().eval(), torch.bfloat16)
    assert {name: p.dtype for name, p in compiled.named_parameters()} == dict.fromkeys(
        ("a.weight", "a.bias", "b.bias"), torch.bfloat16
    )
