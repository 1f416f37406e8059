"""Every PyG layer as its documentation calls it: traced, masked and compacted, each compared with the module itself."""

import re

import pytest
import torch

import upscale_fx
from tests.comparison import assert_same, parameters
from tests.conformance import CASES, document
from tests.conformance.case import Graph
from tests.conformance.left_out import LEFT_OUT
from tests.selection import first_of_each
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.channels.relations import Barrier
from upscale_fx.channels.rules.registry import call_of

#: The graph shown as an example, and those compared on: larger, sparser, with more graphs and targets.
EXAMPLE = Graph()
COMPARED = (Graph(23, 70, 3, 11, seed=1), Graph(40, 31, 5, 17, seed=2))


def run(model, case, graph):
    args, kwargs = case.arguments(graph)
    torch.manual_seed(3)
    with torch.no_grad():
        return model(*args, **kwargs)


def without_rule(traced):
    """Names of operations that are barriers for want of a rule."""
    flow = analyse(traced)
    relations = [(node, r) for node, r in flow.relations.items() if isinstance(r, Barrier) and "no channel" in r.reason]
    return {str(getattr(call_of(node, flow.values)[0].target, "__name__", node.target)) for node, _ in relations}


@pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")
@pytest.mark.parametrize(
    "case", first_of_each(CASES, key=lambda case: (case.module, case.expect), step=8), ids=lambda case: case.name
)
def test_layer(case):
    model, tolerance = case.make(), 1e-10 if case.dtype == torch.float64 else 1e-4
    args, kwargs = case.arguments(EXAMPLE)
    examples = {"example_inputs": args or None, "example_kwargs": kwargs or None}
    if case.expect == "refused":
        with pytest.raises(upscale_fx.TraceError, match=case.module):
            upscale_fx.trace(model, **examples)
        return
    traced = upscale_fx.trace(model, **examples)
    fused = upscale_fx.optimize(traced)
    for graph in COMPARED:
        expected = run(model, case, graph)
        assert_same(expected, run(traced, case, graph), tolerance, "traced")
        assert_same(expected, run(fused, case, graph), tolerance, "fused")
    if case.expect == "nothing":
        with pytest.raises(upscale_fx.NothingToPruneError):
            upscale_fx.mask(model, 0.5, inputs=True, **examples)
        return
    masked = upscale_fx.mask(model, 0.5, inputs=True, **examples)
    compacted = upscale_fx.compact(masked, **examples)
    for graph in COMPARED:
        assert_same(run(masked, case, graph), run(compacted, case, graph), tolerance, "compacted")
    assert parameters(compacted) < parameters(model), "nothing became smaller"
    assert without_rule(compacted) <= without_rule(traced), "compaction made operations that have no rule"


@pytest.mark.parametrize("title", document.SECTIONS)
def test_every_module_has_a_row_or_a_reason(title):
    space = document.SECTIONS[title]
    modules = {
        name
        for name in space.__all__
        if isinstance(getattr(space, name), type) and issubclass(getattr(space, name), torch.nn.Module)
    }
    covered = {case.module for case in CASES}
    assert modules - covered - set(LEFT_OUT) == set()
    assert covered & set(LEFT_OUT) == set()


def test_the_page_of_the_documentation_is_made_from_the_rows():
    """Otherwise: python -m tests.conformance.document. Versions of tabulate align headers differently."""
    stored, made = (re.sub(r"[ :-]+", " ", text) for text in (document.PAGE.read_text(), document.page()))
    assert stored == made


def test_refusals_have_reasons_and_names_are_unique():
    assert all(bool(case.why) == (case.expect == "refused") for case in CASES)
    assert len({case.name for case in CASES}) == len(CASES)
