"""Remove dead nodes. A node is dead iff no output needs it; removing it changes no result (except random draws)."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.passes.base import edited


@dataclass(frozen=True)
class RemoveDeadNodes:
    """Remove nodes, and with them parameters, that no output needs."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, lambda new: drop_dead_nodes(new.graph))
