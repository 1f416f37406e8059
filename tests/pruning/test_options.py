"""What can be asked for together, and how it is told: amounts, budgets, targets, steps, schemes, calibration."""

import pytest
import torch
from torch_geometric.nn import Linear, SAGEConv, to_hetero

import upscale_fx
from upscale_fx import AmountError, Budget, InputError, MaskingManager, NothingToPruneError, PatternError
from upscale_fx.criteria import OBS
from upscale_fx.models import SAGE, SimpleGCN

DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(200, 6, generator=DRAW), torch.randint(200, (2, 800), generator=DRAW)


def sage(hidden=16):
    torch.manual_seed(0)
    return SAGE(6, hidden, 3).eval()


def zero_columns(model):
    """How many input columns of each weight are zero."""
    return {name: int((p == 0).all(dim=0).sum()) for name, p in model.named_parameters() if p.dim() == 2}


@pytest.mark.parametrize(
    ("options", "error", "facts"),
    [
        ({"amount": 0.5, "budget": Budget(params=0.5)}, AmountError, "pass one of amount, budget and evaluate"),
        ({"amount": 0.5, "evaluate": len, "max_drop": 0.1}, AmountError, "pass one of"),
        ({"evaluate": len}, AmountError, "evaluate needs max_drop too"),
        ({"max_drop": 0.1}, AmountError, "max_drop needs evaluate too"),
        ({"evaluate": len, "max_drop": 0.1, "steps": 3}, AmountError, "leave them out"),
        ({"budget": 0.25}, AmountError, r"Budget\(params=0\.25\)"),
        ({"budget": Budget(params=0.5), "scope": "global"}, PatternError, "leave scope and round_to out"),
        ({"budget": Budget(params=0.5), "round_to": 4}, PatternError, "leave scope and round_to out"),
        ({"budget": Budget(params=0.5), "criterion": "l1"}, PatternError, "reconstruction errors"),
        ({"budget": Budget(macs=0.5)}, PatternError, "calibration"),
        ({"budget": Budget(params=0.5), "steps": 2}, PatternError, "steps and budget do not go together"),
        ({"amount": 0.5, "scheme": "full", "steps": 2}, PatternError, "steps and scheme do not go together"),
        ({"amount": 0.5, "refit": "no"}, PatternError, "refit must be True or False, got 'no'"),
        ({"amount": 0.5, "scheme": "half"}, PatternError, "unknown scheme 'half': choose"),
        ({"amount": 0.5, "scheme": "full", "inputs": True}, PatternError, "leave inputs out"),
        ({"amount": 0.5, "criterion": "obs"}, PatternError, r"pass calibration="),
        ({"amount": 0.5, "criterion": OBS()}, PatternError, r"pass calibration="),
        ({"amount": 0.5, "criterion": "best"}, PatternError, "with calibration= also from"),
        ({"amount": 0.5, "calibration": []}, InputError, "no batches"),
        ({"amount": 0.5, "calibration": (X[:0], EDGES[:, :0])}, InputError, "no rows"),
        ({"amount": 0.5, "between": print}, PatternError, "steps=2"),
        ({"amount": 0.5, "transform": tuple}, PatternError, "calibration"),
        ({"amount": 0.5, "seed": "a"}, PatternError, "seed must be an integer"),
    ],
)
def test_what_cannot_be_asked_for(options, error, facts):
    with pytest.raises(error, match=facts):
        upscale_fx.prune(sage(), **options)


BAD_BUDGETS = [
    {}, {"macs": 0.5, "params": 0.5}, {"params": 0}, {"params": -1.0}, {"params": float("nan")}, {"macs": "1"},
    {"bytes": True}, {"params": 0.5, "sharing": "sometimes"},
]  # fmt: skip


@pytest.mark.parametrize("given", BAD_BUDGETS)
def test_a_budget_names_one_positive_cost(given):
    with pytest.raises(AmountError, match="Budget"):
        Budget(**given)


@pytest.mark.parametrize("criterion", [None, "l2", "lasso", "activation", OBS, OBS(ridge=1e-3)])
def test_amount_keeps_its_plain_meaning(criterion):
    masked = upscale_fx.mask(sage(), 0.5, criterion=criterion, calibration=(X, EDGES))
    found = zero_columns(masked)
    assert {name: count for name, count in found.items() if "convs.0" not in name} == {
        f"convs.{k}.lin_{side}.weight": 8 for k in (1, 2) for side in "lr"
    }


def test_the_report_says_how_channels_were_chosen():
    model = sage()
    assert "chosen" not in str(upscale_fx.report(upscale_fx.prune(model, 0.5)))
    told = str(upscale_fx.report(upscale_fx.prune(model, 0.5, calibration=(X, EDGES))))
    assert "chosen      by obs, calibrated, weights that stay refitted" in told
    told = str(upscale_fx.report(upscale_fx.prune(model, budget=Budget(params=0.5), calibration=(X, EDGES))))
    assert "within Budget(params=0.5)" in told


def test_the_report_counts_inference_where_the_graph_is_known():
    compiled = upscale_fx.prune(sage(), 0.5)
    found = upscale_fx.report(compiled, degree=4, fanouts=[5, 5, 5])
    assert found.inference is not None
    assert "kMACs/node" in str(found)
    with pytest.raises(InputError, match="degree"):
        upscale_fx.report(compiled, fanouts=[5, 5, 5])


def test_steps_are_calibrated_and_end_where_one_step_does():
    model = sage(32)
    once = upscale_fx.prune(model, 0.75, calibration=(X, EDGES))
    stepped = upscale_fx.prune(model, 0.75, steps=3, calibration=iter([(X, EDGES)]))
    kept = [[entry.kept for entry in upscale_fx.report(found).entries] for found in (once, stepped)]
    assert kept[0] == kept[1]


def test_between_steps_the_model_is_trained():
    seen = []

    def train(compiled, step):
        seen.append((step, sum(p.numel() for p in compiled.parameters())))
        upscale_fx.finetune(compiled, [(X, EDGES)], teacher=model, epochs=1)

    model = sage(32)
    compiled = upscale_fx.prune(model, 0.75, steps=3, between=train, calibration=(X, EDGES))
    sizes = [size for _, size in seen]
    assert [step for step, _ in seen] == [1, 2]
    assert sizes[0] > sizes[1] > sum(p.numel() for p in compiled.parameters())


def test_a_target_is_searched_for_with_calibration():
    model = sage(32)
    with torch.no_grad():
        classes = model(X, EDGES).argmax(dim=1)

    def agreement(compiled):
        return float((compiled(X, EDGES).argmax(dim=1) == classes).float().mean())

    compiled = upscale_fx.prune(model, evaluate=agreement, max_drop=0.1, calibration=(X, EDGES), progress=False)
    trail = upscale_fx.report(compiled).trail
    assert trail is not None
    assert trail.best.score == agreement(compiled) >= 0.9
    assert "drop" in str(upscale_fx.report(compiled))


def test_schemes_choose_what_may_go():
    model = sage()
    full = zero_columns(upscale_fx.mask(model, 0.5, scheme="full"))
    assert full == zero_columns(upscale_fx.mask(model, 0.5))
    batched = zero_columns(upscale_fx.mask(model, 0.5, scheme="batched", calibration=(X, EDGES)))
    assert {name for name, count in batched.items() if count} == {"convs.0.lin_l.weight"}
    assert batched["convs.0.lin_l.weight"] == 3
    compiled = upscale_fx.prune(model, 0.5, scheme="batched", calibration=(X, EDGES))
    masked = upscale_fx.mask(model, 0.5, scheme="batched", calibration=(X, EDGES))
    assert upscale_fx.verify(masked, compiled, (X, EDGES)) < 1e-5
    assert "scheme" in upscale_fx.report(compiled).entries[1].reason


def test_upscales_own_interface_takes_calibration():
    model = sage()
    MaskingManager(model).importance("obs").mask(0.5, calibration=(X, EDGES))
    expected = upscale_fx.mask(sage(), 0.5, calibration=(X, EDGES))
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


def test_nothing_to_prune_is_told_with_calibration_too():
    model = SimpleGCN(6, 8, 3, num_layers=1)
    for given in ({"amount": 0.5}, {"budget": Budget(params=0.5)}):
        with pytest.raises(NothingToPruneError, match="raw"):
            upscale_fx.prune(model, calibration=(X, EDGES), **given)


def test_a_sweep_takes_calibration_and_budgets():
    amounts = [0.5, Budget(params=0.5)]
    found = upscale_fx.sweep(sage(), amounts, lambda model: 1.0, calibration=(X, EDGES), timed=False, progress=False)
    assert len(found.rows) == 3


def test_a_sweep_goes_over_a_generator_as_often_as_it_has_to():
    data = ((X, EDGES) for _ in range(2))
    found = upscale_fx.sweep(sage(), [0.25, 0.5], lambda model: 1.0, calibration=data, timed=False, progress=False)
    assert [row.parameters for row in found.rows][1] > [row.parameters for row in found.rows][2]


class Renamed(torch.nn.Module):
    """Takes arguments of names that say nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = SAGE(6, 16, 3)

    def forward(self, a, b):
        return self.net(a, b)


def test_a_calibration_batch_serves_as_an_example():
    model = Renamed().eval()
    compiled = upscale_fx.prune(model, 0.5, calibration=(X, EDGES))
    masked = upscale_fx.mask(model, 0.5, calibration=[(X, EDGES)])
    assert upscale_fx.verify(masked, compiled, (X, EDGES)) < 1e-5


def test_shared_parameters_cost_their_bytes_once():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(6, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)
            self.c.weight = self.b.weight
            self.o = torch.nn.Linear(32, 3)

        def forward(self, x):
            return self.o(self.c(self.b(self.a(x).relu()).relu()).relu())

    torch.manual_seed(0)
    model = Tied().eval()
    dense = 4 * sum(p.numel() for p in model.parameters())
    compiled = upscale_fx.prune(model, budget=Budget(bytes=0.5), calibration=(X,))
    found = upscale_fx.report(compiled)
    assert found.before.bytes == dense
    assert 4 * sum(p.numel() for p in compiled.parameters()) <= 0.52 * dense
    assert not any(entry.reason == "amount 0" for entry in found.entries)


def test_a_calibration_batch_serves_a_sweep_as_an_example():
    class Weighted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gate = SAGE(6, 16, 3), torch.nn.Linear(3, 3)

        def forward(self, x, edge_index, gates):
            return self.body(x, edge_index) * self.gate(gates)

    torch.manual_seed(0)
    batch = (X, EDGES, torch.randn(200, 3))
    found = upscale_fx.sweep(Weighted().eval(), [0.5], lambda model: 1.0, calibration=batch, progress=False)
    assert found.rows[1].parameters < found.rows[0].parameters


def test_other_seeds_draw_other_channels():
    masked = [upscale_fx.mask(sage(), 0.5, criterion="random", seed=seed) for seed in (0, 0, 1)]
    zeros = [model.convs[1].lin_l.weight == 0 for model in masked]
    assert torch.equal(zeros[0], zeros[1])
    assert not torch.equal(zeros[0], zeros[2])


def test_what_is_made_in_inference_mode_can_be_trained():
    model = sage()
    with torch.inference_mode():
        compiled = upscale_fx.prune(model, 0.5, calibration=(X, EDGES), progress=False)
    upscale_fx.finetune(compiled, [(X, EDGES)], teacher=model, epochs=1, progress=False)
    compiled(X, EDGES).sum().backward()
    assert all(parameter.grad is not None for parameter in compiled.parameters())


def test_a_call_that_works_prints_no_traceback(capfd):
    """FX prints one wherever a GraphModule fails, such as those of to_hetero where shapes are guessed first."""

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = SAGEConv((-1, -1), 16), Linear(-1, 3)

        def forward(self, x, edge_index):
            return self.head(self.conv(x, edge_index).relu())

    nodes, edges = ["user", "item"], [("user", "buys", "item"), ("item", "sold", "user")]
    batch = (
        {"user": torch.randn(40, 6), "item": torch.randn(30, 4)},
        {edges[0]: torch.randint(30, (2, 90)), edges[1]: torch.randint(30, (2, 90))},
    )
    model = to_hetero(Layers(), (nodes, edges)).eval()
    model(*batch)
    compiled = upscale_fx.prune(model, 0.5, calibration=batch, progress=False)
    assert sum(p.numel() for p in compiled.parameters()) < sum(p.numel() for p in model.parameters())
    assert "Traceback" not in capfd.readouterr().err
