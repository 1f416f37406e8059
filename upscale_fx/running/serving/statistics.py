"""What a server did: rows, edges and multiply-adds, by stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upscale_fx.passes.cut_stages import Stage

if TYPE_CHECKING:
    from upscale_fx.running.serving.locally import Local


@dataclass
class Stats:
    """Counts since the server was made, or since ``reset_stats()``.

    Attributes:
        rows_read: by stage, rows read from the store, with padding.
        rows_computed: by stage, rows computed, without padding.
        rows_forgotten: by stage, rows that were held and are forgotten because they may differ.
        edges_read: edges that were gone along.
        macs: multiply-adds, without padding.
        hits: answers, or parts of large ones, that needed no row to be computed first.
        answers: questions.
        updates: versions.
    """

    rows_read: dict[str, int] = field(default_factory=dict)
    rows_computed: dict[str, int] = field(default_factory=dict)
    rows_forgotten: dict[str, int] = field(default_factory=dict)
    edges_read: int = 0
    macs: float = 0.0
    hits: int = 0
    answers: int = 0
    updates: int = 0

    def count_stage(self, stage: Stage, local: Local) -> None:
        """Count one run of a stage."""
        self.rows_computed[stage.name] = self.rows_computed.get(stage.name, 0) + local.targets.size
        self.edges_read += local.edges
        self.macs += stage.macs_per_node * local.targets.size + stage.macs_per_edge * local.edges
