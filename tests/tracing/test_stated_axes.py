"""``dynamic_axes`` and ``indices``: what users say of axes and integers counts, and is checked against the example."""

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.comparison import assert_same, assert_same_outputs, parameters
from tests.selection import every
from tests.tracing import object_models as objects
from tests.tracing.axis_models import FirstRows, Two, TypedLinks, edges, normal
from tests.tracing.index_models import Columns, Table, graph, numbers
from upscale_fx import InputError

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")


class Sets(nn.Module):
    """Sets of equal size ``[S, K, F]``: nothing tells that K counts, or that it does not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, sets):
        return self.b(self.a(sets).relu().mean(1))


class Members(nn.Module):
    """Groups of nodes: ``member[i]`` is the node, ``group[i]`` the row of ``y`` it is added to."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x, y, member, group):
        h, k = self.a(x).relu(), self.b(y).relu()
        return self.c(k.index_add(0, group, h[member]))


class NodesInTheMiddle(nn.Module):
    """``[B, N, T, F]``, without edges that would tell the nodes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6 * 5, 12), nn.Linear(12, 2)

    def forward(self, x):
        h = self.a(x.flatten(2)).relu()
        return self.b(h - h.mean(1, keepdim=True))


def members(n, m, q):
    g = torch.Generator().manual_seed(n)
    return normal(g, n, 6), normal(g, m, 4), numbers(q, below=n, g=g), numbers(q, below=m, g=g)


def pairs(n, q):
    g = torch.Generator().manual_seed(n)
    return *graph(n, g), numbers(q, 2, below=n, g=g)


def two(n, m):
    g = torch.Generator().manual_seed(n)
    return normal(g, n, 6), edges(g, n, 3 * n), normal(g, m, 6), edges(g, m, 2 * m)


def links(n, m):
    g = torch.Generator().manual_seed(n)
    ends = {("user", "buys", "item"): edges(g, n, 90, m), ("item", "bought_by", "user"): edges(g, m, 80, n)}
    return {"user": normal(g, n, 6), "item": normal(g, m, 4)}, ends, edges(g, min(n, m), 25)


def drawn(*size):
    return normal(torch.Generator().manual_seed(sum(size)), *size)


SAID = {
    "pairs": (Columns, pairs(60, 20), {"dynamic_axes": {"query_edges": {0: "Q"}}, "indices": {"query_edges": "N"}},
              [pairs(100, 7), pairs(9, 3)]),
    "axes as a list": (Columns, pairs(60, 60), {"dynamic_axes": {"query_edges": [0]}}, [pairs(100, 7)]),
    "axes by place": (Columns, pairs(60, 60), {"dynamic_axes": {"query_edges": ("Q", None)}}, [pairs(100, 7)]),
    "Dim of torch.export": (Columns, pairs(60, 60),
                            {"dynamic_axes": {"x": {0: Dim("n")}, "query_edges": {0: Dim("q")}},
                             "indices": {"query_edges": "n"}}, [pairs(100, 7)]),
    "own names": (Members, members(50, 20, 31),
                  {"dynamic_axes": {"x": {0: "people"}, "y": {0: "clubs"}, "member": {0: "m"}, "group": {0: "m"}},
                   "indices": {"member": "people", "group": "clubs"}}, [members(20, 50, 9), members(8, 8, 8)]),
    "equal numbers apart": (Two, two(40, 40),
                            {"dynamic_axes": {"x": {0: "N"}, "x2": {0: "M"}}, "indices": {"edge_index2": "M"}},
                            [two(40, 20), two(9, 70)]),
    "fixed sets": (Sets, (drawn(30, 5, 6),), {"dynamic_axes": {"sets": {0: "S"}}}, [(drawn(12, 5, 6),)]),
    "sets of any size": (Sets, (drawn(30, 5, 6),), {"dynamic_axes": {"sets": {0: "S", 1: "K"}}},
                         [(drawn(12, 9, 6),)]),
    "negative axes": (NodesInTheMiddle, (drawn(4, 20, 5, 6),), {"dynamic_axes": {"x": {0: "B", -3: "N"}}},
                      [(drawn(2, 33, 5, 6),)]),
    "two types": (TypedLinks, links(40, 30),
                  {"dynamic_axes": {"x_dict": {"user": {0: "U"}, "item": {0: "I"}}},
                   "indices": {"edge_label_index": ("U", "I")}}, [links(20, 50), links(50, 9)]),
    "types by their names": (TypedLinks, links(40, 30), {"indices": {"edge_label_index": ("user", "item")}},
                             [links(20, 50)]),
}  # fmt: skip


@pytest.mark.parametrize("name", every(6, SAID))
def test_what_is_said_counts(name):
    make, example, options, calls = SAID[name]
    model = make().eval()
    traced = upscale_fx.trace(model, example, **options)
    assert_same_outputs(model, traced, [example, *calls])
    masked = upscale_fx.mask(model, 0.5, example_inputs=example, inputs=True, **options)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=example, inputs=True, **options)
    assert_same_outputs(masked, compiled, [example, *calls])
    assert parameters(compiled) < parameters(model)
    assert upscale_fx.verify(masked, compiled, example) < 1e-10


def test_an_axis_that_is_not_named_has_the_size_of_the_example():
    traced = upscale_fx.trace(Sets().eval(), (drawn(30, 5, 6),), dynamic_axes={"sets": {0: "S"}})
    with pytest.raises(InputError, match=r"\[12, 4, 6\], expected \[any, 5, 6\]"):
        traced(drawn(12, 4, 6))


def test_categories_are_said_by_none():
    g = torch.Generator().manual_seed(0)
    x, near = graph(30, g)[0], numbers(30, 4, below=30, g=g)
    traced = upscale_fx.trace(Table().eval(), (x, near % 5), indices={"neighbours": None})
    assert traced(x, near).shape == (30, 3)


@pytest.mark.parametrize(
    "call",
    [
        upscale_fx.trace,
        lambda m, **o: upscale_fx.mask(m, 0.5, **o),
        lambda m, **o: upscale_fx.prune(m, 0.5, **o),
        upscale_fx.compact,
        upscale_fx.optimize,
        upscale_fx.groups,
        lambda m, **o: upscale_fx.sweep(m, [0.5], lambda _: 1.0, timed=False, progress=False, **o),
    ],
    ids=["trace", "mask", "prune", "compact", "optimize", "groups", "sweep"],
)
def test_every_call_takes_both_and_checks_them(call):
    model, example = Columns().eval(), pairs(60, 20)
    call(model, example_inputs=example, dynamic_axes={"query_edges": {0: "Q"}}, indices={"query_edges": "N"})
    with pytest.raises(InputError, match=r"dynamic_axes names 'pairs', but .* it has 'x', 'edge_index', 'query_edges'"):
        call(model, example_inputs=example, dynamic_axes={"pairs": {0: "Q"}})


WRONG = {
    "no dictionary": ({"dynamic_axes": [0]}, r"dynamic_axes is a dictionary by argument name"),
    "no argument": ({"indices": {"pairs": "N"}}, r"indices names 'pairs'"),
    "no axis": ({"dynamic_axes": {"x": {2: "N"}}}, r"names axis 2, but 'x' has shape \[60, 6\]"),
    "no number": ({"dynamic_axes": {"x": {"0": "N"}}}, r"names axis '0', but 'x' has shape"),
    "no name": ({"dynamic_axes": {"x": {0: 60}}}, r"names axis 0 60; a name is a string"),
    "no names": ({"dynamic_axes": {"x": "N"}}, r"gives axes their names"),
    "two sizes": ({"dynamic_axes": {"x": {0: "N"}, "query_edges": {0: "N"}}},
                  r"axis 0 of 'x' and axis 0 of 'query_edges' both 'N', .* 60 and 20 rows"),
    "no rows": ({"indices": {"query_edges": "M"}}, r"'M', but no rows have this name; there are 'N', 'E'"),
    "features": ({"indices": {"x": "N"}}, r"'x' has no integers that could number rows"),
    "too few rows": ({"dynamic_axes": {"query_edges": {0: "Q"}}, "indices": {"query_edges": "Q"}},
                     r"'Q', which has 20 rows in the example, but 'query_edges' holds 5\d"),
    "three names": ({"indices": {"query_edges": ("N", "N", "N")}}, r"one name of rows, or two"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_the_example_is_refused(name):
    options, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        upscale_fx.prune(Columns().eval(), 0.5, example_inputs=pairs(60, 20), **options)


def test_examples_are_needed_and_a_graph_takes_nothing():
    model = Columns().eval()
    with pytest.raises(InputError, match="dynamic_axes and indices describe example inputs"):
        upscale_fx.prune(GCNConv(6, 3), 0.5, dynamic_axes={"x": {0: "N"}})
    with pytest.raises(InputError, match="for a model that is yet to be traced"):
        upscale_fx.trace(upscale_fx.trace(model, pairs(60, 20)), dynamic_axes={"x": {0: "N"}})


@pytest.mark.parametrize("said", [{"lots": {0: "N"}}, [{0: "N"}], {0: "N"}])
def test_what_is_said_of_parts_fits_the_argument(said):
    given = ({"few": drawn(5, 6), "many": drawn(9, 4)},)
    model = FirstRows().eval()
    with pytest.raises(InputError, match=r"dynamic_axes\[x_dict\].*'few', 'many'"):
        upscale_fx.trace(model, given, dynamic_axes={"x_dict": said})
    with pytest.raises(InputError, match=r"x_dict\['few'\].* has no integers"):
        upscale_fx.trace(model, given, indices={"x_dict": {"few": "N"}})


def test_calibration_data_serves_as_the_example():
    model = Columns().eval()
    compiled = upscale_fx.prune(
        model, 0.5, calibration=pairs(60, 90), dynamic_axes={"query_edges": {0: "Q"}}, indices={"query_edges": "N"}
    )
    assert compiled(*pairs(100, 7)).shape == (7,)


def test_what_is_said_counts_too_where_the_data_are_objects():
    torch.manual_seed(0)
    model, data = objects.Nodes().eval(), objects.graph()
    with pytest.raises(InputError, match="missing"):
        upscale_fx.prune(model, 0.5, calibration=data, dynamic_axes={"missing": {0: "N"}})
    fixed = upscale_fx.mask(model, 0.5, calibration=data, dynamic_axes={"x": {0: "N"}})
    free = upscale_fx.mask(model, 0.5, calibration=data)
    assert_same(free(data), fixed(data))
