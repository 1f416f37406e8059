"""What models that cannot be traced get: where, why, and what to do."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import upscale_fx
from tests.whole.refusals import CALLS, refused
from upscale_fx import TraceError
from upscale_fx.models import SAGE


class BranchOnValues(nn.Module):
    def forward(self, x, edge_index):
        return x if x.sum() > 0 else -x  # here: branch on values


class LoopOverNodes(nn.Module):
    def forward(self, x, edge_index):
        return torch.stack([row * 2 for row in x])  # here: loop over nodes


class Item(nn.Module):
    def forward(self, x, edge_index):
        return x * x.max().item()  # here: item


class RangeOverNodes(nn.Module):
    def forward(self, x, edge_index):
        count = int(edge_index.max()) + 1
        return sum(x * i for i in range(count))  # here: range


class BranchOnSize(nn.Module):
    def forward(self, x, edge_index):
        if x.size(0) > 8:  # here: branch on size
            return x * 2
        return x


class InPlaceInput(nn.Module):
    def forward(self, x, edge_index):
        x += 1  # here: in place
        return x * 2


def line_of(marker):
    """Where in this file a comment ``# here: marker`` stands."""
    with open(__file__) as source:
        (number,) = [n for n, line in enumerate(source, 1) if line.rstrip().endswith(f"# here: {marker}")]
    return rf"{Path(__file__).stem}\.py:{number}\b"


class Deep(nn.Module):
    """Something untraceable three modules down."""

    def __init__(self, inner):
        super().__init__()
        self.conv, self.head = GCNConv(6, 16), GCNConv(16, 3)
        self.body = nn.ModuleDict({"blocks": nn.ModuleList([nn.Identity(), inner])})

    def forward(self, x, edge_index):
        return self.head(self.body["blocks"][1](self.conv(x, edge_index), edge_index), edge_index)


@pytest.mark.parametrize("call", CALLS)
def test_an_untraceable_model_gets_the_same_error_everywhere(call):
    model = Deep(Item()).train()
    with refused(model, TraceError, r"body\.blocks\.1 \(Item\)", line_of("item")):
        CALLS[call](model)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("inner", "marker", "reason"),
    [
        (BranchOnValues, "branch on values", "branch depends on tensor values"),
        (LoopOverNodes, "loop over nodes", "row axis"),
        (Item, "item", r"'\.item\(\)' turns tensor values into Python values"),
        (RangeOverNodes, "range", r"fixed integer, as in range\(\)"),
        (BranchOnSize, "branch on size", "branch depends on the number of nodes"),
    ],
)
def test_an_untraceable_model_is_told_where_why_and_what_to_do(inner, marker, reason, training):
    model = Deep(inner()).train(training)
    place = rf"body\.blocks\.1 \({inner.__name__}\)"
    with refused(
        model, TraceError, "cannot trace Deep", place, line_of(marker), reason, "; .*(use|pass|choose|compute)"
    ):
        upscale_fx.prune(model, 0.5)


def test_an_input_changed_in_place_is_refused_by_name():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.change, self.lin = InPlaceInput(), nn.Linear(6, 3)

        def forward(self, x, edge_index):
            return self.lin(self.change(x, edge_index))

    model = Changes()
    with refused(model, TraceError, r"change \(InPlaceInput\)", line_of("in place"), "'x' is changed in place"):
        upscale_fx.trace(model)


def test_tracing_leaves_pyg_and_torch_as_they_were_after_an_error():
    before = torch.zeros, torch.nn.Module.__call__, torch.nn.Module.__getattr__, GCNConv.forward
    with pytest.raises(TraceError):
        upscale_fx.trace(Deep(Item()))
    assert (torch.zeros, torch.nn.Module.__call__, torch.nn.Module.__getattr__, GCNConv.forward) == before
    assert upscale_fx.trace(SAGE(6, 16, 3)) is not None
