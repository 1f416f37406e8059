"""What whole models are called with, and what a row of their tables says."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.conformance.case import WIDTH, Case, Graph

#: Kinds of atoms and of bonds, residues of a protein and their number, snapshots in time.
ATOMS, BONDS, RESIDUES, LENGTH, TIMES = 7, 4, 9, 12, 3


@dataclass(frozen=True)
class Whole(Case):
    """One model as a user writes it.

    Attributes:
        module: name of the model.
        how: the package or the paper whose architecture it has.
        expect: ``"pruned"``; ``"nothing"`` where it has no hidden channels; or ``"refused"``.
        why: for ``"refused"``, the reason in words; for models that stay larger, what keeps their parameters.
        below: the share of parameters that is left after masking half of the channels is below this.
        error: for ``"refused"``, what the error says.
    """

    below: float = 0.8
    error: str = ""


@dataclass(frozen=True)
class Sample(Graph):
    """A random graph with what whole models are given beside features and edges."""

    def _numbers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.draw)

    @property
    def pairs(self) -> Tensor:
        """Node pairs to score, ``[2, Q]``; Q is the number of targets."""
        return self._numbers(self.nodes, 2, self.targets)

    @property
    def more_pairs(self) -> Tensor:
        """Other pairs, one more than ``pairs``."""
        return self._numbers(self.nodes, 2, self.targets + 1)

    @property
    def seeds(self) -> Tensor:
        """Nodes that are asked for, ``[Q]``."""
        return self._numbers(self.nodes, self.targets)

    @property
    def atom(self) -> Tensor:
        """Kinds of atoms, ``[N]``, below 7."""
        return self._numbers(ATOMS, self.nodes)

    @property
    def atoms(self) -> Tensor:
        """Kinds and charges of atoms, ``[N, 2]``, both below 4."""
        return self._numbers(BONDS, self.nodes, 2)

    @property
    def bond(self) -> Tensor:
        """Kinds of bonds, ``[E]``, below 4."""
        return self._numbers(BONDS, self.edges)

    @property
    def bonds(self) -> Tensor:
        """Kinds and directions of bonds, ``[E, 2]``, both below 4."""
        return self._numbers(BONDS, self.edges, 2)

    @property
    def protein(self) -> Tensor:
        """Residues of one protein for each graph, ``[B, 12]``, below 9."""
        return self._numbers(RESIDUES, self.graphs, LENGTH)

    @property
    def fingerprint(self) -> Tensor:
        """A vector for each graph, ``[B, 10]``."""
        return self.features(self.graphs, 10)

    @property
    def u(self) -> Tensor:
        """Global state of each graph, ``[B, 4]``."""
        return self.features(self.graphs, 4)

    @property
    def pe(self) -> Tensor:
        """Positional encodings, ``[N, 4]``."""
        return self.features(self.nodes, 4)

    @property
    def hops(self) -> list[Tensor]:
        """Features after 0, 1 and 2 hops, each ``[N, 8]``."""
        return [self.features(self.nodes, WIDTH) for _ in range(3)]

    @property
    def tokens(self) -> Tensor:
        """Features of each node after several hops, ``[N, 3, 8]``."""
        return self.features(self.nodes, 3, WIDTH)

    @property
    def snapshots(self) -> Tensor:
        """Features over time, ``[3, N, 8]``."""
        return self.features(TIMES, self.nodes, WIDTH)

    @property
    def series(self) -> Tensor:
        """Features over time of every node, ``[N, 8, 3]``."""
        return self.features(self.nodes, WIDTH, TIMES)

    @property
    def h(self) -> Tensor:
        """A hidden state, ``[N, 16]``."""
        return self.features(self.nodes, 16)

    @property
    def c(self) -> Tensor:
        """A cell state, ``[N, 16]``."""
        return self.features(self.nodes, 16)

    @property
    def vectors(self) -> Tensor:
        """Three vectors of each node, ``[N, 3, 3]``."""
        return self.features(self.nodes, 3, 3)

    @property
    def edge_vectors(self) -> Tensor:
        """One vector of each edge, ``[E, 1, 3]``."""
        return self.features(self.edges, 1, 3)

    @property
    def line(self) -> Tensor:
        """Pairs of edges that form an angle, ``[2, L]``: the line graph."""
        return self._numbers(self.edges, 2, self.edges + self.targets)

    @property
    def angle(self) -> Tensor:
        """The angles of ``line``, ``[L]``."""
        return self.positive(self.edges + self.targets)

    @property
    def time(self) -> Tensor:
        """Times of nodes, ``[N]``."""
        return self.positive(self.nodes)

    @property
    def edge_time(self) -> Tensor:
        """Times of edges, ``[E]``."""
        return self.positive(self.edges)
