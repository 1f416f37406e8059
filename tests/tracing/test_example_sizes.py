"""Graphs that tracing makes have what the example has; where no others fit, those of the example's size are traced."""

import pytest
import torch
from torch_geometric.data import Data

import upscale_fx
from tests.comparison import assert_pruned_exactly, assert_same_outputs, parameters
from tests.selection import every
from tests.tracing import size_models as models
from upscale_fx.errors import InputError

pytestmark = pytest.mark.usefixtures("double_precision", "seeded")

#: Model, and its arguments for a number of nodes and edges: other sizes than the example's are taken.
FORMS = {
    "pairs, view": (lambda: models.OnEdges(models.by_view), models.paired),
    "pairs, xor": (lambda: models.OnEdges(models.by_xor), models.paired),
    "pairs, steps": (lambda: models.OnEdges(models.by_steps), models.paired),
    "halves, chunk": (lambda: models.OnEdges(models.by_halves), models.halved),
    "halves, view": (lambda: models.OnEdges(models.by_two), models.halved),
    "no edge twice": (models.Diffusion, models.weighted),
    "both ways": (models.Symmetric, lambda n, e: models.weighted(n, e, both=True)),
    "chosen rows, sum": (lambda: models.Chosen(torch.add), lambda n, e: models.graph(n)),
    "chosen rows, product": (lambda: models.Chosen(torch.mul), lambda n, e: models.graph(n)),
    "chosen rows, both": (lambda: models.Chosen(lambda h, w: (h * w).relu() + w), lambda n, e: models.graph(n)),
    "chosen rows, batch": (lambda: models.Chosen(lambda h, w: h.view(8, -1, 24).sum(1) - w),
                           lambda n, e: models.graph(n)),
    "chosen rows, flat": (lambda: models.Chosen(lambda h, w: h.flatten().view(8, 24) + w),
                          lambda n, e: models.graph(n)),
}  # fmt: skip


@pytest.mark.parametrize("name", every(6, FORMS))
def test_graphs_of_the_form_of_the_example_are_made(name):
    make, call = FORMS[name]
    model, example = make().eval(), call(20, 60)
    calls = [example, call(31, 100), call(12, 44)]
    assert_pruned_exactly(model, example, calls)


def of_data():
    x, edge_index = models.graph(23)
    return (Data(x=x, edge_index=edge_index, batch_size=23),)


#: Model, its example, and what the warning says.
FIXED = {
    "batch_size, weight per node": (lambda: models.PerNode(23), lambda: (*models.graph(23), 23), "23 nodes only"),
    "batch_size of data": (lambda: models.OfData(23), of_data, "23 nodes only"),
    "hops in lists": (models.Trimmed, lambda: (*models.hops(), [4, 8, 14], [10, 16]), "26 nodes and 26 edges only"),
    "hops in two numbers": (models.Narrowed, lambda: (*models.hops(), 12, 10), "26 nodes and 26 edges only"),
    "fewer edges": (models.Narrowed, lambda: (*models.hops(), 12, 5), "26 nodes and 26 edges only"),
}


@pytest.mark.parametrize("name", every(3, FIXED))
def test_the_sizes_of_the_example_are_taken_where_no_other_fit(name):
    make, call, said = FIXED[name]
    model, example = make().eval(), call()
    with pytest.warns(upscale_fx.UpscaleWarning, match=said):
        compiled = upscale_fx.prune(model, 0.5, example_inputs=example)
    with pytest.warns(upscale_fx.UpscaleWarning, match=said):
        masked = upscale_fx.mask(model, 0.5, example_inputs=example)
    assert_same_outputs(masked, compiled, [example])
    assert parameters(compiled) < parameters(model)


def test_other_numbers_than_those_of_the_example_are_refused():
    example = (*models.hops(), [4, 8, 14], [10, 16])
    with pytest.warns(upscale_fx.UpscaleWarning, match="26 nodes"):
        traced = upscale_fx.trace(models.Trimmed().eval(), example)
    with pytest.raises(InputError, match=r"'nodes_per_hop\[1\]' was 8"):
        traced(*models.hops(), [4, 7, 15], [10, 16])
    with pytest.raises(InputError, match="26"):
        traced(torch.randn(30, models.WIDTH), *example[1:])


def test_edges_other_than_the_examples_are_read():
    """The graph is traced on one set of edges only, but its result must follow those of the call."""
    model = models.Narrowed().eval()
    with pytest.warns(upscale_fx.UpscaleWarning, match="26 nodes"):
        traced = upscale_fx.trace(model, (*models.hops(), 12, 10))
    assert_same_outputs(model, traced, [(*models.hops(), 12, 10) for _ in range(3)])
