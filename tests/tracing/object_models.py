"""Models that take objects, or return them, as users write them, and objects to call them with."""

import argparse
import copy
import dataclasses
import types
from typing import Any, NamedTuple

import torch
import torch_geometric.nn as gnn
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData


def graph(nodes=30, **more):
    """A graph with features of width 8."""
    return Data(x=torch.randn(nodes, 8), edge_index=torch.randint(nodes, (2, 4 * nodes)), **more)


def batch(*sizes, **more):
    """A batch of graphs."""
    return Batch.from_data_list([graph(size, y=torch.tensor([size % 3]), **more) for size in sizes or (5, 9, 7)])


def hetero(**more):
    """Users and items, and two types of edges."""
    data = HeteroData(**more)
    data["user"].x, data["item"].x = torch.randn(12, 8), torch.randn(9, 8)
    data["user"].y = torch.randint(3, (12,))
    data["user", "buys", "item"].edge_index = torch.stack([torch.randint(12, (40,)), torch.randint(9, (40,))])
    data["item", "bought", "user"].edge_index = torch.stack([torch.randint(9, (40,)), torch.randint(12, (40,))])
    return data


class Base(nn.Module):
    """Two layers and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = gnn.GCNConv(8, 16), gnn.GCNConv(16, 16), nn.Linear(16, 3)

    def hidden(self, x, edge_index, weight=None):
        return self.second(self.first(x, edge_index, weight).relu(), edge_index, weight).relu()

    def body(self, x, edge_index, weight=None):
        return self.head(self.hidden(x, edge_index, weight))


class Nodes(Base):
    """Reads two attributes."""

    def forward(self, data):
        return self.body(data.x, data.edge_index).log_softmax(-1)


class Items(Base):
    """Reads by name, and moves the object."""

    def forward(self, data):
        data = data.to(self.head.weight.device)
        return self.body(data["x"], data["edge_index"])


class Unused(Base):
    """Reads an attribute that it does not use."""

    def forward(self, g):
        x, edge_index, _y = g.x, g.edge_index, g.y
        return self.body(x, edge_index)


class Optional(Base):
    """Looks for weights in three ways."""

    def forward(self, data):
        weight = data.edge_weight if hasattr(data, "edge_weight") else None
        if "edge_attr" in data:
            weight = data.edge_attr.sum(-1)
        return self.body(data.x, data.edge_index, getattr(data, "strength", weight))


class Pooled(Base):
    """Graph level."""

    def forward(self, data):
        x, edge_index, batch = data.x, data.edge_index, data.batch
        return self.head(gnn.global_mean_pool(self.hidden(x, edge_index), batch))


class Counted(Base):
    """Asks the batch for counts."""

    def forward(self, batch):
        pooled = gnn.global_add_pool(self.hidden(batch.x, batch.edge_index), batch.batch, size=batch.num_graphs)
        return self.head(pooled / batch.num_nodes)


class Seeds(Base):
    """The seeds of a sampled batch."""

    def forward(self, data):
        return self.body(data.x, data.edge_index)[: data.batch_size]


class Kind(Base):
    """A branch on a string."""

    def forward(self, data):
        return self.body(data.x, data.edge_index) * (2.0 if data.kind == "a" else 3.0)


class Pairs(Base):
    """An object and a tensor."""

    def forward(self, data, pairs):
        h = self.body(data.x, data.edge_index)
        return (h[pairs[0]] * h[pairs[1]]).sum(-1)


class Inside(Base):
    """An object in an object."""

    def forward(self, sample):
        return self.body(sample.graph.x, sample.graph.edge_index)


class Unpacked(Base):
    """A named tuple, taken apart."""

    def forward(self, graph):
        x, edge_index = graph
        return self.body(x, edge_index)


class Mapped(Base):
    """A dictionary with the attributes of a graph."""

    def forward(self, batch):
        return self.body(batch["x"], batch["edge_index"], batch.get("weight"))


class Several(Base):
    """A list of graphs."""

    def forward(self, graphs):
        return torch.stack([self.body(one.x, one.edge_index).mean(0) for one in graphs])


class Listing(Base):
    """Lists the attributes."""

    def forward(self, data):
        return self.body(**{key: value for key, value in data if key in ("x", "edge_index")}) * len(data.keys())


class Typed(nn.Module):
    """A heterogeneous model of a HeteroData."""

    def __init__(self):
        super().__init__()
        kinds = hetero().edge_types
        self.first = gnn.HeteroConv({kind: gnn.SAGEConv((8, 8), 16) for kind in kinds})
        self.second = gnn.HeteroConv({kind: gnn.SAGEConv((16, 16), 16) for kind in kinds})
        self.head = nn.Linear(16, 3)

    def hidden(self, x_dict, edge_index_dict):
        h = {key: value.relu() for key, value in self.first(x_dict, edge_index_dict).items()}
        return {key: value.relu() for key, value in self.second(h, edge_index_dict).items()}

    def forward(self, data):
        return self.head(self.hidden(data.x_dict, data.edge_index_dict)["user"])


class TypedStores(Typed):
    """Reads the stores of types."""

    def forward(self, data):
        edges = {kind: data[kind].edge_index for kind in data.edge_types}
        return self.head(self.hidden({"user": data["user"].x, "item": data["item"].x}, edges)["user"])


class TypedPooled(Typed):
    """Graph level."""

    def forward(self, data):
        h = self.hidden(data.x_dict, data.edge_index_dict)["user"]
        return self.head(gnn.global_mean_pool(h, data["user"].batch, data.num_graphs))


class Sets(Base):
    """Sets attributes of its argument, as layers of GraphGym do, and returns it."""

    def forward(self, data):
        data.x = self.hidden(data.x, data.edge_index)
        data.scores = self.head(data.x)
        return data


class SetsTyped(Typed):
    """Sets attributes of a type."""

    def forward(self, data):
        data["user"].scores = super().forward(data)
        return data


class Clones(Base):
    """Returns a copy of its argument."""

    def forward(self, data):
        new = copy.copy(data)
        new.x = self.body(data.x, data.edge_index)
        return new, new.x.sum(-1)


class Deletes(Base):
    """Takes an attribute away."""

    def forward(self, data):
        data.scores = self.body(data.x, data.edge_index)
        del data.x
        return data


@dataclasses.dataclass
class Output:
    """What a model returns."""

    logits: Any
    hidden: Any
    kind: str = "output"


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a model takes."""

    graph: Data
    labels: Tensor | None = None


@dataclasses.dataclass
class Arrays:
    """A graph of the user's own."""

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None = None
    name: str = "one"


class Pair(NamedTuple):
    """A graph as a named tuple."""

    x: Tensor
    edge_index: Tensor


class Plain:
    """An object with attributes and nothing else."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Returns(Base):
    """Returns what a function makes of its output and its hidden values."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x, edge_index):
        hidden = self.first(x, edge_index).relu()
        return self.make(self.head(self.second(hidden, edge_index).relu()), hidden, edge_index)


#: How results are built.
RESULTS = {
    "dataclass": lambda y, h, e: Output(y, h),
    "named tuple": lambda y, h, e: Pair(y, h),
    "Data": lambda y, h, e: Data(x=y, edge_index=e, name="result"),
    "HeteroData": lambda y, h, e: HeteroData({"user": {"x": y}, "hidden": {"x": h}}),
    "namespace": lambda y, h, e: types.SimpleNamespace(y=y, text="result"),
    "inside another": lambda y, h, e: Output(Output(y, h), (y, None)),
    "in a tuple": lambda y, h, e: (Output(y, None), [Pair(y, h)], None),
    "in a dictionary": lambda y, h, e: {"output": Output(y, h), "y": y},
}


def tensors(x=None, edge_index=None):
    """Arguments of a model of tensors."""
    return x if x is not None else torch.randn(30, 8), torch.randint(30, (2, 120)) if edge_index is None else edge_index


#: Models and the arguments of a call.
CALLS = {
    "attributes": (Nodes, lambda: (graph(y=torch.rand(30), smiles=["CC"], name="one"),)),
    "items, moved": (Items, lambda: (graph(n_id=torch.arange(30)),)),
    "an unused one": (Unused, lambda: (graph(y=torch.randint(3, (30,))),)),
    "optional, missing": (Optional, lambda: (graph(),)),
    "optional, edge_weight": (Optional, lambda: (graph(edge_weight=torch.rand(120)),)),
    "optional, edge_attr": (Optional, lambda: (graph(edge_attr=torch.rand(120, 2)),)),
    "a batch": (Pooled, lambda: (batch(),)),
    "counts": (Counted, lambda: (batch(),)),
    "seeds": (Seeds, lambda: (graph(batch_size=7, n_id=torch.arange(30)),)),
    "a constant": (Kind, lambda: (graph(kind="a"),)),
    "with a tensor": (Pairs, lambda: (graph(), torch.randint(30, (2, 50)))),
    "a dataclass": (Nodes, lambda: (Arrays(*tensors()),)),
    "a namespace": (Nodes, lambda: (types.SimpleNamespace(**dict(zip(("x", "edge_index"), tensors(), strict=True))),)),
    "argparse": (Nodes, lambda: (argparse.Namespace(**dict(zip(("x", "edge_index"), tensors(), strict=True))),)),
    "a plain object": (Nodes, lambda: (Plain(**dict(zip(("x", "edge_index"), tensors(), strict=True))),)),
    "a named tuple": (Nodes, lambda: (Pair(*tensors()),)),
    "an unpacked named tuple": (Unpacked, lambda: (Pair(*tensors()),)),
    "a dictionary": (Mapped, lambda: ({**dict(zip(("x", "edge_index"), tensors(), strict=True)), "y": 1, "s": ["a"]},)),
    "an object inside": (Inside, lambda: (Sample(graph(), torch.rand(30)),)),
    "a list of graphs": (Several, lambda: ([graph(), graph()],)),
    "listed": (Listing, lambda: (graph(),)),
    "hetero": (Typed, lambda: (hetero(),)),
    "hetero, stores": (TypedStores, lambda: (hetero(),)),
    "hetero, batch": (TypedPooled, lambda: (Batch.from_data_list([hetero(), hetero()]),)),
    "sets": (Sets, lambda: (graph(y=torch.rand(30), names=["a"]),)),
    "sets, hetero": (SetsTyped, lambda: (hetero(),)),
    "copies": (Clones, lambda: (graph(y=torch.rand(30), names=["a"]),)),
    "deletes": (Deletes, lambda: (graph(y=torch.rand(30)),)),
}
