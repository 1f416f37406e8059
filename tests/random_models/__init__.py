"""Random small models: a grammar of programs, one family of operations a file, and what every program must satisfy."""

from tests.random_models import (
    contexts,
    convolutions,
    edges,
    gates,
    heads,
    hetero,
    indices,
    layers,
    motifs,
    parameters,
    rows,
    shapes,
    values,
)
from tests.random_models.draw import programs
from tests.random_models.program import Program

__all__ = [
    "Program",
    "contexts",
    "convolutions",
    "edges",
    "gates",
    "heads",
    "hetero",
    "indices",
    "layers",
    "motifs",
    "parameters",
    "programs",
    "rows",
    "shapes",
    "values",
]
