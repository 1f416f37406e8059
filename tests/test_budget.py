"""Budgets: what is left costs what was asked, wherever channels are fine enough, and errs less than uniform amounts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, HeteroConv, RGATConv, RGCNConv, SAGEConv

import upscale_fx
from upscale_fx import Budget
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.analysis.row_symbols import rows_of_symbol
from upscale_fx.errors import AmountError, PatternError
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
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN, ViG
from upscale_fx.pruning.compaction import CompactedCost

WIDTH, NODES = 12, 400

pytestmark = pytest.mark.usefixtures("double_precision")


def graph(width=WIDTH, nodes=NODES, seed=0):
    """Features on few directions, so that channels differ in worth, and edges."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, 6, generator=draw) @ torch.randn(6, width, generator=draw)
    return x + 0.1 * torch.randn(nodes, width, generator=draw), torch.randint(nodes, (2, 5 * nodes), generator=draw)


class Stack(nn.Module):
    """Layers with relu between them; a residual stream or layer norms, if asked."""

    def __init__(self, layers, residual=False, norm=False):
        super().__init__()
        self.layers, self.residual = nn.ModuleList(layers), residual
        self.norms = nn.ModuleList(nn.LayerNorm(layer.out_channels) for layer in layers[:-1]) if norm else None

    def run(self, x, *graph):
        for number, layer in enumerate(self.layers[:-1]):
            new = layer(x, *graph) if graph else layer(x)
            new = new if self.norms is None else self.norms[number](new)
            x = x + new.relu() if self.residual and number else new.relu()
        return self.layers[-1](x, *graph) if graph else self.layers[-1](x)

    def forward(self, x, edge_index):
        return self.run(x, edge_index)


class Relational(Stack):
    def forward(self, x, edge_index, edge_type):
        return self.run(x, edge_index, edge_type)


class Perceptron(Stack):
    def forward(self, x):
        return self.run(x)


def gat(hidden):
    return Stack([GATConv(WIDTH, hidden // 4, heads=4), GATConv(hidden, hidden // 4, heads=4), GATConv(hidden, 5)])


def residual(hidden):
    return Stack([GCNConv(WIDTH, hidden), GCNConv(hidden, hidden), GCNConv(hidden, hidden), GCNConv(hidden, 5)], True)


def relational(hidden):
    return Relational([RGCNConv(WIDTH, hidden, 3), RGCNConv(hidden, hidden, 3, num_bases=2), RGCNConv(hidden, 5, 3)])


def perceptron(hidden):
    return Perceptron([nn.Linear(WIDTH, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 5)])


#: Models of a hidden width, and the number of heads, whose channels go together.
MODELS = {
    "gcn": (lambda hidden: SimpleGCN(WIDTH, hidden, 5), 1),
    "sage": (lambda hidden: SAGE(WIDTH, hidden, 5), 1),
    "gatv2": (lambda hidden: GATv2(WIDTH, hidden, 5), 4),
    "transformer": (lambda hidden: GraphTransformer(WIDTH, hidden, 5), 4),
    "jknet": (lambda hidden: JKNet(WIDTH, hidden, 5), 1),
    "gat": (gat, 4),
    "residual": (residual, 1),
    "rgcn": (relational, 1),
    "mlp": (perceptron, 1),
}


def make(name, hidden=48, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name][0](hidden).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(0, 0.2)
    return model


def calibration(name):
    x, edge_index = graph()
    edge_type = torch.randint(3, (edge_index.shape[1],), generator=torch.Generator().manual_seed(1))
    return {"mlp": (x,), "rgcn": (x, edge_index, edge_type)}.get(name, (x, edge_index))


def count(model):
    return sum(p.numel() for p in model.parameters())


def held_bytes(model):
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())


def pruned(name, hidden=48, **options):
    return upscale_fx.prune(make(name, hidden), calibration=calibration(name), progress=False, **options)


def one_step(name, hidden=48, size=count):
    """What one channel of every head costs at most: in all layers at once, at full width."""
    heads = MODELS[name][1]
    return size(make(name, hidden)) - size(make(name, hidden - heads))


# What is left -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sharing", "share"), [("auto", 0.5), ("auto", 0.25), ("always", 0.25), ("never", 0.25)])
@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_budget(name, sharing, share):
    target = share * count(make(name))
    left = count(pruned(name, budget=Budget(params=share, sharing=sharing)))
    assert abs(left - target) <= max(0.02 * target, one_step(name))
    assert left <= 1.02 * target


@pytest.mark.parametrize("name", ["gcn", "sage", "jknet", "rgcn", "mlp"])
def test_where_channels_are_fine_a_budget_is_met_within_two_percent(name):
    target = 0.3 * count(make(name, 80))
    assert count(pruned(name, 80, budget=Budget(params=0.3))) == pytest.approx(target, rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_of_the_budget(name):
    dense = held_bytes(make(name))
    left = held_bytes(pruned(name, budget=Budget(bytes=0.4)))
    assert 0.4 * dense - max(0.008 * dense, one_step(name, size=held_bytes)) <= left <= 0.4 * 1.02 * dense


@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_those_of_the_budget(name):
    """Counted in the report's own units on the calibration graph."""
    x, edge_index = graph()
    rows = {"N": float(len(x)), "E": float(edge_index.shape[1])}
    dense, left = (
        sum(macs * rows_of_symbol(symbol, rows) for symbol, macs in size.macs.items())
        for report in [upscale_fx.report(pruned(name, budget=Budget(macs=0.4)))]
        for size in (report.before, report.after)
    )
    step = dense * one_step(name) / count(make(name))
    assert 0.4 * dense - max(0.008 * dense, 1.5 * step) <= left <= 0.4 * 1.02 * dense


def test_numbers_are_shares_or_absolute():
    dense = count(make("sage"))
    assert count(pruned("sage", budget=Budget(params=dense // 4))) == count(
        pruned("sage", budget=Budget(params=dense // 4 / dense))
    )


@pytest.mark.parametrize(("symbols", "expected"), [
    ("N", 10), ("E+N", 40), ("B*N", 20), ("2N", 20), ("N+1", 11), ("*", None), ("call", 1), ("7B*3N", 420),
])  # fmt: skip
def test_rows_of_symbols(symbols, expected):
    assert rows_of_symbol(symbols, {"N": 10, "E": 30, "B": 2}) == expected


@pytest.mark.parametrize("share", [1, 1.0, 10**9])
def test_a_budget_that_the_dense_model_keeps_takes_nothing(share):
    compiled = pruned("sage", budget=Budget(params=share))
    assert count(compiled) == count(make("sage"))
    assert upscale_fx.verify(make("sage"), compiled, calibration("sage")) <= 1e-10


@pytest.mark.parametrize("sharing", ["auto", "always", "never"])
def test_the_least_possible_cost_is_told_and_can_be_had(sharing):
    with pytest.raises(AmountError, match="cannot be met: with one channel left everywhere") as told:
        pruned("sage", budget=Budget(params=0.001, sharing=sharing))
    least = int(str(told.value).split("still costs ")[1].split(" params")[0].replace(",", ""))
    assert count(pruned("sage", budget=Budget(params=least, sharing=sharing))) <= 1.02 * least
    with pytest.raises(AmountError, match="cannot be met"):
        pruned("sage", budget=Budget(params=0.9 * least, sharing=sharing))


def test_constrained_is_sharing_always():
    always, constrained = (
        pruned("sage", **options)
        for options in ({"budget": Budget(params=0.3, sharing="always")},
                        {"budget": Budget(params=0.3), "constrained": True})
    )  # fmt: skip
    for name, value in always.state_dict().items():
        assert torch.equal(value, constrained.state_dict()[name])


def test_sharing_always_gives_all_readers_one_set():
    masked = upscale_fx.mask(
        make("sage"), budget=Budget(params=0.3, sharing="always"), calibration=calibration("sage"), progress=False
    )
    for conv in list(masked.convs)[1:]:
        left, right = ((layer.weight != 0).any(dim=0) for layer in (conv.lin_l, conv.lin_r))
        assert torch.equal(left, right)


def test_what_is_ignored_keeps_everything():
    ignored = pruned("sage", budget=Budget(params=0.6), ignore="convs.1.lin_l")
    assert [e.asked for e in upscale_fx.report(ignored).entries if e.name == "convs.1.lin_l"] == [0]
    assert count(ignored) == pytest.approx(0.6 * count(make("sage")), rel=0.03)


def test_raw_features_go_too_where_they_may():
    with pytest.raises(AmountError, match="inputs=True"):
        pruned("gcn", 16, budget=Budget(params=0.03))
    compiled = pruned("gcn", 16, budget=Budget(params=0.03), inputs=True)
    assert count(compiled) <= 0.03 * 1.02 * count(make("gcn", 16))


@pytest.mark.parametrize("unit", ["params", "bytes"])
def test_without_calibration_magnitudes_decide(unit):
    compiled = upscale_fx.prune(make("sage"), budget=Budget(**{unit: 0.3}))
    assert count(compiled) == pytest.approx(0.3 * count(make("sage")), rel=0.03)


def test_a_stream_of_batches():
    batches = [graph(seed=seed) for seed in range(3)]
    model = make("sage")
    compiled = upscale_fx.prune(model, budget=Budget(params=0.3), calibration=iter(batches), progress=False)
    assert count(compiled) == pytest.approx(0.3 * count(model), rel=0.02)


def test_layer_norms_hold_their_channels():
    torch.manual_seed(0)
    model = Stack([SAGEConv(WIDTH, 48), SAGEConv(48, 48), SAGEConv(48, 5)], norm=True).eval()
    compiled = upscale_fx.prune(model, budget=Budget(params=0.7), calibration=graph(), progress=False)
    assert count(compiled) == pytest.approx(0.7 * count(model), rel=0.02)
    with pytest.raises(AmountError, match=r"still costs [\d,]+ params of") as told:
        upscale_fx.prune(model, budget=Budget(params=0.1), calibration=graph(), progress=False)
    least = int(str(told.value).split("still costs ")[1].split(" params")[0].replace(",", ""))
    assert least > 48 * WIDTH  # the first layer stays whole


class Heterogeneous(nn.Module):
    def __init__(self):
        super().__init__()
        relations = [("user", "buys", "item"), ("item", "bought", "user"), ("user", "knows", "user")]
        widths = {"user": 6, "item": 9}
        self.first = HeteroConv({r: SAGEConv((widths[r[0]], widths[r[2]]), 40) for r in relations})
        self.second = HeteroConv({r: SAGEConv(40, 4) for r in relations})

    def forward(self, x, edges):
        x = {kind: value.relu() for kind, value in self.first(x, edges).items()}
        return self.second(x, edges)["item"]


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_heterogeneous_models(unit):
    torch.manual_seed(0)
    model = Heterogeneous().eval()
    kinds = {"user": 200, "item": 300}
    x = {"user": torch.randn(200, 6), "item": torch.randn(300, 9)}
    edges = {
        r: torch.stack([torch.randint(kinds[r[0]], (900,)), torch.randint(kinds[r[2]], (900,))])
        for r in [("user", "buys", "item"), ("item", "bought", "user"), ("user", "knows", "user")]
    }
    compiled = upscale_fx.prune(
        model, budget=Budget(**{unit: 0.5}), calibration=(x, edges), example_inputs=(x, edges), progress=False
    )
    report = upscale_fx.report(compiled)
    if unit == "params":
        assert report.after.parameters == pytest.approx(0.5 * report.before.parameters, rel=0.03)
    assert count(compiled) < 0.6 * count(model)


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_vision_gnn(unit):
    torch.manual_seed(0)
    model = ViG(7, width=24, depth=2, neighbours=4, image=16).eval()
    images = torch.randn(120, 3, 16, 16)
    compiled = upscale_fx.prune(
        model, budget=Budget(**{unit: 0.6}), calibration=(images,), example_inputs=(images[:2],), progress=False
    )
    size = upscale_fx.report(compiled)
    before, after = (
        s.parameters if unit == "params" else sum(n * rows_of_symbol(k, {"B": 120}) for k, n in s.macs.items())
        for s in (size.before, size.after)
    )
    assert after == pytest.approx(0.6 * before, rel=0.03)


# Exact, the same every time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sharing"), [
    ("gcn", "auto"), ("sage", "auto"), ("sage", "always"), ("sage", "never"), ("gatv2", "auto"),
    ("transformer", "never"), ("jknet", "auto"), ("residual", "auto"), ("gat", "auto"), ("rgcn", "auto"),
])  # fmt: skip
def test_pruned_is_exactly_masked(name, sharing):
    options = {"budget": Budget(params=0.3, sharing=sharing), "calibration": calibration(name), "progress": False}
    masked, compiled = (f(make(name), **options) for f in (upscale_fx.mask, upscale_fx.prune))
    assert upscale_fx.verify(masked, compiled, calibration(name)) <= 1e-10
    again = upscale_fx.prune(make(name), **options).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in compiled.state_dict().items())


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "kind", "says"), [
    ({"amount": 0.5}, AmountError, "one of amount, budget"),
    ({"evaluate": lambda model: 1.0, "max_drop": 0.1}, AmountError, "one of amount, budget"),
    ({"criterion": "lasso"}, PatternError, "spent by reconstruction errors"),
    ({"criterion": "l1"}, PatternError, "spent by reconstruction errors"),
    ({"scope": "global"}, PatternError, "leave scope and round_to out"),
    ({"round_to": 8}, PatternError, "leave scope and round_to out"),
    ({"steps": 3}, PatternError, "steps and budget"),
])  # fmt: skip
def test_what_a_budget_does_not_go_with(options, kind, says):
    with pytest.raises(kind, match=says):
        pruned("gcn", 16, budget=Budget(params=0.5), **options)


@pytest.mark.parametrize("arguments", [
    {}, {"macs": 0.5, "params": 0.5}, {"params": 0}, {"params": -1}, {"params": True}, {"params": "1"},
    {"params": float("nan")}, {"params": float("inf")}, {"params": 0.5, "sharing": "sometimes"},
])  # fmt: skip
def test_what_a_budget_may_not_be(arguments):
    with pytest.raises(AmountError, match="Budget"):
        Budget(**arguments)


def test_a_budget_is_a_budget():
    with pytest.raises(AmountError, match=r"budget takes a upscale_fx\.Budget"):
        pruned("gcn", 16, budget=0.5)


def test_multiply_adds_need_a_call():
    with pytest.raises(PatternError, match=r"Budget\(macs=\.\.\.\) counts the multiply-adds of a call"):
        upscale_fx.prune(make("gcn", 16), budget=Budget(macs=0.5))


# Errors of outputs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """Models that have learned for a while, with their dense logits."""
    found = {}
    for name in ("gcn", "sage", "gatv2", "transformer", "jknet", "residual"):
        torch.manual_seed(0)
        model = MODELS[name][0](32).double()
        x, edge_index = (value.double() if value.is_floating_point() else value for value in graph())
        classes = (x[:, :3].square().sum(dim=1) * 0.3 + x[edge_index[0]][:NODES, 3].tanh()).long().clamp(0, 4)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x, edge_index), classes).backward()
            optimizer.step()
        found[name] = model.eval()
    return found


@pytest.mark.parametrize("pure", [{"constrained": False}, {"constrained": True}], ids=["alone", "shared"])
@pytest.mark.parametrize("amount", [0.5, 0.7])
def test_outputs_err_less_than_with_the_same_amount_everywhere(amount, pure, trained):
    """At the parameters that uniform amounts leave, on the mean over models; shared sets are a tie at times."""
    x, edge_index = graph()
    errors = []
    for model in trained.values():
        options = {"calibration": (x, edge_index), "progress": False}
        uniform = upscale_fx.prune(model, amount, **pure, **options)
        spent = upscale_fx.prune(model, budget=Budget(params=count(uniform)), **options)
        assert count(spent) <= 1.02 * count(uniform)
        with torch.no_grad():
            dense = model(x, edge_index)
            spread = (dense - dense.mean(dim=0)).norm()
            errors.append([float((found(x, edge_index) - dense).norm() / spread) for found in (uniform, spent)])
    by_uniform, by_budget = np.mean(errors, axis=0)
    print(f"amount {amount}, {pure}: uniform {by_uniform:.4f}, budget {by_budget:.4f}")
    assert by_budget < by_uniform * (1.05 if pure["constrained"] else 1.0)


def test_small_steps_make_up_for_large_ones():
    """A channel of the first layer costs a sixth of the budget: the rest of it is spent on the layers after it."""
    torch.manual_seed(0)
    model = SAGE(400, 32, 5).eval()
    x, edge_index = graph(400)
    compiled = upscale_fx.prune(model, budget=Budget(params=0.17), calibration=(x, edge_index), progress=False)
    assert count(compiled) == pytest.approx(0.17 * count(model), rel=0.02)
    kept = {entry.name: entry.kept for entry in upscale_fx.report(compiled).entries}
    assert all(kept[f"convs.{layer}.lin_{side}"] >= 4 for layer in (1, 2) for side in "lr")


# Parts ----------------------------------------------------------------------------------------------------------------


def allocation(name, budget):
    """An allocation of a model, before it is spent, and the cost of what compaction leaves."""
    traced = upscale_fx.trace(make(name))
    flow = analyse(traced)
    found = survey(flow)
    options = MaskOptions(0.0, calibration=calibration(name), progress=False)
    removals = plan_removals(found, traced, options)
    batches = CalibrationData(calibration(name), None, traced)
    study = Study(flow, found.consumers, [r.eligible for r in removals], batches, 0, False)
    study.observe()
    squared = [r.consumer.weight(traced).square().sum(dim=0).numpy() for r in removals]
    rows = rows_in_call(flow, next(iter(batches)))
    own = Allocation(study, removals, shared_pools(removals, squared, partly=True), budget, 1e-4, rows)
    return own, CompactedCost(traced)


@pytest.mark.parametrize("unit", ["params", "bytes", "macs"])
@pytest.mark.parametrize("name", ["gcn", "sage", "gatv2", "transformer", "jknet", "residual", "mlp"])
def test_the_bill_is_what_compaction_leaves(name, unit):
    """Of sets in which every consumer keeps half of the slots, not the same as its neighbours."""
    own, measured = allocation(name, Budget(**{unit: 0.5}))
    reads = own._reads()
    bill = own._bill(reads)
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
