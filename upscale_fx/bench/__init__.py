"""The benchmark: graph neural networks, run in every way there is, checked and timed in turns.

``python -m upscale_fx bench --help`` says what it takes. It never asserts a time.
"""

from upscale_fx.bench.graphs import Graph, make_graph
from upscale_fx.bench.run import Cell, Result, run
from upscale_fx.bench.spec import Spec

__all__ = ["Cell", "Graph", "Result", "Spec", "make_graph", "run"]
