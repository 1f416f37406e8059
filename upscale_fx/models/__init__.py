"""Ready models: the classifiers of the examples, and a vision GNN."""

from upscale_fx.models.classifiers import SAGE, GATv2, GraphTransformer, JKNet, SimpleGCN
from upscale_fx.models.vig import ViG

__all__ = ["SAGE", "GATv2", "GraphTransformer", "JKNet", "SimpleGCN", "ViG"]
