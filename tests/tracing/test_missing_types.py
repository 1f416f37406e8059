"""Batches that lack a type of node or edge, and types in another order: as the model itself, or refused by name."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
import torch_geometric.nn as gnn
from torch import nn

import upscale_fx
from tests.comparison import assert_same
from tests.selection import only

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")

KINDS = [("a", "to", "b"), ("b", "to", "a"), ("a", "likes", "a")]


def inputs():
    """Features and edges of all types."""
    x = {"a": torch.randn(12, 8), "b": torch.randn(9, 8)}
    sizes = {key: len(value) for key, value in x.items()}
    edges = {k: torch.stack([torch.randint(sizes[k[0]], (30,)), torch.randint(sizes[k[2]], (30,))]) for k in KINDS}
    return x, edges


def without(*types):
    """Arguments that lack types of nodes, with their edges, or types of edges."""
    x, edges = inputs()
    edges = {k: v for k, v in edges.items() if k not in types and not {k[0], k[2]} & set(types)}
    return {k: v for k, v in x.items() if k not in types}, edges


class Hetero(nn.Module):
    """Layers of HeteroConv."""

    def __init__(self, aggr="sum", depth=1, layer=gnn.SAGEConv, every=False):
        super().__init__()
        widths = [8, *[16] * depth]
        more = {"add_self_loops": False} if layer is gnn.GATConv else {}
        self.layers = nn.ModuleList(
            gnn.HeteroConv({k: layer((i, i), o, **more) for k in KINDS}, aggr=aggr) for i, o in pairwise(widths)
        )
        self.head, self.every = nn.Linear(16, 3), every

    def forward(self, x_dict, edge_index_dict):
        for layer in self.layers:
            x_dict = {key: value.relu() for key, value in layer(x_dict, edge_index_dict).items()}
        return {key: self.head(value) for key, value in x_dict.items()} if self.every else self.head(x_dict["a"])


class Attending(nn.Module):
    """HGT: whether an entry is there changes a softmax over all edges."""

    def __init__(self, layer=gnn.HGTConv):
        super().__init__()
        self.layer, self.head = layer(8, 16, (["a", "b"], KINDS), 2), nn.Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        return self.head(self.layer(x_dict, edge_index_dict)["a"])


class Looped(nn.Module):
    """A loop over the types of a call."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"__".join(k): gnn.SAGEConv((8, 8), 16) for k in KINDS})
        self.head = nn.Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        out = {}
        for kind, edges in edge_index_dict.items():
            h = self.layers["__".join(kind)]((x_dict[kind[0]], x_dict[kind[2]]), edges)
            out[kind[2]] = out[kind[2]] + h if kind[2] in out else h
        return self.head(out["a"].relu())


class Homogeneous(nn.Module):
    """What ``to_hetero`` turns into a heterogeneous model."""

    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.SAGEConv((-1, -1), 16), gnn.SAGEConv((-1, -1), 3)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


def converted():
    """A model by ``to_hetero``, with its widths."""
    model = gnn.to_hetero(Homogeneous(), (["a", "b"], KINDS))
    model(*inputs())
    return model


class Rows(nn.Module):
    """All nodes, one type after the other: their order is that of the dictionary."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x_dict, edge_index_dict):
        return self.head(torch.cat([self.first(value).relu() for value in x_dict.values()]))


LACKING = [
    (Hetero, (("a", "likes", "a"),)),
    (lambda: Hetero("mean"), (("b", "to", "a"),)),
    (lambda: Hetero("max"), (("a", "likes", "a"),)),
    (lambda: Hetero("mean", 2), ("b",)),
    (lambda: Hetero("sum", 2), (("a", "likes", "a"),)),
    (lambda: Hetero("sum", 2, every=True), ("b",)),
    (lambda: Hetero("sum", 2, gnn.GATConv), (("b", "to", "a"),)),
    (lambda: Hetero("sum", 1, gnn.GraphConv, every=True), (("a", "to", "b"),)),
    (Attending, (("a", "likes", "a"),)),
    (Rows, ("b",)),
]


@pytest.mark.parametrize(("make", "types"), only(LACKING[:2], LACKING))
def test_a_batch_that_lacks_types_gives_what_the_model_gives(make, types):
    model, example, call = make().eval(), inputs(), without(*types)
    assert_same(model(*call), upscale_fx.trace(model, example)(*call))
    masked, pruned = (one(model, 0.5, example_inputs=example) for one in (upscale_fx.mask, upscale_fx.prune))
    others = [copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), upscale_fx.optimize(pruned, inference=True)]
    for graph in (pruned, *others):
        assert_same(masked(*call), graph(*call))
        assert_same(masked(*example), graph(*example))
    again = upscale_fx.prune(pruned, 0.5)
    assert_same(upscale_fx.mask(pruned, 0.5)(*call), again(*call))


def test_constants_of_a_relation_do_not_fold_where_a_batch_may_lack_it():
    model, example = Hetero("sum", 2).eval(), inputs()
    masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    with torch.no_grad():
        for layer in masked.layers[0].convs.values():
            layer.lin_l.weight[:8], layer.lin_r.weight[:8] = 0, 0  # channels that hold their bias alone
    compact = upscale_fx.compact(masked, example_inputs=example)
    for call in (example, without(("a", "likes", "a")), without("b")):
        assert_same(masked(*call), compact(*call))


REFUSED = [
    (
        Hetero,
        without("b", ("a", "likes", "a")),
        r"without edge_index_dict\[\('a', 'likes', 'a'\)\].*refused by the model",
    ),
    (converted, without(("a", "likes", "a")), r"without edge_index\[\('a', 'likes', 'a'\)\] is refused by the model"),
    (converted, without("b"), r"x\['b'\] is refused by the model itself \(ValueError"),
    (Looped, without(("a", "likes", "a")), "cannot be called without"),
    (lambda: Attending(gnn.HANConv), without(("a", "likes", "a")), "cannot be called without"),
    (Hetero, ({**inputs()[0], "c": torch.randn(3, 8)}, inputs()[1]), "has the type 'c'"),
    (Rows, (dict(reversed(inputs()[0].items())), inputs()[1]), "has its types in the order 'b', 'a'"),
    (Attending, (inputs()[0], dict(reversed(inputs()[1].items()))), "has its types in the order"),
]


@pytest.mark.parametrize(("make", "call", "message"), only(REFUSED[:2], REFUSED))
def test_what_the_model_refuses_or_does_otherwise_is_refused_by_name(make, call, message):
    call = tuple(
        {key: v.to(torch.get_default_dtype()) if v.is_floating_point() else v for key, v in one.items()} for one in call
    )
    traced = upscale_fx.trace(make().eval(), inputs())
    with pytest.raises(upscale_fx.InputError, match=message):
        traced(*call)


def test_a_combination_that_was_not_tried_is_refused():
    types = list("abcdefgh")
    kinds = [(one, "to", other) for one, other in zip(types, types[1:] + types[:1], strict=True)]
    model = gnn.HeteroConv({kind: gnn.SAGEConv((4, 4), 4) for kind in kinds}).eval()
    x = {one: torch.randn(5, 4) for one in types}
    edges = {kind: torch.randint(5, (2, 9)) for kind in kinds}
    traced = upscale_fx.trace(model, (x, edges))
    assert_same(model(x, dict(list(edges.items())[1:])), traced(x, dict(list(edges.items())[1:])))
    with pytest.raises(upscale_fx.InputError, match="was not tried when this graph was traced"):
        traced(x, dict(list(edges.items())[5:]))


@pytest.mark.parametrize(
    "make", only([Hetero], [Hetero, lambda: Hetero("mean", 2), converted, lambda: Hetero(every=True)])
)
def test_types_may_be_in_another_order(make):
    model, (x, edges) = make().eval(), inputs()
    call = dict(reversed(x.items())), dict(reversed(edges.items()))
    traced = upscale_fx.trace(model, (x, edges))
    expected, found = model(*call), traced(*call)
    assert_same(dict(sorted(expected.items())) if isinstance(expected, dict) else expected,
                dict(sorted(found.items())) if isinstance(found, dict) else found)  # fmt: skip


def test_gradients_flow_where_a_type_is_missing():
    pruned = upscale_fx.prune(Hetero().eval(), 0.5, example_inputs=inputs())
    pruned(*without(("a", "likes", "a"))).sum().backward()
    assert any(parameter.grad is not None for parameter in pruned.parameters())


def test_calibration_batches_have_all_types():
    with pytest.raises(upscale_fx.InputError, match="a calibration batch lacks"):
        upscale_fx.prune(
            Hetero(), 0.5, calibration=[inputs(), without(("a", "likes", "a"))], example_inputs=inputs(), progress=False
        )


class Scaled(torch.nn.Module):
    """Reads types from a dictionary, and a part of a tensor beside it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

    def forward(self, x_dict, weight):
        return {kind: self.last(self.first(x).relu()) for kind, x in x_dict.items()}, weight[:, 0].abs()


def test_a_part_of_a_tensor_is_no_type():
    model = Scaled().double().eval()
    x, weight = {"a": torch.randn(9, 8).double(), "b": torch.randn(7, 8).double()}, torch.randn(5, 3).double()
    compiled = upscale_fx.prune(model, 0.5, example_inputs=(x, weight))
    assert_same(upscale_fx.mask(model, 0.5, example_inputs=(x, weight))(x, weight), compiled(x, weight))
