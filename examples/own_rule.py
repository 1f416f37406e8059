"""Add a rule for your own operation: without a rule all its channels are kept, with one they are pruned.

    python examples/own_rule.py

The operation is opaque: tracing does not enter it (it could be a call into C++ or a custom kernel). Here it is an
operator of ``torch.library``. A Python function with a rule is opaque too; a function without one is traced as usual.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

import upscale_fx
from upscale_fx.rules import Operation, Relation


@torch.library.custom_op("own_rule::soft_clip", mutates_args=())
def soft_clip(x: Tensor, limit: float) -> Tensor:
    """``limit * tanh(x / limit)``, shape of ``x [N, C]``."""
    return limit * torch.tanh(x / limit)


class ClippedSAGE(nn.Module):
    """Two SAGE layers with a clip of our own between them."""

    def __init__(self, inputs: int = 16, hidden: int = 64, classes: int = 4) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(inputs, hidden), SAGEConv(hidden, classes)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Class scores ``[N, classes]`` from features ``[N, inputs]``."""
        scores: Tensor = self.second(soft_clip(self.first(x, edge_index), 2.0), edge_index)
        return scores


def add_rule() -> None:
    """The rule, in three lines: each channel depends on itself alone; a test run finds that zero stays zero."""

    @upscale_fx.register(soft_clip)
    def rule(op: Operation) -> Relation | None:
        return upscale_fx.rules.per_channel(op)


def kept_parameters(model: nn.Module) -> tuple[int, list[str]]:
    """Parameters left after pruning half of all channels, and the barriers that the report names."""
    example = torch.randn(8, 16), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", upscale_fx.UpscaleWarning)
        pruned = upscale_fx.prune(model, 0.5)
    upscale_fx.verify(upscale_fx.mask(model, 0.5), pruned, example)
    report = upscale_fx.report(pruned)
    return report.after.parameters, list(report.barriers)


def main() -> None:
    """Prune the same model without and with the rule."""
    model = ClippedSAGE()
    before = sum(parameter.numel() for parameter in model.parameters())
    without, barriers = kept_parameters(model)
    add_rule()
    with_rule, none_left = kept_parameters(model)
    print(f"parameters of the model          {before:,}")
    print(f"pruned by half, without a rule   {without:,}   {barriers}")
    print(f"pruned by half, with the rule    {with_rule:,}   {none_left}")


if __name__ == "__main__":
    main()
