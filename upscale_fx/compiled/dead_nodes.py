"""Remove dead nodes: those that no output needs."""

from __future__ import annotations

from torch import fx

from upscale_fx.compiled.check_inputs import check_inputs


def drop_dead_nodes(graph: fx.Graph) -> int:
    """Erase nodes that no output needs and return their number; dropout too, though it draws random numbers."""
    count = 0
    for node in reversed(list(graph.nodes)):
        keep = node.op in ("placeholder", "output") or node.target is check_inputs
        if not keep and not node.users:
            graph.erase_node(node)
            count += 1
    return count
