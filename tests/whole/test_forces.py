"""Models that differentiate inside forward: refused with the way out, which is exact in first and second order."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import grad
from torch_geometric import nn as gnn
from torch_geometric.data import Data

import upscale_fx
from tests.selection import every

DRAW = torch.Generator().manual_seed(0)
Z = torch.randint(10, (18,), generator=DRAW)
POS = torch.randn(18, 3, generator=DRAW, dtype=torch.float64)
EDGES = torch.randint(18, (2, 60), generator=DRAW)
BATCH = torch.arange(18) // 6
INPUTS = (Z, POS, EDGES, BATCH)
FORCES = Path(__file__).resolve().parents[2] / "docs" / "forces.md"


class Energy(nn.Module):
    """An energy per molecule; ``conv`` passes messages with a weight or features from the distance."""

    def __init__(self, conv, wide=1):
        super().__init__()
        self.atoms, self.conv, self.wide = nn.Embedding(10, 8), conv, wide
        self.distance = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, wide))
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def energy(self, z, pos, edge_index, batch):
        squared = (pos[edge_index[0]] - pos[edge_index[1]]).square().sum(-1, keepdim=True)
        edges = self.distance(squared)
        h = self.conv(self.atoms(z), edge_index, edges.squeeze(-1).sigmoid() if self.wide == 1 else edges)
        return gnn.global_add_pool(self.head(torch.tanh(h)), batch)

    def forward(self, z, pos, edge_index, batch):
        return self.energy(z, pos, edge_index, batch)


ENERGIES = {
    "weighted sum": lambda: Energy(gnn.GraphConv(8, 8)),
    "normalised": lambda: Energy(gnn.GCNConv(8, 8)),
    "mean of gated messages": lambda: Energy(gnn.GENConv(8, 8, aggr="mean", edge_dim=8), 8),
    "continuous filters": lambda: Energy(
        gnn.NNConv(8, 8, nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 64))), 8
    ),
    "attention": lambda: Energy(gnn.GATv2Conv(8, 8, edge_dim=8), 8),
    "softmax of features": lambda: Energy(gnn.TransformerConv(8, 8, edge_dim=8), 8),
}
#: Those whose fused operators have no second derivative.
FIRST_ORDER = {"attention", "softmax of features"}


def forces(energy_of, pos=POS):
    pos = pos.detach().requires_grad_(True)
    energy = energy_of(Z, pos, EDGES, BATCH)
    return energy, -grad(energy.sum(), pos, create_graph=True)[0]


def made(name):
    torch.manual_seed(0)
    return ENERGIES[name]().double()


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", every(2, ENERGIES))
def test_forces_of_the_compiled_energy_are_those_of_the_masked_one(name, fuse):
    model = made(name)
    masked = upscale_fx.mask(model, 0.5, example_inputs=INPUTS, method="energy")
    compiled = upscale_fx.prune(model, 0.5, example_inputs=INPUTS, method="energy", fuse=fuse)
    assert sum(p.numel() for p in compiled.parameters()) < sum(p.numel() for p in model.parameters())
    for one, other in zip(forces(compiled), forces(masked.energy), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", every(2, ENERGIES))
def test_a_step_on_a_loss_of_forces_is_that_of_the_masked_model(name):
    model = made(name)
    masked = upscale_fx.mask(model, 0.5, example_inputs=INPUTS)
    compiled = upscale_fx.prune(model, 0.5, example_inputs=INPUTS, fuse=name not in FIRST_ORDER)
    whole = dict(model.named_parameters())
    zero = {key: (value == 0) & (whole[key] != 0) for key, value in masked.named_parameters()}
    before = forces(compiled)[1].detach()
    for module in (masked, compiled):
        optimizer = torch.optim.SGD(module.parameters(), 1e-2)
        energy, force = forces(module)
        (force.square().mean() + energy.square().mean()).backward()
        optimizer.step()
    with torch.no_grad():
        for key, value in masked.named_parameters():
            value[zero[key]] = 0  # masks stay
    assert (forces(compiled)[1] - before).abs().max() > 1e-6
    for one, other in zip(forces(compiled), forces(masked), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_fused_attention_names_the_way_to_second_derivatives():
    compiled = upscale_fx.prune(made("attention"), 0.5, example_inputs=INPUTS)
    with pytest.raises(NotImplementedError, match=r"optimize\(compiled, fuse=False\)"):
        forces(compiled)[1].square().sum().backward()


class Inside(nn.Module):
    """Forces inside forward, by ``take``."""

    def __init__(self, take):
        super().__init__()
        self.model, self.scale, self.take = made("weighted sum"), nn.Linear(1, 1).double(), take

    def forward(self, z, pos, edge_index, batch):
        return self.take(lambda pos: self.scale(self.model(z, pos, edge_index, batch)), pos)


class OfData(Inside):
    def forward(self, data):
        data.pos.requires_grad_(True)
        energy = self.model(data.z, data.pos, data.edge_index, data.batch)
        return energy, torch.autograd.grad([energy.sum()], [data.pos], create_graph=True)[0]


def of_the_argument(energy, pos):
    pos.requires_grad_(True)
    return -torch.autograd.grad(energy(pos).sum(), pos, create_graph=True)[0]


def of_a_copy(energy, pos):
    pos = pos.clone().requires_grad_(True)
    out = energy(pos)
    return out, grad(out, pos, grad_outputs=torch.ones_like(out))[0]


def by_backward(energy, pos):
    with torch.enable_grad():
        pos = pos.detach().requires_grad_()
        energy(pos).sum().backward()
        return pos.grad


def by_name(energy, pos):
    with torch.enable_grad():
        pos = pos.detach().requires_grad_()
        return grad(energy(pos).sum(), pos)[0]


#: How the gradient is taken, and by which name the refusal calls that.
TAKEN = {
    "of the argument": (of_the_argument, r"torch\.autograd\.grad"),
    "of a copy": (of_a_copy, r"torch\.autograd\.grad"),
    "by backward": (by_backward, r"Tensor\.backward"),
    "by name, with gradients on": (by_name, r"torch\.autograd\.grad"),
    "torch.func.grad": (lambda e, pos: torch.func.grad(lambda p: e(p).sum())(pos), r"torch\.func\.grad"),
    "torch.func.jacrev": (lambda e, pos: torch.func.jacrev(lambda p: e(p).sum())(pos), r"torch\.func\.grad"),
    "torch.func.vjp": (
        lambda e, pos: torch.func.vjp(lambda p: e(p).sum(), pos)[1](torch.ones(())),
        r"torch\.func\.grad",
    ),
    "jacobian": (
        lambda e, pos: torch.autograd.functional.jacobian(lambda p: e(p).sum(), pos),
        r"torch\.autograd\.functional\.jacobian",
    ),
}


@pytest.mark.parametrize("how", TAKEN)
def test_gradients_inside_forward_are_refused_with_part_line_and_way_out(how):
    take, name = TAKEN[how]
    outer = Outer(Inside(take))
    state = copy.deepcopy(outer.state_dict())
    with pytest.raises(
        upscale_fx.TraceError,
        match=rf"in part \(Inside\), test_forces\.py:\d+: forward\(\) takes gradients \({name}.*"
        r"method= names.*differentiate the compiled model outside",
    ):
        upscale_fx.prune(outer, 0.5, example_inputs=INPUTS)
    assert all(torch.equal(value, state[key]) for key, value in outer.state_dict().items())


class Outer(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, z, pos, edge_index, batch):
        return self.part(z, pos, edge_index, batch)


def test_gradients_of_an_attribute_of_data_are_refused():
    data = Data(z=Z, pos=POS.clone(), edge_index=EDGES, batch=BATCH)
    with pytest.raises(upscale_fx.TraceError, match=r"takes gradients \(torch\.autograd\.grad\)"):
        upscale_fx.prune(OfData(None), 0.5, example_inputs=(data,))


def test_the_documented_example_runs():
    torch.manual_seed(0)
    (code,) = re.findall(r"```python\n(.*?)```", FORCES.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, "forces.md", "exec"), names)
    inputs = tuple(names[name] for name in ("z", "pos", "edge_index", "batch"))
    masked = upscale_fx.mask(names["model"], 0.5, example_inputs=inputs, method="energy", ignore=["message.0"])
    _, expected = names["forces"](masked.energy, *inputs)
    torch.testing.assert_close(names["force"], expected, rtol=1e-4, atol=1e-5)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in names["compiled"].parameters())
    with pytest.raises(upscale_fx.TraceError, match="takes gradients"):
        upscale_fx.prune(names["model"], 0.5, example_inputs=inputs)
