"""Models whose recurrent layers have states that only layers read; width 6 in, 3 out."""

import torch
from torch import nn
from torch_geometric import nn as gnn

WIDTH, STATES, OUT = 6, 8, 3


class Over(nn.Module):
    """A recurrent layer over ``steps`` shifted copies of a convolution's result, read by a linear layer."""

    def __init__(self, layer, read=lambda out, last: out[:, -1], wide=STATES, initial=None):
        super().__init__()
        self.conv, self.rnn, self.head = gnn.GCNConv(WIDTH, WIDTH), layer, nn.Linear(wide, OUT)
        self.read, self.initial = read, initial
        self.start = nn.Linear(WIDTH, STATES)

    def sequence(self, x, edge_index):
        h = self.conv(x, edge_index).tanh()
        steps = torch.stack([h, h.roll(1, 0), (h * 2).sin()], 1)
        return steps if self.rnn.batch_first else steps.transpose(0, 1)

    def forward(self, x, edge_index):
        given = () if self.initial is None else (self.initial(self, x),)
        return self.head(self.read(*self.rnn(self.sequence(x, edge_index), *given)))


class Twice(Over):
    """One layer is called on two sequences, the second time from the states of the first."""

    def forward(self, x, edge_index):
        steps = self.sequence(x, edge_index)
        out, states = self.rnn(steps)
        return self.head(out[:, -1]) + self.head(self.rnn(steps.flip(1), states)[0].amax(1))


class FromItsInput(Over):
    """The sequence, one step long, is the initial state too, as in message passing with a GRU that updates nodes."""

    def forward(self, x, edge_index):
        h = self.start(self.conv(x, edge_index)).relu()[None]
        return self.head(self.rnn(h, (h, h) if isinstance(self.rnn, nn.LSTM) else h)[0][0])


class EncoderDecoder(Over):
    """A second layer starts with the states of the first, of which nothing else is read."""

    def __init__(self):
        super().__init__(nn.LSTM(WIDTH, STATES, batch_first=True))
        self.decoder = nn.LSTM(WIDTH, STATES, batch_first=True)

    def forward(self, x, edge_index):
        steps = self.sequence(x, edge_index)
        _, states = self.rnn(steps)
        return self.head(self.decoder(steps.flip(1), states)[0][:, 0])


class Stacked(Over):
    """Two layers, one over the outputs of the other, with dropout between."""

    def __init__(self):
        super().__init__(nn.GRU(WIDTH, STATES, batch_first=True))
        self.second, self.norm = nn.LSTM(STATES, STATES, batch_first=True), nn.BatchNorm1d(STATES)

    def forward(self, x, edge_index):
        out = self.second(self.rnn(self.sequence(x, edge_index))[0].relu())[0]
        return self.head(self.norm(out.sum(1)))


class OverNodes(nn.Module):
    """A bidirectional layer over all nodes as one sequence, without an axis of rows beside it."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(WIDTH, STATES, bidirectional=True), gnn.GCNConv(2 * STATES, OUT)

    def forward(self, x, edge_index):
        return self.head(self.rnn(x)[0], edge_index)


class Learned(Over):
    """Initial states are parameters, one for each layer and direction."""

    def __init__(self):
        super().__init__(nn.GRU(WIDTH, STATES, 2, batch_first=True, bidirectional=True), wide=2 * STATES)
        self.first = nn.Parameter(torch.randn(4, 1, STATES))

    def forward(self, x, edge_index):
        return self.head(self.rnn(self.sequence(x, edge_index), self.first.expand(-1, x.size(0), -1))[0][:, -1])


class Aggregated(nn.Module):
    """An aggregation with a recurrent layer over the neighbours."""

    def __init__(self, aggregation):
        super().__init__()
        self.conv, self.head = gnn.SAGEConv(WIDTH, STATES, aggr=aggregation), gnn.SAGEConv(STATES, OUT)

    def forward(self, x, edge_index):
        return self.head(self.conv(x, edge_index).relu(), edge_index)


class Jumping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = gnn.GCNConv(WIDTH, WIDTH), gnn.GCNConv(WIDTH, WIDTH)
        self.jump, self.head = gnn.JumpingKnowledge("lstm", WIDTH, 2), nn.Linear(WIDTH, OUT)

    def forward(self, x, edge_index):
        one = self.first(x, edge_index).relu()
        return self.head(self.jump([one, self.second(one, edge_index).relu()]))


def started(model, x):
    """Initial states that a linear layer makes of the nodes."""
    h = model.start(x).tanh().unsqueeze(0)
    return (h, h.sin()) if isinstance(model.rnn, nn.LSTM) else h


def _first(kind, **options):
    return kind(WIDTH, STATES, batch_first=True, **options)


#: Models whose recurrent layers lose states.
MODELS = {
    "LSTM, last step": lambda: Over(_first(nn.LSTM)),
    "GRU, steps first": lambda: Over(nn.GRU(WIDTH, STATES), lambda out, last: out[-1]),
    "RNN, last state": lambda: Over(_first(nn.RNN, nonlinearity="relu", bias=False), lambda out, last: last[-1]),
    "LSTM, cell and state": lambda: Over(_first(nn.LSTM), lambda out, last: (last[0] + last[1].tanh())[0]),
    "LSTM, all steps": lambda: Over(_first(nn.LSTM), lambda out, last: out.sigmoid().mean(1)),
    "GRU, outputs and state": lambda: Over(_first(nn.GRU), lambda out, last: out[:, 0] * last[0]),
    "LSTM from given states": lambda: Over(_first(nn.LSTM), initial=started),
    "GRU from given states": lambda: Over(_first(nn.GRU), initial=started),
    "LSTM of two directions": lambda: Over(_first(nn.LSTM, bidirectional=True), wide=2 * STATES),
    "GRU, last state of both": lambda: Over(
        _first(nn.GRU, bidirectional=True), lambda out, last: torch.cat([last[0], last[1]], 1), 2 * STATES
    ),
    "LSTM of three layers": lambda: Over(_first(nn.LSTM, num_layers=3)),
    "GRU, two layers, two directions": lambda: Over(
        _first(nn.GRU, num_layers=2, bidirectional=True), lambda out, last: out.sum(1), 2 * STATES
    ),
    "states of both layers": lambda: Over(_first(nn.LSTM, num_layers=2), lambda out, last: last[0][0] * last[1][1]),
    "dropout between layers": lambda: Over(_first(nn.GRU, num_layers=2, dropout=0.5)),
    "one layer twice": lambda: Twice(_first(nn.GRU)),
    "GRU from its own input": lambda: FromItsInput(nn.GRU(STATES, STATES)),
    "LSTM from its own input": lambda: FromItsInput(nn.LSTM(STATES, STATES)),
    "encoder and decoder": EncoderDecoder,
    "one on the other": Stacked,
    "over nodes": OverNodes,
    "learned start": Learned,
    "SAGE with an LSTM": lambda: Aggregated("lstm"),
    "SAGE with a GRU": lambda: Aggregated(gnn.aggr.GRUAggregation(WIDTH, WIDTH)),
    "JumpingKnowledge": Jumping,
}


class Projected(Over):
    def __init__(self):
        super().__init__(nn.LSTM(WIDTH, STATES, proj_size=4, batch_first=True), wide=4)


class OwnGRU(nn.GRU):
    pass


class Normed(Over):
    """A layer norm reads all last states: they stay, and the norm is the barrier."""

    def __init__(self):
        super().__init__(nn.GRU(WIDTH, STATES, batch_first=True))
        self.norm = nn.LayerNorm(STATES)

    def forward(self, x, edge_index):
        return self.head(self.norm(self.rnn(self.sequence(x, edge_index))[0][:, -1]))


class ReadElsewhere(Over):
    """The weights of the states are read as numbers too."""

    def forward(self, x, edge_index):
        return super().forward(x, edge_index) * self.rnn.weight_hh_l0.square().mean()


#: Models whose recurrent states all stay, with the reason that the report gives.
STAY = {
    "proj_size": (Projected, "proj_size"),
    "a class of its own": (lambda: Over(OwnGRU(WIDTH, STATES, batch_first=True)), "class of its own"),
    "a norm over states": (Normed, "a norm over channels reads them all"),
    "weights read elsewhere": (lambda: ReadElsewhere(_first(nn.GRU)), "something else reads its weights too"),
}
