"""Any method of a model as the entry of its graph."""

import pickle

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.comparison import assert_same
from tests.selection import only
from tests.tracing.object_models import Base, graph, tensors

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Autoencoder(Base):
    """Methods besides forward()."""

    def encode(self, x, edge_index):
        return self.body(x, edge_index)

    def encode_data(self, data):
        return self.body(data.x, data.edge_index)

    def score(self, x, edge_index, *, pairs):
        z = self.body(x, edge_index)
        return (z[pairs[0]] * z[pairs[1]]).sum(-1)

    def decode(self, z, pairs):
        h = self.head(self.first(z, pairs).relu())
        return h[pairs[0]] + h[pairs[1]]

    def forward(self, x, edge_index):
        return self.encode(x, edge_index).softmax(-1)


class OnlyEncodes(nn.Module):
    """No forward()."""

    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.SAGEConv(8, 16), gnn.SAGEConv(16, 3)

    def encode(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


class Encoder(OnlyEncodes):
    """For gnn.GAE, whose ``encode`` takes any arguments."""

    def forward(self, x, edge_index):
        return self.encode(x, edge_index)


METHODS = [
    (Autoencoder, "encode", tensors),
    (Autoencoder, "encode_data", lambda: (graph(),)),
    (Autoencoder, "decode", tensors),
    (OnlyEncodes, "encode", tensors),
    (lambda: gnn.GAE(Encoder()), "encode", tensors),
    (lambda: gnn.DeepGraphInfomax(16, Encoder(), lambda z, *_: z.mean(0), lambda x, e: (x, e)), "encoder", tensors),
]


@pytest.mark.parametrize(("make", "method", "call"), only(METHODS[:2], METHODS))
def test_a_method_is_traced_masked_and_pruned(make, method, call):
    model, arguments = make().eval(), call()
    options = {"method": method, "example_inputs": arguments}
    if method not in dir(type(model)):  # a submodule is no method
        with pytest.raises(upscale_fx.InputError, match="has no method 'encoder' to trace"):
            upscale_fx.trace(model, arguments, method=method)
        return
    assert_same(getattr(model, method)(*arguments), upscale_fx.trace(model, arguments, method=method)(*arguments))
    masked, pruned = upscale_fx.mask(model, 0.5, **options), upscale_fx.prune(model, 0.5, **options)
    assert type(masked) is type(model)
    assert "forward" not in vars(masked)
    expected = getattr(masked, method)(*arguments)
    for compiled in (pruned, upscale_fx.compact(masked, **options), pickle.loads(pickle.dumps(pruned))):
        assert_same(expected, compiled(*arguments))
    assert upscale_fx.verify(masked, pruned, arguments) < 1e-10
    assert "first" in str(upscale_fx.diff(model, pruned))
    assert sum(p.numel() for p in pruned.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())


def test_keyword_arguments_of_a_method():
    model, (x, edges) = Autoencoder().eval(), tensors()
    pairs = torch.randint(30, (2, 20))
    pruned = upscale_fx.prune(
        model, 0.5, example_inputs=(x, edges), example_kwargs={"pairs": pairs}, method="score", inputs=True
    )
    masked = upscale_fx.mask(
        model, 0.5, example_inputs=(x, edges), example_kwargs={"pairs": pairs}, method="score", inputs=True
    )
    assert_same(masked.score(x, edges, pairs=pairs), pruned(x, edges, pairs=pairs))


def test_examples_are_made_for_the_method():
    model, data = Autoencoder().eval(), graph()
    for method, arguments in (("encode", (data.x, data.edge_index)), ("encode_data", (data,))):
        pruned = upscale_fx.prune(model, 0.5, method=method)
        assert_same(getattr(upscale_fx.mask(model, 0.5, method=method), method)(*arguments), pruned(*arguments))


def test_training_and_sweeps_call_the_same_method():
    model, data = Autoencoder().eval(), graph()
    pruned = upscale_fx.prune(model, 0.5, method="encode_data", calibration=[data], progress=False)
    upscale_fx.finetune(pruned, [data], teacher=model, epochs=1, progress=False)

    def score(one):
        return float((one(data) if isinstance(one, torch.fx.GraphModule) else one.encode_data(data)).detach().mean())

    table = upscale_fx.sweep(
        model, [0.5], score, method="encode_data", example_inputs=(data,), timed=False, progress=False
    )
    assert len(table.rows) == 2
    assert len(upscale_fx.groups(model, method="encode"))


def test_wrong_methods_are_refused():
    with pytest.raises(upscale_fx.InputError, match=r"Autoencoder has no method 'embed'.*encode, encode_data"):
        upscale_fx.prune(Autoencoder(), 0.5, method="embed")
    with pytest.raises(upscale_fx.InputError, match=r"has no method 'forward' to trace; pass method=.*encode"):
        upscale_fx.trace(OnlyEncodes(), tensors())
    with pytest.raises(upscale_fx.InputError, match="a graph has one entry"):
        upscale_fx.prune(upscale_fx.trace(Autoencoder()), 0.5, method="encode")
