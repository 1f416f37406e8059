"""Torch-Pruning. It does not know PyG's Linear, so each one is swapped for torch's."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io

import torch
from torch import nn
from torch_geometric.nn import Linear as GraphLinear

from upscale_fx.bench.networks import output_layer

NAME = "torch_pruning"


def torch_pruning(name: str, model: nn.Module, amount: float, width: int) -> tuple[nn.Module, nn.Module] | str:
    """Prune a copy of a model, all layers alike, with Torch-Pruning.

    Args:
        name: which network it is.
        model: the network; never touched.
        amount: share of the channels to remove.
        width: the number of node features.

    Returns:
        The pruned model and its reference (the dense model with all removed weights set to zero), or the reason why
        there is none.
    """
    if importlib.util.find_spec(NAME) is None:
        return f"{NAME} is not installed"
    import torch_pruning as peer  # noqa: PLC0415 - optional

    reference = _swapped(model).cpu().double()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in reference.parameters():  # in double precision no two entries are equal: values identify them
            parameter.add_(1e-9 * torch.randn_like(parameter))
        inputs = torch.randn(64, width, dtype=torch.float64), torch.randint(64, (2, 256))
        pruned = copy.deepcopy(reference)
        with contextlib.redirect_stdout(io.StringIO()), torch.enable_grad():
            peer.pruner.BasePruner(
                pruned,
                example_inputs=inputs,
                importance=peer.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=amount,
                ignored_layers=[output_layer(name, pruned)],
            ).step()
        kept = dict(pruned.named_parameters())
        for path, parameter in reference.named_parameters():
            parameter.mul_(torch.isin(parameter, kept[path]))
    if all(kept[path].shape == parameter.shape for path, parameter in reference.named_parameters()):
        return "Torch-Pruning left the model unchanged, without an error"
    like = next(model.parameters())
    return pruned.to(like).eval(), reference.to(like).eval()


def _swapped(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, GraphLinear):
            linear = nn.Linear(module.in_channels, module.out_channels, bias=module.bias is not None)
            linear.load_state_dict(module.state_dict())
            model.set_submodule(path, linear)
    return model
