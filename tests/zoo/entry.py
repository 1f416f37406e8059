"""What an entry of the zoo is, and the widths of its models."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

INPUT, HIDDEN, OUTPUT, EDGE = 12, 16, 5, 3
#: Rate of the dropout between layers.
DROPOUT = 0.3


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        build: makes the model.
        arguments: names of its arguments, in order.
        needs_example: whether it cannot be traced without example inputs.
        barrier: why its weights cannot get smaller, or "" if they must.
    """

    build: Callable[[], nn.Module]
    arguments: str = "x edge_index"
    needs_example: bool = False
    barrier: str = ""

    def inputs(self, nodes: int, edges: int, graphs: int = 2, seed: int = 0) -> dict[str, Tensor]:
        """Arguments of one call on a random graph, features in float64."""
        draw = torch.Generator().manual_seed(seed)

        def features(rows: int, width: int) -> Tensor:
            return torch.randn(rows, width, generator=draw, dtype=torch.float64)

        made = {
            "x": features(nodes, INPUT),
            "edge_index": torch.randint(nodes, (2, edges), generator=draw),
            "edge_weight": torch.rand(edges, generator=draw, dtype=torch.float64) + 0.1,
            "edge_attr": features(edges, EDGE),
            "batch": torch.arange(nodes) * min(graphs, nodes) // nodes,
            "context": features(nodes, HIDDEN),
        }
        return {name: made[name] for name in self.arguments.split()}

    def example(self) -> dict[str, Tensor] | None:
        """What to pass as ``example_kwargs``."""
        return self.inputs(9, 22) if self.needs_example else None


def randomise(model: nn.Module) -> None:
    """Change biases, scales and statistics at random: fresh ones hide what they do to a dead channel."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        for key, buffer in model.named_buffers():
            if "running_" in key:
                buffer.add_(torch.rand_like(buffer), alpha=0.5)


def without_dropout(model):
    """Set the rate of every dropout in a model to 0, be it a module, an attribute or a list; returns the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
        elif isinstance(getattr(module, "dropout", None), list):
            module.dropout = [0.0] * len(module.dropout)
    return model
