"""Pruning in steps: the counts of one call, every step exact, training between steps, and a report of the whole."""

import copy
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn
from torch_geometric import seed_everything
from torch_geometric.datasets import FakeDataset
from torch_geometric.nn import GCNConv
from torch_geometric.nn.models import GAT

import upscale_fx
from tests.zoo import randomise
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import unfused
from upscale_fx.masking.consumers.pools import removable
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.models import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN
from upscale_fx.pruning.goals import SCHEDULES, share_for
from upscale_fx.pruning.steps import prune_in_steps

INPUT, WIDTH, OUTPUT = 12, 32, 5


class Residual(nn.Module):
    """``h + conv(h)`` twice: three layers read channels of one and the same tensor."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(INPUT, WIDTH)
        self.convs = nn.ModuleList([GCNConv(WIDTH, WIDTH), GCNConv(WIDTH, WIDTH)])
        self.head = nn.Linear(WIDTH, OUTPUT)

    def forward(self, x, edge_index):
        h = self.stem(x)
        for conv in self.convs:
            h = h + conv(h, edge_index).relu()
        return self.head(h)


MODELS = {
    "GCN": lambda: SimpleGCN(INPUT, WIDTH, OUTPUT),
    "SAGE": lambda: SAGE(INPUT, WIDTH, OUTPUT),
    "GAT": lambda: GAT(INPUT, WIDTH, 3, OUTPUT, heads=4),
    "GATv2": lambda: GATv2(INPUT, WIDTH, OUTPUT, num_layers=2),
    "TransformerConv": lambda: GraphTransformer(INPUT, WIDTH, OUTPUT, num_layers=2),
    "JKNet": lambda: JKNet(INPUT, WIDTH, OUTPUT),
    "residual GCN": Residual,
}


def make(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def graph():
    """A generated graph of 120 nodes with features in float64 and a class per node."""
    seed_everything(0)  # FakeDataset draws from Python's numbers too
    data = FakeDataset(num_graphs=1, avg_num_nodes=120, num_channels=INPUT, num_classes=OUTPUT, task="node")[0]
    return data.x.double(), data.edge_index, data.y


def kept(model):
    """By consumer, how many hidden channels meet a weight that is not zero."""
    gm = unfused(model)
    return {c.name: int((c.hidden & c.reads(gm)).sum()) for c in survey(analyse(gm)).consumers}


def original(model):
    """By consumer, how many hidden channels each head has."""
    counts = {}
    for consumer in survey(analyse(upscale_fx.trace(model))).consumers:
        blocks = consumer.blocks if consumer.blocks is not None else consumer.hidden * 0
        found = [int((consumer.hidden & (blocks == block)).sum()) for block in sorted(set(blocks.tolist()))]
        counts[consumer.name] = [count for count in found if count]
    return counts


def in_steps(model, amount, steps=3, between=None, schedule="cubic", options=None, **told):
    options = options or {}
    return prune_in_steps(
        model, amount, steps, lambda m, a: upscale_fx.prune(m, a, **options), between, schedule, False, **told
    )


@pytest.mark.parametrize(("amount", "constrained"), [(0.3, False), (0.77, False), (0.5, True)])
@pytest.mark.parametrize("name", MODELS)
def test_steps_remove_what_one_call_removes(name, amount, constrained):
    model = make(name)
    once = kept(upscale_fx.prune(model, amount, constrained=constrained))
    stepped = kept(in_steps(model, amount, options={"constrained": constrained}, constrained=constrained))
    assert stepped == once
    for consumer, heads in original(model).items():
        if not (constrained and name == "JKNet" and consumer == "lin"):  # three shared sets, rounded one by one
            assert stepped[consumer] == sum(count - removable(count, amount) for count in heads)


@pytest.mark.parametrize(("schedule", "steps"), [("cubic", 2), ("cubic", 5), ("linear", 3), ("exponential", 6)])
def test_neither_schedule_nor_number_of_steps_changes_what_is_kept(schedule, steps):
    model = make("SAGE")
    assert kept(in_steps(model, 0.6, steps, schedule=schedule)) == kept(upscale_fx.prune(model, 0.6))


@pytest.mark.parametrize("name", MODELS)
def test_every_step_is_exactly_its_mask_also_after_training(name, graph):
    x, edge_index, y = graph
    model = make(name)
    gaps = []

    def prune_once(module, amount):
        compiled = upscale_fx.prune(module, amount)
        gaps.append((amount, upscale_fx.verify(upscale_fx.mask(module, amount), compiled, (x, edge_index))))
        return compiled

    final = prune_in_steps(model, 0.6, 3, prune_once, train_on(x, edge_index, y), "linear", progress=False)
    assert sum(amount != 0.0 for amount, _ in gaps) == 3
    assert max(gap for _, gap in gaps) <= 1e-10
    for consumer, heads in original(model).items():
        assert kept(final)[consumer] == sum(count - removable(count, 0.6) for count in heads)


def train_on(x, edge_index, y, seen=None):
    """A function that trains for three epochs and notes the losses before and after, without dropout."""

    def loss_of(compiled):
        return nn.functional.cross_entropy(compiled(x, edge_index), y)

    def between(compiled, step):
        optimizer = torch.optim.Adam(compiled.parameters(), lr=0.01)
        losses = [float(loss_of(compiled.eval()).detach())]
        compiled.train()
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(compiled).backward()
            optimizer.step()
        losses.append(float(loss_of(compiled.eval()).detach()))
        compiled.train()  # modes that are left behind are put back
        if seen is not None:
            seen.append((step, compiled, losses, copy.deepcopy(compiled.state_dict())))

    return between


@pytest.mark.parametrize("family", [SimpleGCN, SAGE])
def test_of_two_layers_steps_without_training_choose_what_one_call_does(family, graph):
    model = family(INPUT, WIDTH, OUTPUT, num_layers=2).double().eval()
    stepped = in_steps(model, 0.6)
    assert upscale_fx.verify(upscale_fx.mask(model, 0.6), stepped, graph[:2]) <= 1e-10


def test_between_trains_what_the_next_step_prunes(graph):
    x, edge_index, y = graph
    seen, taken = [], []

    def prune_once(module, amount):
        taken.append({name: value.clone() for name, value in module.state_dict().items()})
        return upscale_fx.prune(module, amount)

    model = make("SAGE")
    before = copy.deepcopy(model.state_dict())
    final = prune_in_steps(
        model, 0.5, 4, prune_once, train_on(x, edge_index, y, seen), schedule="linear", progress=False
    )
    assert [step for step, *_ in seen] == [1, 2, 3]
    for (_, _, losses, trained), next_start in zip(seen, taken[1:], strict=True):
        assert losses[-1] < losses[0]
        assert trained.keys() == next_start.keys()
        assert all(torch.equal(trained[key], next_start[key]) for key in trained)
    sizes = [sum(value.numel() for value in state.values()) for state in taken]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    bias = final.get_parameter("convs.2.lin_l.bias")  # masking leaves biases alone: what it learned is still there
    assert torch.equal(bias, seen[-1][3]["convs.2.lin_l.bias"])
    assert not torch.equal(bias, before["convs.2.lin_l.bias"])


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_stay_as_they_were(training, graph):
    model = make("SAGE").train(training)
    model.convs[0].lin_l.weight.requires_grad_(False)
    final = in_steps(model, 0.5, 3, train_on(*graph))
    assert final.training is training
    assert model.training is training
    assert not final.get_parameter("convs.0.lin_l.weight").requires_grad
    assert final.get_parameter("convs.1.lin_l.weight").requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_the_report_speaks_of_the_original_model(name):
    model = make(name)
    once, stepped = upscale_fx.report(upscale_fx.prune(model, 0.5)), upscale_fx.report(in_steps(model, 0.5))
    assert stepped.before == once.before
    assert [(e.name, e.before, e.asked) for e in stepped.entries] == [(e.name, e.before, e.asked) for e in once.entries]
    assert [e.reason for e in stepped.entries if not e.asked] == [e.reason for e in once.entries if not e.asked]
    assert stepped.leftover == 0
    assert stepped.after.parameters < stepped.before.parameters
    assert not any("amount 0" in entry.reason for entry in stepped.entries)


def test_the_report_of_a_stepped_sage():
    text = str(upscale_fx.report(in_steps(make("SAGE"), 0.5)))
    assert text.splitlines()[:8] == [
        "consumer         channels    asked to go    kept  why not fewer",
        "-------------  ----------  -------------  ------  ------------------------------------",
        "convs.0.lin_l          12              0      12  reads raw inputs only (inputs=False)",
        "convs.0.lin_r          12              0      12  reads raw inputs only (inputs=False)",
        "convs.1.lin_l          32             16      16",
        "convs.1.lin_r          32             16      16",
        "convs.2.lin_l          32             16      16",
        "convs.2.lin_r          32             16      16",
    ]


@pytest.mark.parametrize("name", ["SAGE", "GAT", "JKNet"])
def test_amounts_go_by_patterns_of_the_original_names(name):
    model = make(name)
    last = "lin" if name == "JKNet" else "convs.2.*"
    amounts = {"convs.1.*": 0.25, last: 0.75}
    stepped = kept(in_steps(model, amounts))
    assert stepped == kept(upscale_fx.prune(model, amounts))
    for consumer, heads in original(model).items():
        share = next((amounts[pattern] for pattern in amounts if fnmatchcase(consumer, pattern)), 0.0)
        assert stepped[consumer] == sum(count - removable(count, share) for count in heads)


def test_folded_attention_of_an_ignored_layer_is_ignored():
    model = make("GAT")
    assert any(name.endswith("_folded") for name in kept(in_steps(model, 0.5, 2)))
    stepped = kept(in_steps(model, 0.5, ignore="convs.1.lin"))
    assert stepped["convs.1.lin"] == WIDTH
    assert all(count == WIDTH for name, count in stepped.items() if name.startswith("convs.1.att"))
    assert stepped["convs.2.lin"] == WIDTH // 2


@pytest.mark.parametrize("trained", [False, True])
def test_folded_attention_reads_what_its_layer_reads(trained, graph):
    model = make("GAT")
    once, stepped = upscale_fx.prune(model, 0.8), in_steps(model, 0.8, 4, train_on(*graph) if trained else None)
    assert sum(p.numel() for p in stepped.parameters()) == sum(p.numel() for p in once.parameters())
    gm = unfused(stepped)
    read = {c.name: set(c.channels[c.reads(gm)].tolist()) for c in survey(analyse(gm)).consumers}
    for name in ("convs.1.att_src_folded", "convs.1.att_dst_folded"):
        assert read[name] == read["convs.1.lin"]


def test_following_is_exactly_a_mask(graph):
    made = []

    def prune_once(module, amount):
        if made:  # masked in place where something follows: what the next step is given computes the same
            assert upscale_fx.verify(made[-1], module, graph[:2]) <= 1e-10
        made.append(upscale_fx.prune(module, amount))
        return made[-1]

    final = prune_in_steps(make("GAT"), 0.8, 4, prune_once, schedule="linear", progress=False)
    assert len(made) == 4
    assert upscale_fx.verify(made[-1], final, graph[:2]) <= 1e-10
    assert sum(p.numel() for p in final.parameters()) < sum(p.numel() for p in made[-1].parameters())


def test_raw_inputs_and_multiples_go_as_in_one_call():
    model = make("SAGE")
    options = {"inputs": True, "round_to": 4}
    once, stepped = upscale_fx.prune(model, 0.4, **options), in_steps(model, 0.4, options=options, inputs=True)
    shapes = {name: value.shape[1] for name, value in once.state_dict().items() if value.dim() > 1}
    assert {name: value.shape[1] for name, value in stepped.state_dict().items() if value.dim() > 1} == shapes
    assert shapes["convs.0.lin_l.weight"] == 8  # of 12, 5 are asked to go and 7 are no multiple of 4


def test_what_is_ignored_stays_whole_though_steps_do_not_tell_prune():
    stepped = kept(in_steps(make("SAGE"), 0.5, ignore=["convs.1.*", "convs.0"], inputs=True))
    once = kept(upscale_fx.prune(make("SAGE"), 0.5, ignore=["convs.1.*"]))
    assert stepped == once


def test_globally_the_sum_is_that_of_one_call():
    model = make("SAGE")
    options = {"scope": "global"}
    once, stepped = upscale_fx.prune(model, 0.5, **options), in_steps(model, 0.5, options=options, scope="global")
    assert sum(kept(stepped).values()) == sum(kept(once).values()) == 4 * WIDTH // 2


def test_one_step_is_one_call(graph):
    model = make("GATv2")
    amounts = []

    def prune_once(module, amount):
        amounts.append(amount)
        return upscale_fx.prune(module, amount)

    called = []
    final = prune_in_steps(model, 0.5, 1, prune_once, lambda *_: called.append(1), progress=False)
    assert amounts == [0.5]
    assert not called
    assert upscale_fx.verify(upscale_fx.prune(model, 0.5), final, graph[:2]) == 0


def test_steps_that_round_to_nothing_are_passed_over():
    model = make("SAGE")
    steps = []
    final = in_steps(model, 0.07, 6, lambda _, step: steps.append(step), "linear")  # two channels of each consumer
    assert kept(final) == kept(upscale_fx.prune(model, 0.07))
    assert steps == [2]  # one channel goes in step 2, the other in step 5, after which nothing is left to do
    with pytest.raises(upscale_fx.NothingToPruneError, match="rounds to none"):
        in_steps(model, 0.01)


def test_what_prune_cannot_remove_in_any_step_is_told():
    def prune_once(module, amount):
        raise upscale_fx.NothingToPruneError(f"{len(amount)} consumers")

    with pytest.raises(upscale_fx.NothingToPruneError, match="6 consumers"):
        prune_in_steps(make("SAGE"), 0.5, 3, prune_once, progress=False)


def test_amount_zero_only_compiles(graph):
    model = make("SAGE")
    assert upscale_fx.verify(model, in_steps(model, 0.0), graph[:2]) <= 1e-10


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None, "3"])
def test_steps_that_are_no_positive_integer_are_refused(steps):
    with pytest.raises(upscale_fx.AmountError, match="steps"):
        in_steps(make("SAGE"), 0.5, steps)


def test_other_arguments_that_make_no_sense_are_refused():
    model = make("SAGE")
    with pytest.raises(upscale_fx.PatternError, match="'cubic', 'linear', 'exponential'"):
        in_steps(model, 0.5, schedule="cosine")
    with pytest.raises(upscale_fx.InputError, match="between"):
        in_steps(model, 0.5, between=3)
    with pytest.raises(upscale_fx.AmountError, match="amount"):
        in_steps(model, 1.0)
    with pytest.raises(upscale_fx.PatternError, match="no consumer"):
        in_steps(model, {"nowhere": 0.5})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_rise_from_nothing_to_the_amount(schedule):
    share = SCHEDULES[schedule]
    shares = [share(0.8, step, 10) for step in range(11)]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(0.8)
    assert shares == sorted(set(shares))
    if schedule == "cubic":  # equation 1 with s_i = 0, s_f = 0.8, halfway
        assert shares[5] == pytest.approx(0.8 + (0 - 0.8) * (1 - 1 / 2) ** 3)


@pytest.mark.parametrize("counts", [(1,), (2,), (7,), (96,), (8, 8, 8, 8), (6, 5, 6, 6), (3, 1), ()])
def test_a_share_removes_as_many_as_wanted_or_the_most_below(counts):
    def total(share):
        return sum(removable(count, share) for count in counts)

    possible = {total(k / 5000) for k in range(5000)}
    for wanted in range(-1, sum(counts) + 1):
        share = share_for(counts, wanted)
        assert 0 <= share < 1
        assert total(share) == max((count for count in possible if count <= wanted), default=0)
