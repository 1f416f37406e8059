"""States of recurrent layers that nothing reads are removed, exactly; others stay and the report says why."""

import copy
import io

import pytest
import torch
from torch import nn

import upscale_fx
from tests.compacting.recurrent_models import MODELS, STATES, STAY, WIDTH, FromItsInput, Over
from tests.comparison import assert_same, assert_same_outputs


def graph(nodes):
    """Features and edges sorted by target, as aggregations over sequences need them."""
    torch.manual_seed(nodes)
    edges = torch.randint(0, nodes, (2, 3 * nodes))
    return torch.randn(nodes, WIDTH, dtype=torch.float64), edges[:, edges[1].argsort()]


def made(make):
    torch.manual_seed(0)
    return make().double().eval()


def widths(model):
    """The states of every recurrent layer."""
    return [module.hidden_size for module in model.modules() if isinstance(module, nn.RNNBase)]


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def read_back(model):
    """A model after saving and loading."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("name", [
    name if name in ("LSTM, last step", "GRU, two layers, two directions", "one layer twice", "encoder and decoder")
    else pytest.param(name, marks=pytest.mark.slow) for name in MODELS
])  # fmt: skip
def test_dead_states_are_removed(name):
    model = made(MODELS[name])
    masked = upscale_fx.mask(model, 0.5, example_inputs=graph(9))
    pruned = upscale_fx.compact(masked, example_inputs=graph(9))
    before, after = widths(model), widths(pruned)
    assert after == [width // 2 for width in before]
    assert size(pruned) < size(model)
    assert not any("place_channels" in str(node.target) for node in pruned.graph.nodes)
    assert_same_outputs(masked, pruned, [graph(5), graph(14)])


@pytest.mark.parametrize("name", STAY)
def test_states_that_stay_are_named(name):
    make, reason = STAY[name]
    model = made(make)
    masked = upscale_fx.mask(model, 0.5, example_inputs=graph(9))
    pruned = upscale_fx.compact(masked, example_inputs=graph(9))
    assert widths(pruned) == widths(model)
    assert not any("weight_hh" in entry.name for entry in upscale_fx.report(pruned).entries)
    assert any(reason in text for text in upscale_fx.report(pruned).barriers)
    assert_same_outputs(masked, pruned, [graph(5), graph(14)])


def test_states_that_the_model_returns_stay():
    model = made(lambda: Over(nn.GRU(WIDTH, STATES, batch_first=True), lambda out, last: out[:, -1]))
    model.head = nn.Identity()
    pruned = upscale_fx.prune(model, 0.5, example_inputs=graph(9))
    assert widths(pruned) == [STATES]
    assert torch.count_nonzero(pruned.rnn.weight_hh_l0) == pruned.rnn.weight_hh_l0.numel()


def zeroed(model, states):
    """A model whose head does not read these states, and whose other states do not either."""
    others = [state for state in range(STATES) if state not in states]
    with torch.no_grad():
        model.head.weight[:, states] = 0
        for gate in model.rnn.weight_hh_l0.split(STATES):
            gate[torch.tensor(others)[:, None], torch.tensor(states)] = 0
    return model


def test_a_state_that_only_dead_states_read_is_dead():
    model = zeroed(made(MODELS["LSTM, last step"]), [1, 2, 5])
    pruned = upscale_fx.compact(model, example_inputs=graph(9))
    assert widths(pruned) == [STATES - 3]
    assert_same_outputs(model, pruned, [graph(5), graph(14)])


def test_a_state_that_a_live_state_reads_stays():
    model = zeroed(made(MODELS["LSTM, last step"]), [1, 2, 5])
    with torch.no_grad():
        model.rnn.weight_hh_l0[3, 2] = 0.5  # state 3 reads state 2, which reads 1 and 5
    pruned = upscale_fx.compact(model, example_inputs=graph(9))
    assert widths(pruned) == [STATES]
    assert_same_outputs(model, pruned, [graph(5), graph(14)])


def test_pruned_twice_saved_and_loaded():
    model = made(MODELS["LSTM from given states"])
    once = upscale_fx.prune(model, 0.5, example_inputs=graph(9))
    masked = upscale_fx.mask(once, 0.5)
    twice = read_back(upscale_fx.compact(masked))
    assert [*widths(once), *widths(twice)] == [STATES // 2, STATES // 4]
    assert_same_outputs(masked, twice, [graph(5), graph(14)])
    again = copy.deepcopy(twice)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(twice.state_dict())
    assert_same_outputs(twice, again, [graph(5)])


@pytest.mark.parametrize("name", ["GRU from given states", "GRU, two layers, two directions"])
def test_gradients_are_those_of_the_masked_model(name):
    masked = upscale_fx.mask(made(MODELS[name]), 0.5, example_inputs=graph(9))
    pruned = upscale_fx.compact(masked, example_inputs=graph(9)).train()
    masked.train()
    x, edges = graph(11)
    found = []
    for model in (masked, pruned):
        own = x.clone().requires_grad_()
        out = model(own, edges)
        out.square().sum().backward()
        found.append((out, own.grad))
    assert_same(*found)
    kept = upscale_fx.report(pruned).kept["rnn.weight_hh_l0"]
    rows = torch.cat([gate * STATES + kept for gate in range(3)])
    whole = masked.rnn.weight_hh_l0.grad[rows][:, kept]
    torch.testing.assert_close(pruned.rnn.weight_hh_l0.grad, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("criterion", ["obs", pytest.param("hrank", marks=pytest.mark.slow)])
def test_states_are_chosen_on_data_and_not_refitted(criterion):
    model = made(MODELS["LSTM of three layers"])
    data = [graph(30)]
    pruned = upscale_fx.prune(model, 0.5, example_inputs=graph(9), calibration=data[0], criterion=criterion)
    assert widths(pruned) == [STATES // 2]
    lines = str(upscale_fx.report(pruned)).splitlines()
    for layer in range(3):
        reason = "what its weights multiply is inside a recurrent module"
        assert f"not refitted: rnn.weight_hh_l{layer}: {reason}" in lines


def test_an_optimizer_follows_the_states():
    model = made(MODELS["GRU, steps first"])
    optimizer = torch.optim.Adam(model.parameters())
    model(*graph(9)).square().sum().backward()
    optimizer.step()
    pruned = upscale_fx.prune(model, 0.5, example_inputs=graph(9))
    moved = upscale_fx.transfer_optimizer(optimizer, model, pruned)
    kept = upscale_fx.report(pruned).kept["rnn.weight_hh_l0"]
    rows = torch.cat([gate * STATES + kept for gate in range(3)])
    old = optimizer.state[model.rnn.weight_hh_l0]["exp_avg"]
    assert torch.equal(moved.state[pruned.rnn.weight_hh_l0]["exp_avg"], old[rows][:, kept])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_one_value_as_sequence_and_initial_state_keeps_its_channels(kind):
    """Traces make a copy of the value; without it, as in a graph changed by hand, no channel goes of one use alone."""
    model = made(lambda: FromItsInput(kind(STATES, STATES)))
    masked = upscale_fx.mask(model, 0.5, example_inputs=graph(9))
    edited = upscale_fx.trace(masked, example_inputs=graph(9))
    copies = [node for node in edited.graph.nodes if node.target == "clone"]
    assert copies
    for node in copies:
        node.replace_all_uses_with(node.args[0])
        edited.graph.erase_node(node)
    edited.recompile()
    compacted = upscale_fx.compact(edited)
    assert widths(compacted) == [STATES]
    assert_same_outputs(masked, compacted, [graph(5), graph(14)])
