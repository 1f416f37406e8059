"""The passes, one file each; imported as ``upscale_fx.passes``.

Each is a frozen dataclass called with a graph module and returns a ``PassResult``, so they also run inside torch's own
``PassManager``.
"""

from __future__ import annotations

from upscale_fx.passes.approximate_norms import ApproximateNorms
from upscale_fx.passes.base import Pass, Pipeline, check_invariants
from upscale_fx.passes.cast_precision import CastPrecision
from upscale_fx.passes.compact_channels import CompactChannels
from upscale_fx.passes.fix_statistics import FixStatistics
from upscale_fx.passes.fold_attention import FoldAttention
from upscale_fx.passes.fold_batch_norm import FoldBatchNorm
from upscale_fx.passes.fold_constants import FoldConstants
from upscale_fx.passes.fuse_attention import FuseAttention
from upscale_fx.passes.fuse_propagate import FusePropagate
from upscale_fx.passes.lift_to_nodes import LiftToNodes
from upscale_fx.passes.merge_sums import MergeSums
from upscale_fx.passes.reassociate import Reassociate
from upscale_fx.passes.remove_dead_nodes import RemoveDeadNodes
from upscale_fx.passes.remove_dropout import RemoveDropout
from upscale_fx.passes.remove_zero_terms import RemoveZeroTerms
from upscale_fx.passes.share_structure import ShareStructure
from upscale_fx.passes.sort_edges import SortEdges
from upscale_fx.passes.split_structure import SplitStructure
from upscale_fx.passes.write_in_place import WriteInPlace

__all__ = [
    "ApproximateNorms",
    "CastPrecision",
    "CompactChannels",
    "FixStatistics",
    "FoldAttention",
    "FoldBatchNorm",
    "FoldConstants",
    "FuseAttention",
    "FusePropagate",
    "LiftToNodes",
    "MergeSums",
    "Pass",
    "Pipeline",
    "Reassociate",
    "RemoveDeadNodes",
    "RemoveDropout",
    "RemoveZeroTerms",
    "ShareStructure",
    "SortEdges",
    "SplitStructure",
    "WriteInPlace",
    "check_invariants",
]
