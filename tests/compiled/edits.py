"""Changes of graphs by hand."""

import copy
import operator
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

import upscale_fx


class Net(nn.Module):
    """Linear layers, a batch norm, dropout and message passing."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(16, 32), nn.BatchNorm1d(32)
        self.second, self.head = nn.Linear(32, 24), nn.Linear(24, 4)

    def forward(self, x, edge_index):
        x = F.dropout(self.norm(self.first(x)).relu(), 0.2, self.training)
        x = x.index_add(0, edge_index[1], x[edge_index[0]])
        return self.head(self.second(x).relu())


@cache
def compacted():
    """The model with half of its channels, not fused."""
    torch.manual_seed(0)
    model = Net().double().eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2.0)
    return upscale_fx.compact(upscale_fx.mask(model, 0.5))


@cache
def fused():
    """It, fused."""
    return upscale_fx.optimize(compacted())


def output(graph):
    """The last node."""
    return next(node for node in graph.nodes if node.op == "output")


def node_of(graph, name):
    """The first call with this in its name."""
    return next(node for node in graph.nodes if name in node.name)


# Changes of nodes; each is followed by recompile().


def scale_output(gm):
    with gm.graph.inserting_before(output(gm.graph)):
        scaled = gm.graph.call_function(torch.mul, (output(gm.graph).args[0], 2.0))
    output(gm.graph).args = (scaled,)


def change_activation(gm):
    node = node_of(gm.graph, "relu")
    node.op, node.target = "call_function", torch.sigmoid


def skip_norm(gm):
    node = next(node for node in gm.graph.nodes if node.op == "call_module" and node.target == "norm")
    node.replace_all_uses_with(node.args[0])
    gm.graph.erase_node(node)


def add_layer(gm):
    torch.manual_seed(1)
    gm.add_module("extra", nn.Linear(4, 4).double())
    with gm.graph.inserting_before(output(gm.graph)):
        added = gm.graph.call_module("extra", (output(gm.graph).args[0],))
    output(gm.graph).args = (added,)


def change_number(gm):
    node = node_of(gm.graph, "index_add")
    node.kwargs = {**node.kwargs, "alpha": 3.0}


def residual(gm):
    relu = node_of(gm.graph, "relu")
    with gm.graph.inserting_after(relu):
        doubled = gm.graph.call_function(operator.add, (relu, relu))
    relu.replace_all_uses_with(doubled, lambda user: user is not doubled)


CHANGES = [scale_output, change_activation, skip_norm, add_layer, change_number, residual]

# Changes of what the nodes read: these are used in every graph.


def in_place(gm):
    with torch.no_grad():
        gm.second.weight.mul_(2)
        gm.norm.bias.add_(1)
        gm.norm.running_mean.sub_(1)


def another_parameter(gm):
    gm.second.weight = nn.Parameter(3 * gm.second.weight.detach())


def another_norm(gm):
    new = copy.deepcopy(gm.norm)
    new.bias.data += 1
    gm.norm = new


def no_norm(gm):
    gm.norm = nn.Identity()


def another_layer(gm):
    torch.manual_seed(1)
    outputs, inputs = gm.second.weight.shape
    gm.second = nn.Linear(inputs, outputs).double()


def another_state(gm):
    gm.load_state_dict({name: 1.5 * value if "head" in name else value for name, value in gm.state_dict().items()})


WEIGHTS = [in_place, another_parameter, another_norm, no_norm, another_layer, another_state]


# What changes nothing: no call is refused for it.


def without_dead_nodes(gm):
    gm.graph.eliminate_dead_code()


def without_unused_modules(gm):
    gm.delete_all_unused_submodules()


def dead_layer(gm):
    gm.add_module("unused", nn.Linear(4, 4))


def compiled_again(gm):
    gm.recompile()


def same_graph(gm):
    gm.graph = copy.deepcopy(gm.graph)


NOTHING = [without_dead_nodes, without_unused_modules, dead_layer, compiled_again, same_graph]


# What neither kind of graph is analysed with.


def without_code(gm):
    scale_output(gm)


def new_argument(gm):
    last = [node for node in gm.graph.nodes if node.op == "placeholder"][-1]
    with gm.graph.inserting_after(last):
        gm.graph.placeholder("weight", default_value=None)
    gm.recompile()


def no_check(gm):
    gm.graph.erase_node(node_of(gm.graph, "check_inputs"))
    gm.recompile()


def written_in_place(gm):
    with gm.graph.inserting_after(node_of(gm.graph, "relu")):
        gm.graph.call_method("add_", (node_of(gm.graph, "relu"), 1.0))
    gm.recompile()


def other_forward(gm):
    gm.forward = lambda x, edge_index: x


def deleted(gm):
    del gm.norm


def emptied(gm):
    gm.second = nn.Module()


UNUSABLE = {
    without_code: r"node 'mul' was added, .* call recompile\(\)",
    new_argument: "the argument 'weight' of this graph was added or removed by hand",
    no_check: "check_inputs was removed",
    written_in_place: r"node 'add_' (of this graph changes a tensor in place|was added)",
    other_forward: r"forward\(\) of this compiled graph was replaced",
    deleted: "'norm', which this compiled graph reads, was deleted",
    emptied: r"'second.weight', which this compiled graph reads, was deleted or replaced",
}
