"""The model zoo: small models of every family, each by name, with the inputs it takes.

``ZOO`` maps a name to an :class:`Entry`. ``make(name)`` builds its model, in float64 and in ``eval()`` mode, with
random biases and norm statistics: freshly built layers have zero biases and would hide what a bias does to a dead
channel. ``Entry.inputs(nodes, edges, graphs, seed)`` gives arguments by name for a random graph with self loops, double
edges and isolated nodes. Models that lose nothing say in ``barrier`` which operation keeps every channel.
"""

import torch
from torch import nn

from tests.zoo.entry import HIDDEN, INPUT, OUTPUT, Entry, randomise, without_dropout
from tests.zoo.stacks import mlp
from tests.zoo.table import ZOO

__all__ = ["HIDDEN", "INPUT", "OUTPUT", "ZOO", "Entry", "make", "mlp", "randomise", "without_dropout"]


def make(name: str, seed: int = 0) -> nn.Module:
    """Build a model of the zoo: float64, ``eval()``, every bias, scale and running statistic random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[name].build().double()
        randomise(model)
    return model.eval()
