"""Whole models as users write them: traced, masked and compacted as they stand, each compared with the model itself."""

from collections import Counter

import pytest
import torch

import upscale_fx
from tests.comparison import assert_same, parameters
from tests.conformance.whole_models import MODELS, Sample
from tests.selection import every

#: The graph shown as an example, and those compared on: of other numbers of nodes, edges, graphs and pairs.
EXAMPLE = Sample()
COMPARED = (Sample(23, 70, 3, 11, seed=1), Sample(40, 31, 5, 17, seed=2))
HIDDEN = [row for row in MODELS if row.expect == "pruned"]


def run(model, row, graph):
    args, kwargs = row.arguments(graph)
    torch.manual_seed(3)
    with torch.no_grad():
        return model(*args, **kwargs)


def traces_all_sizes(model, row, examples):
    traced = upscale_fx.trace(model, **examples)
    for graph in COMPARED:
        run(traced, row, graph)


@pytest.mark.filterwarnings(
    "ignore::upscale_fx.UpscaleWarning",
    "ignore:Sparse CSR tensor support is in beta",
    "ignore:Sparse invariant checks are implicitly disabled",
)
@pytest.mark.parametrize("row", every(14, MODELS), ids=lambda row: row.name)
def test_a_whole_model_is_traced_and_pruned_exactly(row):
    model, tolerance = row.make(), 1e-10 if row.dtype == torch.float64 else 1e-4
    args, kwargs = row.arguments(EXAMPLE)
    examples = {"example_inputs": args or None, "example_kwargs": kwargs or None}
    if row.expect == "refused":
        with pytest.raises(upscale_fx.UpscaleError, match=row.error):
            traces_all_sizes(model, row, examples)
        return
    traced = upscale_fx.trace(model, **examples)
    for graph in COMPARED:
        assert_same(run(model, row, graph), run(traced, row, graph), tolerance, "traced")
    if row.expect == "nothing":
        with pytest.raises(upscale_fx.NothingToPruneError):
            upscale_fx.mask(model, 0.5, **examples)
        return
    masked = upscale_fx.mask(model, 0.5, **examples)
    compacted = upscale_fx.compact(masked, **examples)
    for graph in COMPARED:
        assert_same(run(masked, row, graph), run(compacted, row, graph), tolerance, "compacted")
    assert parameters(compacted) < row.below * parameters(model)


def test_there_are_as_many_models_as_promised_each_under_its_own_name():
    assert len([row for row in MODELS if row.expect != "refused"]) >= 120
    assert [name for name, count in Counter(row.name for row in MODELS).items() if count > 1] == []


def test_nearly_all_models_with_hidden_channels_get_smaller_than_four_fifths():
    """Every row is held to its ``below`` above."""
    small = [row.name for row in HIDDEN if row.below <= 0.8]
    assert len(small) >= 0.95 * len(HIDDEN), sorted({row.name for row in HIDDEN} - set(small))


def test_exceptions_and_refusals_have_reasons():
    unusual = {row.name for row in MODELS if row.expect == "refused" or row.below > 0.8}
    assert {row.name for row in MODELS if row.why} == unusual
    assert {row.name for row in MODELS if row.error} == {row.name for row in MODELS if row.expect == "refused"}
