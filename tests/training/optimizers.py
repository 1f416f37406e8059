"""Models, and optimizers whose state is known."""

import torch

from tests import zoo
from upscale_fx.models import SAGE

DRAW = torch.Generator().manual_seed(0)
X, EDGES = torch.randn(23, 12, generator=DRAW, dtype=torch.float64), torch.randint(23, (2, 70), generator=DRAW)


def adam_with(model, tensors):
    """An Adam whose moments are given tensors, by name of the parameter."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=0.1)
    for name, parameter in model.named_parameters():
        average, square = tensors[name].detach().clone(), tensors[name].detach().square()
        optimizer.state[parameter] = {"step": torch.tensor(7.0), "exp_avg": average, "exp_avg_sq": square}
    return optimizer


def held(optimizer):
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def small(seed=0):
    torch.manual_seed(seed)
    return zoo.without_dropout(SAGE(12, 16, 5)).double().eval()
