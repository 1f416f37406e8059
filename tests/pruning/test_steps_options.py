"""Steps: names and multiples of the original model, and what is refused."""

from fnmatch import fnmatchcase

import pytest

import upscale_fx
from tests.pruning.stepped import WIDTH, in_steps, kept, make, original, train_on
from tests.selection import every, only
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.compiled.module import unfused
from upscale_fx.masking.consumers.pools import removable
from upscale_fx.masking.consumers.survey import survey
from upscale_fx.masking.options import MaskOptions
from upscale_fx.pruning.steps import StepOptions, prune_in_steps


def test_the_report_of_a_stepped_sage():
    text = str(upscale_fx.report(in_steps(make("SAGE"), 0.5)))
    assert text.splitlines()[:8] == [
        "consumer         channels    to remove    kept  why not fewer",
        "-------------  ----------  -----------  ------  ------------------------------------",
        "convs.0.lin_l          12            0      12  reads raw inputs only (inputs=False)",
        "convs.0.lin_r          12            0      12  reads raw inputs only (inputs=False)",
        "convs.1.lin_l          32           16      16",
        "convs.1.lin_r          32           16      16",
        "convs.2.lin_l          32           16      16",
        "convs.2.lin_r          32           16      16",
    ]


@pytest.mark.parametrize("name", every(3, ["SAGE", "GAT", "JKNet"]))
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


@pytest.mark.slow
@pytest.mark.parametrize("trained", only([True], [False, True]))
def test_folded_attention_reads_what_its_layer_reads(trained, graph):
    model = make("GAT")
    once, stepped = upscale_fx.prune(model, 0.8), in_steps(model, 0.8, 4, train_on(*graph) if trained else None)
    assert sum(p.numel() for p in stepped.parameters()) == sum(p.numel() for p in once.parameters())
    gm = unfused(stepped)
    read = {c.name: set(c.channels[c.reads(gm)].tolist()) for c in survey(analyse(gm)).consumers}
    for name in ("convs.1.att_src_folded", "convs.1.att_dst_folded"):
        assert read[name] == read["convs.1.lin"]


@pytest.mark.slow
def test_following_is_exactly_a_mask(graph):
    made = []

    def prune_once(module, amount):
        if made:  # masked in place where something follows: what the next step is given computes the same
            assert upscale_fx.verify(made[-1], module, graph[:2]) <= 1e-10
        made.append(upscale_fx.prune(module, amount))
        return made[-1]

    how = StepOptions(steps=4, schedule="linear", progress=False)
    final = prune_in_steps(make("GAT"), MaskOptions(amount=0.8), how, prune_once)
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
        prune_in_steps(make("SAGE"), MaskOptions(amount=0.5), StepOptions(steps=3, progress=False), prune_once)


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
