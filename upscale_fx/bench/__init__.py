"""The benchmark: graph neural networks, run by PyG, torch.compile, Torch-Pruning and upscale_fx, and timed in turns.

``python -m upscale_fx bench --help`` lists its arguments. It checks every output and never asserts a time.
"""

from upscale_fx.bench.graphs import Graph, make_graph
from upscale_fx.bench.run import Cell, Result, run
from upscale_fx.bench.spec import Spec

__all__ = ["Cell", "Graph", "Result", "Spec", "make_graph", "run"]
