"""Dead nodes: a node is dead iff no output needs it; removing it changes nothing (random draws aside)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.compiled.dead_nodes import drop_dead_nodes
from upscale_fx.compiled.module import CompiledGNN, make_module


@dataclass(frozen=True)
class RemoveDeadNodes:
    """Remove nodes, and with them parameters, that no output needs."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        new = copy.deepcopy(gm)
        count = drop_dead_nodes(new.graph)
        return PassResult(make_module(new, new.graph, gm.meta, gm.training) if count else new, bool(count))
