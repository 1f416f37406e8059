"""Models over several types of nodes, as users write them."""

import torch_geometric.nn as gnn
from torch import nn

WIDTHS = {"paper": 8, "author": 5, "term": 7}


class Net(nn.Module):
    """HeteroConvs with ReLU between them; returns a dictionary, or the features of one type."""

    def __init__(self, *convs, returned=None, head=None):
        super().__init__()
        self.convs, self.returned, self.head = nn.ModuleList(convs), returned, head

    def forward(self, x_dict, edge_index_dict):
        for number, conv in enumerate(self.convs):
            if number:
                x_dict = {key: x.relu() for key, x in x_dict.items()}
            x_dict = conv(x_dict, edge_index_dict)
        if self.returned is None:
            return x_dict
        return x_dict[self.returned] if self.head is None else self.head(x_dict[self.returned])


class WithEdges(nn.Module):
    """One HeteroConv whose relations have edge features or weights."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x_dict, edge_index_dict, edge_attr_dict=None, edge_weight_dict=None):
        if edge_attr_dict is not None:
            return self.conv(x_dict, edge_index_dict, edge_attr_dict=edge_attr_dict)
        return self.conv(x_dict, edge_index_dict, edge_weight_dict=edge_weight_dict)


class Each(nn.Module):
    """Linear layers by type around what is tested."""

    def __init__(self, inner, width=9):
        super().__init__()
        self.first = gnn.HeteroDictLinear(WIDTHS, width)
        self.inner, self.last = inner, gnn.HeteroDictLinear(inner.width, 6, types=list(WIDTHS))

    def forward(self, x_dict):
        x = self.first(x_dict)
        return self.last(self.inner(x))


class Jumping(nn.Module):
    """A jumping knowledge by type over two linear layers."""

    def __init__(self, mode, width):
        super().__init__()
        self.width = width
        self.second = gnn.HeteroDictLinear(9, 9, types=list(WIDTHS))
        self.jump = gnn.HeteroJumpingKnowledge(list(WIDTHS), mode, 9, 2)

    def forward(self, x_dict):
        second = self.second({key: x.relu() for key, x in x_dict.items()})
        return self.jump({key: [x, second[key]] for key, x in x_dict.items()})


class Typed(nn.Module):
    """A layer that takes the types of the rows, between two linear layers."""

    def __init__(self, inner):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 10), inner, nn.Linear(10, 6)

    def forward(self, x, type_vec):
        return self.last(self.inner(self.first(x), type_vec).relu())


class GNN(nn.Module):
    """Two layers, as the documentation of to_hetero has them."""

    def __init__(self, layer, inputs=-1, hidden=10, outputs=6, **options):
        super().__init__()
        pair = isinstance(inputs, tuple)
        self.conv1 = layer(inputs, hidden, **options)
        self.conv2 = layer((hidden, hidden) if pair else hidden, outputs, **options)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv2(x, edge_index)


class Skip(nn.Module):
    """Attention with skip connections, as the heterogeneous tutorial has it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.lin1 = gnn.GATConv((-1, -1), 10, add_self_loops=False), gnn.Linear(-1, 10)
        self.conv2, self.lin2 = gnn.GATConv((-1, -1), 6, add_self_loops=False), gnn.Linear(-1, 6)

    def forward(self, x, edge_index):
        x = (self.conv1(x, edge_index) + self.lin1(x)).relu()
        return self.conv2(x, edge_index) + self.lin2(x)
