"""The pipeline: every pass is exact, honest and idempotent; invariants are checked after each."""

import copy
import dataclasses
import functools
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager

import upscale_fx
from tests.reports.read_models import INPUTS, few_families, masked_and_traced, tiny
from upscale_fx import PassError, passes
from upscale_fx.passes import (
    ApproximateNorms,
    CastPrecision,
    CompactChannels,
    FixStatistics,
    FoldAttention,
    FoldBatchNorm,
    FoldConstants,
    FuseAttention,
    FusePropagate,
    LiftToNodes,
    MergeSums,
    Pipeline,
    Reassociate,
    RemoveDeadNodes,
    RemoveDropout,
    RemoveZeroTerms,
    ShareStructure,
    SortEdges,
    SplitStructure,
    WriteInPlace,
)

EVERY_PASS = {getattr(passes, name) for name in passes.__all__ if name not in ("Pass", "Pipeline", "check_invariants")}
#: Run only where they are asked for: eval() alone, and another precision, which is not exact.
ON_REQUEST = {FoldBatchNorm, RemoveDropout, CastPrecision}


def test_every_pass_is_listed_here():
    assert {
        RemoveDeadNodes,
        FoldAttention,
        FoldConstants,
        ApproximateNorms,
        FixStatistics,
        CompactChannels,
        RemoveZeroTerms,
        ShareStructure,
        SortEdges,
        LiftToNodes,
        FusePropagate,
        FuseAttention,
        Reassociate,
        MergeSums,
        WriteInPlace,
        SplitStructure,
        *ON_REQUEST,
    } == EVERY_PASS


@functools.cache
def applied(one, family):
    """What a pass makes of a family; shared, so not to be changed."""
    return one()(masked_and_traced(family)[1])


@pytest.mark.parametrize("one", sorted(EVERY_PASS - {CastPrecision}, key=str))
class TestEveryPass:
    def test_is_a_frozen_dataclass(self, one):
        assert dataclasses.is_dataclass(one)
        assert one() == one()
        assert hash(one()) == hash(one())
        with pytest.raises(dataclasses.FrozenInstanceError):
            one().option = 1

    def test_changes_nothing_it_is_given(self, one):
        _, traced = masked_and_traced("GATv2")
        code, state = traced.code, copy.deepcopy(traced.state_dict())
        one()(traced)
        assert traced.code == code
        assert traced.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in traced.state_dict().items())

    @few_families
    def test_is_exact_and_honest_about_what_it_modified(self, one, family):
        masked, traced = masked_and_traced(family)
        result = applied(one, family)
        assert isinstance(result, PassResult)
        assert result.modified == upscale_fx.diff(traced, result.graph_module).changed
        upscale_fx.verify(masked, result.graph_module, (INPUTS[0].double(), INPUTS[1]))

    @few_families
    def test_finds_nothing_to_do_the_second_time(self, one, family):
        first = applied(one, family).graph_module
        again = one()(first)
        changed = [row for row in upscale_fx.diff(first, again.graph_module).rows if row.change]
        assert (again.modified, changed) == (False, [])

    def test_runs_in_the_pass_manager_of_torch(self, one):
        masked, traced = masked_and_traced("SAGE")
        result = PassManager(passes=[one()])(traced)
        assert upscale_fx.verify(masked, result.graph_module, (INPUTS[0].double(), INPUTS[1])) < 1e-10


def test_all_passes_run_in_the_pass_manager_of_torch():
    masked = upscale_fx.mask(tiny(), 0.5)
    seen = []

    def keep(module):
        seen.append(module)

    manager = PassManager(
        passes=[RemoveDeadNodes(), FoldAttention(), CompactChannels(), ShareStructure()],
        run_checks_after_each_pass=True,
    )
    manager.add_checks(keep)
    result = manager(upscale_fx.trace(masked))
    assert result.modified
    assert len(seen) >= 4
    assert isinstance(result.graph_module, upscale_fx.CompiledGNN)
    assert upscale_fx.verify(masked, result.graph_module, INPUTS) < 1e-5
    assert upscale_fx.diff(result.graph_module, upscale_fx.compact(upscale_fx.mask(tiny(), 0.5))).changed is False


def test_a_callback_sees_every_pass_with_the_graph_before_and_after():
    seen = []
    compiled = upscale_fx.prune(tiny(), 0.5, approximate_norms=True, callback=lambda *event: seen.append(event))
    assert {type(one) for one, _, _ in seen} == EVERY_PASS - ON_REQUEST
    assert all(isinstance(gm, upscale_fx.CompiledGNN) for _, before, after in seen for gm in (before, after))
    assert all(after is before for (_, _, after), (_, before, _) in pairwise(seen))
    assert seen[-1][2] is compiled
    compaction, *_ = [upscale_fx.diff(before, after) for one, before, after in seen if type(one) is CompactChannels]
    assert (compaction.before.parameters, compaction.after.parameters) == (106, 63)


def test_a_callback_that_raises_stops_the_run():
    def stop(one, before, after):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_fx.compact(tiny(), callback=stop)


def test_a_pipeline_tells_whether_anything_changed():
    traced = upscale_fx.trace(upscale_fx.mask(tiny(), 0.5))
    pipeline = Pipeline([RemoveDeadNodes(), CompactChannels()])
    result = pipeline(traced)
    assert result.modified
    assert not pipeline(result.graph_module).modified
    assert Pipeline([])(traced).graph_module is traced


class _Breaks:
    """A pass that does one thing to a copy of the graph."""

    def __init__(self, damage):
        self.damage = damage

    def __call__(self, gm):
        new = copy.deepcopy(gm)
        self.damage(new)
        return PassResult(new, True)


def drop_argument(gm):
    (node,) = [node for node in gm.graph.nodes if node.target == "edge_index"]
    for user in list(node.users):
        user.replace_input_with(node, next(iter(gm.graph.nodes)))
    gm.graph.erase_node(node)


def rename_argument(gm):
    next(iter(gm.graph.nodes)).target = "features"


def add_parameter(gm):
    gm.register_parameter("extra", nn.Parameter(torch.zeros(3)))


def call_nobody(gm):
    (node,) = [node for node in gm.graph.nodes if node.op == "output"]
    with gm.graph.inserting_before(node):
        node.args = (gm.graph.create_node("call_module", "nobody", (node.args[0],)),)


def use_before_made(gm):
    *_, last, _ = gm.graph.nodes
    last.append(next(iter(last.all_input_nodes)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_argument, "arguments.*edge_index"),
        (rename_argument, "arguments.*features"),
        (add_parameter, "added parameters.*extra"),
        (call_nobody, "malformed graph.*nobody"),
        (use_before_made, "malformed graph"),
    ],
)
def test_a_pass_that_breaks_an_invariant_is_named(damage, message):
    traced = upscale_fx.trace(tiny())
    with pytest.raises(PassError, match=f"_Breaks .*{message}"):
        Pipeline([RemoveDeadNodes(), _Breaks(damage), CompactChannels()])(traced)
