"""A program: the source of a model, which prints as the module it is, ready to be copied."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.utils import scatter, to_dense_batch
from torch_geometric.utils import softmax as pyg_softmax

from tests.random_models.dropping import Dropping
from tests.random_models.messages import EdgeGate, EdgeMLP, EdgeUpdate
from tests.random_models.zeros import disturb, zero

SPACE = {
    "torch": torch, "nn": nn, "F": F, "pyg": pyg, "scatter": scatter, "pyg_softmax": pyg_softmax,
    "to_dense_batch": to_dense_batch, "EdgeMLP": EdgeMLP, "EdgeGate": EdgeGate, "EdgeUpdate": EdgeUpdate,
    "Dropping": Dropping,
}  # fmt: skip
DRAWN = "drawn_at_random"
SIGNATURE = "self, x, edge_index, edge_attr, edge_type, batch, seeds, pairs, near, series, x_t, edge_index_t"
HETERO_SIGNATURE = "self, x_dict, edge_index_dict, edge_attr, edge_type, batch, seeds, pairs, near, series"
#: What programs of two node types start with: their lines see nodes N of type a, and U of type b.
UNPACK = [
    'x, y = x_dict["a"], x_dict["b"]',
    'edge_index, forth, back = (edge_index_dict[r] for r in [("a", "in", "a"), ("a", "to", "b"), ("b", "of", "a")])',
]


@dataclass(frozen=True)
class Program:
    """Source of a model: its parts (attribute -> constructor), the lines of forward, and how zeros are drawn."""

    parts: dict[str, str]
    lines: list[str]
    result: str
    draw: int
    zeros: bool
    hetero: bool = False

    @property
    def body(self) -> list[str]:
        """The lines of forward."""
        return [*(UNPACK if self.hetero else []), *self.lines, f"return {self.result}"]

    @property
    def signature(self) -> str:
        """The arguments of forward."""
        return HETERO_SIGNATURE if self.hetero else SIGNATURE

    def __repr__(self):
        source = [f"    self.{name} = {code}" for name, code in self.parts.items()]
        source += [f"  def forward({self.signature}):", *(f"    {line}" for line in self.body)]
        return "\n" + "\n".join(source) + f"\n# draw={self.draw} zeros={self.zeros}\n"

    def build(self) -> nn.Module:
        """The model in float64 and eval mode."""
        torch.manual_seed(self.draw)
        module = sys.modules[DRAWN] = types.ModuleType(DRAWN)  # functions imported by name are found in modules
        module.__dict__.update(SPACE)
        exec(f"def forward({self.signature}):\n" + "\n".join(f"    {line}" for line in self.body), module.__dict__)
        model = type("Drawn", (nn.Module,), {"forward": module.forward, "__module__": DRAWN})()
        for name, code in self.parts.items():
            part = eval(code, SPACE)
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(model, name, part)
            else:
                model.register_buffer(name, part)
        model.double().eval()
        disturb(model)
        if self.zeros:
            zero(model, torch.Generator().manual_seed(self.draw))
        return model
