"""Models in which one tensor is the parameter of several layers; width 6 in, 3 out."""

import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import SAGEConv

WIDTH, HIDDEN, OUT = 6, 8, 3


class Recurrent(nn.Module):
    """Two recurrent layers, one after the other, that share the parameters of some names."""

    def __init__(self, kind, shared, **options):
        super().__init__()
        directions = 2 if options.get("bidirectional") else 1
        self.first = nn.Linear(WIDTH, HIDDEN * directions)
        self.a, self.b = (kind(HIDDEN * directions, HIDDEN, batch_first=True, **options) for _ in range(2))
        self.head = nn.Linear(HIDDEN * directions, OUT)
        for name in self.a._parameters:
            if name.startswith(shared):
                setattr(self.b, name, getattr(self.a, name))

    def forward(self, x, edge_index):
        h = self.first(x).relu()
        steps = torch.stack([h, h.roll(1, 0), 2 * h], 1)
        return self.head(self.b(self.a(steps)[0].relu())[0].amax(1))


class Branches(Recurrent):
    """Both read the same sequence."""

    def forward(self, x, edge_index):
        h = self.first(x).relu()
        steps = torch.stack([h, h.roll(1, 0), 2 * h], 1)
        return self.head((self.a(steps)[0] + self.b(steps.flip(1))[0])[:, -1])


class Norms(nn.Module):
    """Two batch norms with one scale."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.a, self.b, self.head = nn.BatchNorm1d(HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, OUT)
        nn.init.uniform_(self.a.weight)
        self.b.weight = self.a.weight

    def forward(self, x, edge_index):
        h = self.a(self.first(x)).relu()
        return self.head(self.b(self.second(h)).relu())


class Linears(nn.Module):
    """Two linear layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.b = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, OUT)
        self.b.weight = self.a.weight

    def forward(self, x, edge_index):
        return self.head(self.b(self.a(self.first(x).relu()).relu()).relu())


class Vocabulary(nn.Module):
    """An embedding whose table is also the last layer."""

    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(10, HIDDEN), SAGEConv(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x, edge_index):
        return self.head(self.conv(self.table((x[:, 0].abs() * 3).long()), edge_index).relu())


class Containers(nn.Module):
    """One convolution in two containers."""

    def __init__(self):
        super().__init__()
        conv = SAGEConv(HIDDEN, HIDDEN)
        self.first, self.head = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, OUT)
        self.up, self.down = nn.ModuleList([conv]), nn.ModuleDict({"conv": conv})

    def forward(self, x, edge_index):
        h = self.up[0](self.first(x).relu(), edge_index).relu()
        return self.head(self.down["conv"](h, edge_index).relu())


class Autoencoder(nn.Module):
    """A decoder with the encoder's weight, transposed."""

    def __init__(self):
        super().__init__()
        self.first, self.encode, self.head = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, 5), nn.Linear(HIDDEN, OUT)

    def forward(self, x, edge_index):
        code = self.encode(self.first(x).relu()).relu()
        return self.head(F.linear(code, self.encode.weight.t()).relu())


class CellAndLayer(nn.Module):
    """A GRU whose input weight is also that of a linear layer, which the model has before or after it."""

    def __init__(self, before):
        super().__init__()
        self.first, self.rnn = nn.Linear(WIDTH, HIDDEN), nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.lin, self.head = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(4 * HIDDEN, OUT)
        self.lin.weight = self.rnn.weight_ih_l0
        if before:
            self._modules["rnn"] = self._modules.pop("rnn")

    def forward(self, x, edge_index):
        h = self.first(x).relu()
        return self.head(torch.cat([self.rnn(h[:, None])[0][:, 0], self.lin(h).relu()], 1))


MODELS = {
    "GRUs, all": lambda: Recurrent(nn.GRU, ("weight", "bias")),
    "GRUs, input weights": lambda: Recurrent(nn.GRU, "weight_ih"),
    "LSTMs, states": lambda: Recurrent(nn.LSTM, "weight_hh"),
    "LSTMs, both directions": lambda: Recurrent(nn.LSTM, ("weight", "bias"), bidirectional=True),
    "RNNs on one sequence": lambda: Branches(nn.RNN, "weight"),
    "batch norms": Norms,
    "linear layers": Linears,
    "embedding and head": Vocabulary,
    "a convolution in two containers": Containers,
    "transposed": Autoencoder,
    "GRU and linear layer": lambda: CellAndLayer(False),
}


class Reads(nn.Module):
    """A model that reads a tensor of a layer besides calling it, by ``use(model, h)``."""

    def __init__(self, use):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, OUT)
        self.rnn, self.second = nn.GRU(HIDDEN, HIDDEN, batch_first=True), nn.Linear(WIDTH, HIDDEN)
        self.third = nn.Linear(HIDDEN, OUT)
        self.use = use
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            nn.init.normal_(tensor)

    def forward(self, x, edge_index):
        h = self.norm(self.first(x)).relu()
        return self.head(self.rnn(h[:, None])[0][:, 0]) + self.use(self, x)


READS = {
    "a scale": lambda model, x: model.third((model.second(x) * model.norm.weight).relu()),
    "a shift": lambda model, x: model.third((model.second(x) + model.norm.bias).relu()),
    "a running mean": lambda model, x: model.third((model.second(x) - model.norm.running_mean).relu()),
    "a penalty": lambda model, x: model.norm.weight.square().sum() + model.second(x)[:, :OUT],
    "input weights": lambda model, x: model.third(F.linear(model.second(x).relu(), model.rnn.weight_ih_l0)[:, :HIDDEN]),
    "weights of states": lambda model, x: model.rnn.weight_hh_l0.norm() + model.second(x)[:, :OUT],
    "a bias of gates": lambda model, x: model.third((model.second(x) + model.rnn.bias_ih_l0[:HIDDEN]).relu()),
}
