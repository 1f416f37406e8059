"""What budgets are made of: bills, predicted errors, windows, and relations that are not emptied."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import RGATConv, RGCNConv

import upscale_fx
from tests.masking.budgets import calibration, make
from tests.selection import every
from upscale_fx import Budget
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.masking.allocation.allocate import Allocation
from upscale_fx.masking.allocation.bill import Bill
from upscale_fx.masking.allocation.call_rows import rows_in_call
from upscale_fx.masking.allocation.fill import Window, choices
from upscale_fx.masking.allocation.predicted import Errors
from upscale_fx.masking.allocation.reads import Reads, WeightRows
from upscale_fx.masking.calibration_data import CalibrationData
from upscale_fx.masking.consumers.pools import shared_pools
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.masking.reconstruction.errors import ReconstructionError
from upscale_fx.masking.reconstruction.study import Study
from upscale_fx.masking.removals import plan_removals
from upscale_fx.pruning.compaction import CompactedCost

pytestmark = pytest.mark.usefixtures("double_precision")


def allocation(name, budget):
    """An allocation of a model, before it is spent, and the cost of what compaction leaves."""
    traced = upscale_fx.trace(make(name))
    flow = analyse(traced)
    found = survey(flow)
    options = MaskOptions(amount=0.0, calibration=calibration(name), progress=False)
    removals = plan_removals(found, traced, options)
    batches = CalibrationData(calibration(name), None, traced)
    study = Study(flow, found.consumers, [r.eligible for r in removals], batches, 0, False)
    study.observe()
    squared = [r.consumer.weight(traced).square().sum(dim=0).numpy() for r in removals]
    rows = rows_in_call(flow, next(iter(batches)))
    own = Allocation(study, removals, shared_pools(removals, squared, partly=True), budget, 1e-4, rows)
    return own, CompactedCost(traced)


@pytest.mark.parametrize("unit", ["params", "bytes", "macs"])
@pytest.mark.parametrize("name", every(3, ["gcn", "sage", "gatv2", "transformer", "jknet", "residual", "mlp"]))
def test_the_bill_is_what_compaction_leaves(name, unit):
    """Of sets in which every consumer keeps half of the slots, not the same as its neighbours."""
    own, measured = allocation(name, Budget(**{unit: 0.5}))
    reads = own.reads()
    bill = own.bill(reads)
    draw = np.random.default_rng(0)
    alive = draw.random(len(reads.slot)) < 0.5
    for consumer in np.unique(reads.consumer):
        alive[np.flatnonzero(reads.consumer == consumer)[0]] = True
    dense, left = (
        measured(own.consumers, reads.removed(kept, own.consumers), own.rows).of(unit) for kept in (reads.all, alive)
    )
    near = 0.1 if name == "residual" else 0.02  # its layers read a few channels more, which is cheaper than copies
    assert dense - left == pytest.approx(bill.cost(reads.all) - bill.cost(alive), rel=near)


def test_the_predicted_error_is_that_of_the_best_weights():
    draw = np.random.default_rng(0)
    x, weight = draw.standard_normal((40, 6)), draw.standard_normal((6, 3))
    gram = x.T @ x
    units = np.arange(6)
    error = ReconstructionError(gram, gram, weight, 2.0, units, units[:, None], np.array([20, 21, 22]), 0)
    rows = WeightRows(np.array([6]), np.array([1]), np.array([1]), np.array([6]), np.array([0]))
    slots = [[i] for i in range(6)] + [[21]]
    reads = Reads(
        [[(1, i)] for i in range(6)] + [[(2, 0)]], np.arange(7), np.array([1] * 6 + [2]), np.ones(7, dtype=np.int64),
        slots, np.ones(7, dtype=bool), np.zeros(3), rows,
    )  # fmt: skip
    errors = Errors(reads, [error], [{1}], np.array([0.0] * 6 + [0.25]))
    alive = np.array([True, False, True, True, False, True, True])

    def best(outputs):
        wanted = (x @ weight)[:, outputs]
        return np.square(x[:, alive[:6]] @ np.linalg.lstsq(x[:, alive[:6]], wanted, rcond=None)[0] - wanted).sum()

    assert errors.predicted(alive, np.array([False])) == pytest.approx(best([0, 1, 2]) / 2)
    assert errors.predicted(alive, np.array([True])) == pytest.approx(best([0, 2]) / 2)
    assert errors.predicted(np.arange(7) < 6, np.array([False])) == pytest.approx(0.25)


def test_both_ways_past_a_large_step():
    """Reads cost 1, 1, 50, 1, 1 in the order in which they go, of 54: 10 to 11 cannot be had, 50 to 51 can."""
    sizes = np.array([1, 1, 50, 1, 1])
    none = np.empty(0, dtype=np.int64)
    reads = Reads(
        [[(0, i)] for i in range(5)], np.arange(5), np.zeros(5, dtype=np.int64), sizes, [[i] for i in range(5)],
        np.zeros(5, dtype=bool), np.zeros(1), WeightRows(none, none, none, none, none),
    )  # fmt: skip
    bill = Bill(reads, np.zeros(1), np.ones(1), np.zeros(1), np.zeros(5))
    order = [[0], [1], [2], [3], [4]]
    assert [alive.tolist() for alive in choices(bill, order, Window(10, 11))] == [[True, True, False, True, True]]
    assert [alive.tolist() for alive in choices(bill, order, Window(50, 51))] == [
        [True, True, False, True, True], [False, False, True, False, True],
    ]  # fmt: skip


class Relations(nn.Module):
    """Layers of a weight per relation, the first on raw features; with attention the same weight is used twice."""

    def __init__(self, attention):
        super().__init__()
        torch.manual_seed(0)
        if attention:
            self.first, self.second = nn.Linear(16, 32), RGATConv(32, 32, 3)
        else:
            self.first, self.second = RGCNConv(16, 32, 3), RGCNConv(32, 32, 3)
        self.last = nn.Linear(32, 8)

    def forward(self, x, edge_index, edge_type):
        x = self.first(x) if isinstance(self.first, nn.Linear) else self.first(x, edge_index, edge_type)
        return self.last(self.second(x.relu(), edge_index, edge_type).relu())


@pytest.mark.parametrize("share", [0.25, 0.4])
@pytest.mark.parametrize("attention", [False, True])
def test_relations_are_not_emptied(attention, share):
    draw = torch.Generator().manual_seed(0)
    given = (
        torch.randn(300, 16, generator=draw),
        torch.randint(300, (2, 1200), generator=draw),
        torch.randint(3, (1200,), generator=draw),
    )
    model = Relations(attention).eval()
    compiled = upscale_fx.prune(model, budget=Budget(params=share), calibration=given, example_inputs=given)
    left = sum(p.numel() for p in compiled.parameters()) / sum(p.numel() for p in model.parameters())
    assert 0.95 * share <= left <= 1.02 * share
