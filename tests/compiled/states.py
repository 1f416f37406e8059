"""Models whose prunings have parameters of equal shapes, and what people do with states."""

import copy
import io
import pickle
from functools import cache

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch_geometric.nn import GAT, GCN, GIN, GATv2Conv, GraphSAGE, TransformerConv

import upscale_fx


class Stack(nn.Module):
    """Two convolutions of four heads and a linear layer; heads keep equal numbers of channels, so shapes say little."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second, self.head = layer(16, 8, heads=4), layer(32, 8, heads=4), nn.Linear(32, 5)

    def forward(self, x, edge_index):
        x = self.first(x, edge_index).relu()
        return self.head(self.second(x, edge_index).relu())


#: Models whose parameters have equal shapes for many choices of channels.
MODELS = {
    "transformer": lambda: Stack(TransformerConv),
    "gatv2": lambda: Stack(GATv2Conv),
    "gcn": lambda: GCN(16, 32, 3, 4),
    "gat": lambda: GAT(16, 32, 2, 4, heads=4),
    "sage with batch norm": lambda: GraphSAGE(16, 32, 3, 4, norm="batch_norm", dropout=0.3),
    "gin": lambda: GIN(16, 32, 2, 4),
    "jumping knowledge": lambda: GCN(16, 24, 3, 4, jk="cat"),
}


def make(name, seed=0):
    """A model in float64."""
    torch.manual_seed(seed)
    return MODELS[name]().double().eval()


@cache
def pruned_once(name, seed):
    """It, pruned by half."""
    return upscale_fx.prune(make(name, seed), 0.5)


def pruned(name, seed=0):
    """A copy of that."""
    return copy.deepcopy(pruned_once(name, seed))


def saved(values, **options):
    """A state that was written to a file and read again."""
    file = io.BytesIO()
    torch.save(values, file)
    file.seek(0)
    return torch.load(file, **options)


def moving_average(values):
    """Of a hundred times the same state, as training loops keep it."""
    average = {name: value.clone() for name, value in values.items()}
    for _ in range(100):
        for name, value in values.items():
            if average[name].is_floating_point():
                average[name].mul_(0.99).add_(value, alpha=0.01)
    return average


#: What is done with states: each gives a state that is still of the same graph.
HANDLED = {
    "copied": copy.deepcopy,
    "a plain dictionary": lambda values: {name: value.clone() for name, value in values.items()},
    "saved, weights only": lambda values: saved(values, weights_only=True),
    "pickled": lambda values: pickle.loads(pickle.dumps(values)),
    "in half precision": lambda values: {name: value.half() for name, value in values.items()},
    "in bfloat16": lambda values: {name: value.bfloat16() for name, value in values.items()},
    "averaged": lambda values: {name: torch.stack([value, value, value]).mean(0) for name, value in values.items()},
    "mixed": lambda values: {name: 0.3 * value + 0.7 * value for name, value in values.items()},
    "moving average": moving_average,
    "numpy": lambda values: {name: torch.from_numpy(value.numpy()) for name, value in values.items()},
}


class Trainer(nn.Module):
    """A module around a graph, as training frameworks have it; ``save`` and ``load`` are one checkpoint."""

    def __init__(self, graph):
        super().__init__()
        self.model, self.scale = graph, nn.Parameter(torch.ones(1))

    def save(self):
        file = io.BytesIO()
        torch.save({"epoch": 3, "state_dict": self.state_dict()}, file)
        return file.getvalue()

    def load(self, content, strict=True):
        self.load_state_dict(torch.load(io.BytesIO(content), weights_only=True)["state_dict"], strict=strict)


def averaged(graph):
    """It in an AveragedModel that was updated."""
    average = AveragedModel(graph, use_buffers=True)
    average.update_parameters(graph)
    average.update_parameters(graph)
    return average


#: Modules around a graph.
AROUND = {
    "trainer": Trainer,
    "twice": lambda graph: nn.ModuleList([Trainer(graph)]),
    "sequential": nn.Sequential,
    "averaged": averaged,
    "compiled": lambda graph: torch.compile(graph, backend="eager"),
}
