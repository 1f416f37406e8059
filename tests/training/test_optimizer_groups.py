"""Groups of a transferred optimizer keep options, order and members; and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests import zoo
from tests.training.optimizers import EDGES, X, adam_with, held, small
from upscale_fx.errors import InputError
from upscale_fx.models import SAGE
from upscale_fx.training.transfer_optimizer import transfer_optimizer

# Groups --------------------------------------------------------------------------------------------------------------


def test_groups_keep_their_options_their_order_and_their_members():
    model = small()
    head, rest = list(model.convs[2].parameters()), list(model.convs[:2].parameters())
    old = torch.optim.AdamW(
        [{"params": rest, "lr": 0.1, "note": "rest"}, {"params": head, "weight_decay": 0.5}], lr=0.3
    )
    compiled = upscale_fx.prune(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    assert type(new) is torch.optim.AdamW
    without = [{k: v for k, v in group.items() if k != "params"} for group in new.param_groups]
    assert without == [{k: v for k, v in group.items() if k != "params"} for group in old.param_groups]
    names = {id(p): name for name, p in compiled.named_parameters()}
    assert [[names[id(p)] for p in group["params"]] for group in new.param_groups] == [
        [name for name, p in model.named_parameters() if any(p is other for other in part)] for part in (rest, head)
    ]
    assert new.defaults == old.defaults


def test_folds_join_the_group_of_what_they_are_named_after():
    model = zoo.make("gat-4")
    last = [model.get_parameter(name) for name, _ in model.named_parameters() if "convs.0.att" in name]
    rest = [p for p in model.parameters() if all(p is not other for other in last)]
    old = torch.optim.Adam([{"params": rest}, {"params": last, "lr": 0.5}])
    compiled = upscale_fx.prune(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    names = {id(p): name for name, p in compiled.named_parameters()}
    assert [names[id(p)] for p in new.param_groups[1]["params"]] == ["convs.0.att_src_folded", "convs.0.att_dst_folded"]
    assert held(new) == set(names)


def test_what_was_not_optimised_is_not():
    model = zoo.make("gat-4")
    old = torch.optim.SGD(model.convs[2].parameters(), lr=0.1)
    compiled = upscale_fx.prune(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    assert held(new) == {id(p) for name, p in compiled.named_parameters() if name.startswith("convs.2.")}


def test_parameters_of_other_modules_stay_with_their_state():
    model, decoder = small(), nn.Linear(5, 2).double()
    old = torch.optim.Adam([*model.parameters(), *decoder.parameters()])
    decoder(model(X, EDGES)).square().sum().backward()
    old.step()
    compiled = upscale_fx.prune(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    assert {id(p) for p in decoder.parameters()} < held(new)
    state, before = new.state[decoder.weight], old.state[decoder.weight]
    assert torch.equal(state["exp_avg"], before["exp_avg"])
    assert state["exp_avg"] is not before["exp_avg"]
    decoder(compiled(X, EDGES)).square().sum().backward()
    new.step()


def test_named_parameters_keep_names():
    model = small()
    old = torch.optim.Adam(model.named_parameters())
    compiled = upscale_fx.prune(model, 0.5)
    (group,) = transfer_optimizer(old, model, compiled).param_groups
    assert sorted(group["param_names"]) == sorted(name for name, _ in compiled.named_parameters())
    assert all(compiled.get_parameter(n) is p for n, p in zip(group["param_names"], group["params"], strict=True))


def test_the_old_optimizer_and_its_model_stay_as_they_are():
    model = small()
    old = adam_with(model, dict(model.named_parameters()))
    before = copy.deepcopy(old.state_dict())
    compiled = upscale_fx.prune(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    compiled(X, EDGES).square().sum().backward()
    new.step()
    after = old.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, state in before["state"].items():
        assert all(torch.equal(after["state"][key][name], value) for name, value in state.items())


def test_state_shared_along_an_axis_is_cut_along_the_others():
    model = small()
    old = torch.optim.Adafactor(model.parameters())
    model(X, EDGES).square().sum().backward()
    old.step()
    compiled = upscale_fx.prune(model, 0.5)
    new = transfer_optimizer(old, model, compiled)
    for name, parameter in compiled.named_parameters():
        if parameter.dim() == 2:
            state = new.state[parameter]
            assert state["row_var"].shape == (parameter.shape[0], 1)
            assert state["col_var"].shape == (1, parameter.shape[1])
            before = old.state[model.get_parameter(name)]["row_var"]
            assert set(state["row_var"].flatten().tolist()) <= set(before.flatten().tolist())
    compiled(X, EDGES).square().sum().backward()
    new.step()


# Errors --------------------------------------------------------------------------------------------------------------


def test_an_optimizer_of_another_model_is_refused():
    model = small()
    old = torch.optim.Adam(copy.deepcopy(model).parameters())
    with pytest.raises(InputError, match=r"the Adam optimises none of the 9 parameters of SAGE.*not a copy of it"):
        transfer_optimizer(old, model, upscale_fx.prune(model, 0.5))


def test_a_graph_of_another_model_is_refused():
    other = SAGE(12, 24, 5)
    compiled = upscale_fx.prune(small(), 0.5)
    with pytest.raises(
        InputError, match=r"comes from 'convs.0.lin_l.weight' \[16, 12\], but the SAGE given has \[24, 12\]"
    ):
        transfer_optimizer(torch.optim.Adam(other.parameters()), other, compiled)
    plain = GCNConv(12, 16)
    with pytest.raises(InputError, match="but the GCNConv given has no such parameter"):
        transfer_optimizer(torch.optim.Adam(plain.parameters()), plain, compiled)


def test_state_that_belongs_to_no_entry_is_refused():
    model = small()
    old = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        old.zero_grad()
        loss = model(X, EDGES).square().sum()
        loss.backward()
        return loss

    old.step(closure)
    with pytest.raises(InputError, match=r"of LBFGS .* does not belong to single entries"):
        transfer_optimizer(old, model, upscale_fx.prune(model, 0.5))


def test_a_class_that_cannot_be_made_again_is_refused():
    class Odd(torch.optim.SGD):
        def __init__(self, params, something):
            super().__init__(params, lr=something)

    model = small()
    old = Odd(model.parameters(), 0.1)
    with pytest.raises(InputError, match=r"no new Odd could be made .* must take \(params, lr, "):
        transfer_optimizer(old, model, upscale_fx.prune(model, 0.5))
