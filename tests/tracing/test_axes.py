"""Which axes are rows: vectors, sequences, several graphs and types are compared on sizes other than the example's."""

import pytest
import torch

import upscale_fx
from tests.comparison import assert_pruned_exactly, assert_same_outputs
from tests.selection import every
from tests.tracing import axis_models as models
from tests.tracing.axis_models import WIDTH, edges, normal
from tests.tracing.call_models import CALLS, Coarse

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")

#: Nodes and edges of two graphs, or of one: the example, and three others.
SIZES = ((60, 240, 33, 99), (33, 99, 60, 240), (21, 50, 21, 70), (8, 9, 90, 5))


def scalars_and_vectors(g, n, s, v):
    return normal(g, n, s), normal(g, n, v, 3)


def typed(g, n, e, m, f):
    relations = {("user", "buys", "item"): edges(g, n, e, m), ("item", "bought_by", "user"): edges(g, m, f, n)}
    return {"user": normal(g, n, WIDTH), "item": normal(g, m, 4)}, relations, edges(g, n, 25, m)


def halves(n):
    return torch.arange(n) * 4 // n


CASES = {
    "edge vectors [E, 3, 3]": (lambda: models.EdgeVectors(3),
        lambda g, n, e, *_: (normal(g, n, WIDTH), edges(g, n, e), normal(g, e, 3, 3))),
    "edge vectors [E, 1, 3]": (lambda: models.EdgeVectors(1),
        lambda g, n, e, *_: (normal(g, n, WIDTH), edges(g, n, e), normal(g, e, 1, 3))),
    "node vectors [N, 5, 3]": (lambda: models.NodeVectors(5),
        lambda g, n, e, *_: (normal(g, n, 5, 3), edges(g, n, e))),
    "node vectors [N, 1, 3]": (lambda: models.NodeVectors(1),
        lambda g, n, e, *_: (normal(g, n, 1, 3), edges(g, n, e))),
    "scalars and vectors": (models.Geometric, lambda g, n, e, *_: (
        scalars_and_vectors(g, n, WIDTH, 3), edges(g, n, e), scalars_and_vectors(g, e, 5, 1))),
    "coordinates": (models.Coordinates,
        lambda g, n, e, *_: (normal(g, n, WIDTH), normal(g, n, 3), edges(g, n, e))),
    "[B, T, N, F] convolved": (models.Convolved,
        lambda g, n, e, *_: (normal(g, 2, 8, n, 4), edges(g, n, e))),
    "[B, F, N, T]": (models.ChannelsFirst, lambda g, n, e, *_: (normal(g, 3, 4, n, 7), edges(g, n, e))),
    "[T, N, F] in a loop": (models.Steps, lambda g, n, e, *_: (normal(g, 4, n, WIDTH), edges(g, n, e))),
    "[N, F, T]": (models.LastAxis, lambda g, n, e, *_: (normal(g, n, WIDTH, 5), edges(g, n, e))),
    "[N, T, F], T > N": (lambda: models.NodesThenTime(70),
        lambda g, n, e, *_: (normal(g, n, 70, WIDTH), edges(g, n, e))),
    "snapshots": (models.Snapshots, lambda g, n, e, m, f: (
        [normal(g, n, WIDTH) for _ in range(3)], [edges(g, n, count) for count in (e, f, e)])),
    "two graphs": (models.Two,
        lambda g, n, e, m, f: (normal(g, n, WIDTH), edges(g, n, e), normal(g, m, WIDTH), edges(g, m, f))),
    "x_s and x_t, batched": (models.PairData, lambda g, n, e, m, f: (
        normal(g, n, WIDTH), edges(g, n, e), normal(g, m, WIDTH), edges(g, m, f), halves(n), halves(m))),
    "ligand and pocket": (models.Complex,
        lambda g, n, e, m, f: (normal(g, n, WIDTH), normal(g, m, WIDTH), edges(g, n, e), edges(g, m, f))),
    "names that say nothing": (models.Unnamed,
        lambda g, n, e, m, f: (normal(g, n, WIDTH), normal(g, m, WIDTH), edges(g, n, e), edges(g, m, f))),
    "two tuples": (models.Containers,
        lambda g, n, e, m, f: ((normal(g, n, WIDTH), edges(g, n, e)), (normal(g, m, WIDTH), edges(g, m, f)))),
    "a list of three graphs": (models.Graphs, lambda g, n, e, m, f: (
        [(normal(g, k, WIDTH), edges(g, k, c)) for k, c in ((n, e), (m, f), (n + m, e))],)),
    "two lists": (models.Lists,
        lambda g, n, e, m, f: ([normal(g, n, WIDTH), normal(g, m, WIDTH)], [edges(g, n, e), edges(g, m, f)])),
    "two views": (models.Views,
        lambda g, n, e, m, f: (normal(g, n, WIDTH), edges(g, n, e), normal(g, n, WIDTH), edges(g, n, f))),
    "attention across": (models.Cross,
        lambda g, n, e, m, f: (normal(g, n, WIDTH), edges(g, n, e), normal(g, m, WIDTH), edges(g, m, f))),
    "edges with weights": (models.Relations, lambda g, n, e, m, f: (
        normal(g, n, WIDTH), [(edges(g, n, c), normal(g, c).abs()) for c in (e, f, e + f)])),
    "links of two types": (models.TypedLinks, typed),
    "links, more items": (models.TypedLinks, lambda g, n, e, m, f: typed(g, m, f, n + 40, e)),
    "few and many": (models.FirstRows,
        lambda g, n, e, m, f: ({"few": normal(g, n, WIDTH), "many": normal(g, n + m, 4)},)),
}  # fmt: skip


CASES |= {model.__name__: (model, model.call) for model in CALLS}


def arguments(call, sizes):
    return call(torch.Generator().manual_seed(sum(sizes)), *sizes)


@pytest.mark.parametrize("name", every(6, CASES))
def test_a_graph_takes_other_sizes(name):
    make, call = CASES[name]
    model, example = make().eval(), arguments(call, SIZES[0])
    calls = [arguments(call, sizes) for sizes in SIZES]
    assert_pruned_exactly(model, example, calls)


def test_clusters_are_a_kind_of_rows_that_can_be_said():
    model, example = Coarse().eval(), arguments(Coarse.call, SIZES[0])
    said = {"assign": "K", "coarse_edge_index": "K"}
    traced = upscale_fx.trace(model, example, indices=said)
    assert_same_outputs(model, traced, [arguments(Coarse.call, sizes) for sizes in SIZES])


@pytest.mark.parametrize(("name", "axis", "size"), [("[B, T, N, F] convolved", 1, 8), ("[T, N, F] in a loop", 0, 4)])
def test_the_report_names_axes_that_keep_the_size_of_the_example(name, axis, size):
    make, call = CASES[name]
    example = arguments(call, SIZES[0])
    compiled = upscale_fx.prune(make().eval(), 0.5, example_inputs=example)
    assert f"axis {axis} of 'x' is {size}, as in the example" in str(upscale_fx.report(compiled))
    longer = torch.cat([example[0], example[0]], axis)
    with pytest.raises(upscale_fx.InputError, match=rf"'x' has shape .*expected .*{size}"):
        compiled(longer, example[1])


class Stored(models.Two):
    def __init__(self):
        super().__init__()
        self.register_buffer("features", torch.randn(20, WIDTH))
        self.register_buffer("graph", torch.randint(20, (2, 50)))

    def forward(self):
        return self.b(self.features, self.graph)


@pytest.mark.parametrize("options", [{}, {"example_inputs": ()}])
def test_a_graph_stored_in_the_model_is_asked_for(options):
    for call in (upscale_fx.trace, lambda m, **o: upscale_fx.prune(m, 0.5, **o), upscale_fx.groups):
        with pytest.raises(upscale_fx.InputError, match=r"takes no arguments.*def forward\(self, features, graph\)"):
            call(Stored().eval(), **options)


class TakenApart(models.Two):
    """As many parts as there are nodes, through which no channel can be followed."""

    def forward(self, x, edge_index):
        return self.b(torch.stack(x.unbind(0)), edge_index)


def test_a_tensor_taken_apart_along_its_nodes_is_refused():
    example = arguments(lambda g, n, e, *_: (normal(g, n, WIDTH), edges(g, n, e)), SIZES[0])
    with pytest.raises(upscale_fx.TraceError, match="taken apart along its rows"):
        upscale_fx.trace(TakenApart().eval(), example)
