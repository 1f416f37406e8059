"""The passes, one file each; imported as ``upscale_fx.passes``.

Each is a frozen dataclass called with a graph module and returns a ``PassResult``, so they also run inside torch's own
``PassManager``.
"""

from __future__ import annotations

from upscale_fx.passes.approximate_norms import ApproximateNorms
from upscale_fx.passes.base import Pass, Pipeline, check_invariants
from upscale_fx.passes.compact_channels import CompactChannels
from upscale_fx.passes.fix_statistics import FixStatistics
from upscale_fx.passes.fold_attention import FoldAttention
from upscale_fx.passes.fold_constants import FoldConstants
from upscale_fx.passes.remove_dead_nodes import RemoveDeadNodes
from upscale_fx.passes.remove_zero_terms import RemoveZeroTerms
from upscale_fx.passes.share_structure import ShareStructure

__all__ = [
    "ApproximateNorms",
    "CompactChannels",
    "FixStatistics",
    "FoldAttention",
    "FoldConstants",
    "Pass",
    "Pipeline",
    "RemoveDeadNodes",
    "RemoveZeroTerms",
    "ShareStructure",
    "check_invariants",
]
