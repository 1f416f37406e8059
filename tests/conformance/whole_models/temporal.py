"""Recurrent and spatio-temporal models: torch_geometric_temporal's cells, traffic forecasting, temporal graphs."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import ChebConv, GCNConv, RGCNConv
from torch_geometric.utils import scatter

from tests.conformance.whole_models.row import TIMES, Whole

SOURCE = "temporal"
STEP, LSTM = "x edge_index edge_weight h", "x edge_index edge_weight h c"
FORECAST = "xs=snapshots edge_index edge_attr=edge_weight"
STATE = "the state of a cell is its output, which keeps all channels"
UNROLLED, SERIES = "xs=snapshots edge_index edge_weight", "X=series edge_index edge_weight"


class GConvGRU(nn.Module):
    """A gated unit whose gates are Chebyshev convolutions of input and state."""

    def __init__(self, inside=8, width=16, K=2):
        super().__init__()
        self.width = width
        self.x_z, self.x_r, self.x_h = (ChebConv(inside, width, K) for _ in range(3))
        self.h_z, self.h_r, self.h_h = (ChebConv(width, width, K) for _ in range(3))

    def forward(self, X, edge_index, edge_weight=None, H=None):
        if H is None:
            H = torch.zeros(X.shape[0], self.width, dtype=X.dtype, device=X.device)
        Z = torch.sigmoid(self.x_z(X, edge_index, edge_weight) + self.h_z(H, edge_index, edge_weight))
        R = torch.sigmoid(self.x_r(X, edge_index, edge_weight) + self.h_r(H, edge_index, edge_weight))
        T = torch.tanh(self.x_h(X, edge_index, edge_weight) + self.h_h(H * R, edge_index, edge_weight))
        return Z * H + (1 - Z) * T


class RecurrentGCN(nn.Module):
    """One step of a cell and a readout, as the package's examples have it."""

    def __init__(self, cell):
        super().__init__()
        self.recurrent, self.linear = cell, nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_weight, h):
        h = self.recurrent(x, edge_index, edge_weight, h)
        return self.linear(F.relu(h)), h


class Unrolled(nn.Module):
    """The cell over given snapshots; the state starts at zero."""

    def __init__(self, cell):
        super().__init__()
        self.recurrent, self.linear = cell, nn.Linear(16, 1)

    def forward(self, xs, edge_index, edge_weight):
        h = None
        for t in range(TIMES):
            h = self.recurrent(xs[t], edge_index, edge_weight, h)
        return self.linear(F.relu(h))


class Forecast(nn.Module):
    """A cell with two states over the snapshots, and a readout: only the forecast leaves the model."""

    def __init__(self, cell):
        super().__init__()
        self.recurrent, self.linear = cell, nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, xs, edge_index, edge_attr):
        h = c = torch.zeros(xs.size(1), 16, dtype=xs.dtype, device=xs.device)
        for t in range(TIMES):
            _, h, c = self.recurrent(xs[t], edge_index, edge_attr, h, c)
        return self.linear(F.relu(h))


class GConvLSTM(nn.Module):
    """Peephole gates on convolutions of input and state."""

    def __init__(self, K=2):
        super().__init__()
        self.conv_x = nn.ModuleDict({gate: ChebConv(8, 16, K) for gate in "ifco"})
        self.conv_h = nn.ModuleDict({gate: ChebConv(16, 16, K) for gate in "ifco"})
        self.w = nn.ParameterDict({gate: nn.Parameter(torch.randn(1, 16) / 4) for gate in "ifo"})
        self.b = nn.ParameterDict({gate: nn.Parameter(torch.zeros(1, 16)) for gate in "ifco"})
        self.linear = nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_weight, h, c):
        def gate(name, peep=None):
            out = self.conv_x[name](x, edge_index, edge_weight) + self.conv_h[name](h, edge_index, edge_weight)
            return (out if peep is None else out + self.w[name] * peep) + self.b[name]

        i, f = torch.sigmoid(gate("i", c)), torch.sigmoid(gate("f", c))
        c = f * c + i * torch.tanh(gate("c"))
        o = torch.sigmoid(gate("o", c))
        h = o * torch.tanh(c)
        return self.linear(F.relu(h)), h, c


class GCLSTM(nn.Module):
    """Input through dense weights, state through convolutions."""

    def __init__(self):
        super().__init__()
        self.W = nn.ParameterDict({gate: nn.Parameter(torch.randn(8, 16) / 3) for gate in "ifco"})
        self.b = nn.ParameterDict({gate: nn.Parameter(torch.zeros(1, 16)) for gate in "ifco"})
        self.conv = nn.ModuleDict({gate: ChebConv(16, 16, 2) for gate in "ifco"})
        self.linear = nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_weight, h, c):
        def pre(k):
            return torch.matmul(x, self.W[k]) + self.conv[k](h, edge_index, edge_weight) + self.b[k]

        c = torch.sigmoid(pre("f")) * c + torch.sigmoid(pre("i")) * torch.tanh(pre("c"))
        h = torch.sigmoid(pre("o")) * torch.tanh(c)
        return self.linear(F.relu(h)), h, c


class TGCN(nn.Module):
    """Convolve first, then gate with a linear layer over input and state."""

    def __init__(self, width=16):
        super().__init__()
        self.width = width
        self.conv_z, self.conv_r, self.conv_h = (GCNConv(8, width) for _ in range(3))
        self.linear_z, self.linear_r, self.linear_h = (nn.Linear(2 * width, width) for _ in range(3))

    def forward(self, X, edge_index, edge_weight=None, H=None):
        if H is None:
            H = torch.zeros(X.shape[0], self.width).to(X)
        Z = torch.sigmoid(self.linear_z(torch.cat([self.conv_z(X, edge_index, edge_weight), H], axis=1)))
        R = torch.sigmoid(self.linear_r(torch.cat([self.conv_r(X, edge_index, edge_weight), H], axis=1)))
        T = torch.tanh(self.linear_h(torch.cat([self.conv_h(X, edge_index, edge_weight), H * R], axis=1)))
        return Z * H + (1 - Z) * T


class A3TGCN(nn.Module):
    """Attention over the states of all time steps."""

    def __init__(self):
        super().__init__()
        self.cell, self.attention = TGCN(), nn.Parameter(torch.rand(TIMES))
        self.linear = nn.Linear(16, TIMES)

    def forward(self, X, edge_index, edge_weight):
        probs = torch.softmax(self.attention, dim=0)
        total = 0
        for t in range(TIMES):
            total = total + probs[t] * self.cell(X[:, :, t], edge_index, edge_weight)
        return self.linear(F.relu(total))


class DCRNN(nn.Module):
    """Diffusion in both directions inside a gated unit."""

    class Diffusion(nn.Module):
        def __init__(self, inside, width):
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.randn(2, 2, inside, width) / 4),
                nn.Parameter(torch.zeros(width)),
            )

        def forward(self, X, edge_index, edge_weight):
            row, col = edge_index
            out_deg = scatter(edge_weight, row, dim=0, dim_size=X.size(0), reduce="sum").clamp(min=1e-6)
            in_deg = scatter(edge_weight, col, dim=0, dim_size=X.size(0), reduce="sum").clamp(min=1e-6)
            forth = scatter((edge_weight / out_deg[row]).view(-1, 1) * X[row], col, dim=0, dim_size=X.size(0))
            back = scatter((edge_weight / in_deg[col]).view(-1, 1) * X[col], row, dim=0, dim_size=X.size(0))
            H = torch.matmul(X, self.weight[0, 0]) + torch.matmul(X, self.weight[1, 0])
            return H + torch.matmul(forth, self.weight[0, 1]) + torch.matmul(back, self.weight[1, 1]) + self.bias

    def __init__(self):
        super().__init__()
        self.z, self.r, self.h = (self.Diffusion(24, 16) for _ in range(3))

    def forward(self, X, edge_index, edge_weight, H):
        if H is None:
            H = X.new_zeros(X.size(0), 16)
        both = torch.cat([X, H], dim=1)
        Z = torch.sigmoid(self.z(both, edge_index, edge_weight))
        R = torch.sigmoid(self.r(both, edge_index, edge_weight))
        T = torch.tanh(self.h(torch.cat([X, H * R], dim=1), edge_index, edge_weight))
        return Z * H + (1 - Z) * T


class LRGCN(nn.Module):
    """Gates that are relational convolutions."""

    def __init__(self):
        super().__init__()
        self.x, self.h = (nn.ModuleList(RGCNConv(n, 16, 3, num_bases=2) for _ in range(4)) for n in (8, 16))
        self.linear = nn.Linear(16, 1)

    def forward(self, x, edge_index, edge_type, h, c):
        i, f, g, o = (
            a(x, edge_index, edge_type) + b(h, edge_index, edge_type) for a, b in zip(self.x, self.h, strict=True)
        )
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return self.linear(F.relu(h)), h, c


MODELS = [
    Whole("GConvGRU", SOURCE, lambda: RecurrentGCN(GConvGRU()), STEP),
    Whole("GConvGRU unrolled", SOURCE, lambda: Unrolled(GConvGRU()), UNROLLED),
    Whole("GConvLSTM one step", SOURCE, GConvLSTM, LSTM, below=1, why=STATE),
    Whole("GConvLSTM", SOURCE, lambda: Forecast(GConvLSTM()), FORECAST),
    Whole("GCLSTM", SOURCE, lambda: Forecast(GCLSTM()), FORECAST),
    Whole("TGCN", SOURCE, lambda: RecurrentGCN(TGCN()), STEP),
    Whole("TGCN unrolled", SOURCE, lambda: Unrolled(TGCN()), UNROLLED),
    Whole("A3TGCN", SOURCE, A3TGCN, SERIES),
    Whole("DCRNN", SOURCE, lambda: RecurrentGCN(DCRNN()), STEP),
    Whole("DCRNN unrolled", SOURCE, lambda: Unrolled(DCRNN()), UNROLLED),
    Whole("LRGCN", SOURCE, lambda: Forecast(LRGCN()), "xs=snapshots edge_index edge_attr=edge_type"),
]
