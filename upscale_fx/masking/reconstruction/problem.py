"""What all least-squares problems have in common, whatever they are regressions of.

A *least-squares problem* is a linear regression with several outputs: weights ``W [B, V, O]``, each of the ``B`` blocks
on its own, from *rows* of inputs ``X [rows, B, V]`` to *targets*, the dense model's outputs. An input is a *variable*:
a channel of a consumer, or the constant 1 that a bias weighs. *Moments* are all that is kept of the rows.

There are two kinds, made in :mod:`find_problems`: :class:`~joint.JointProblem` and :class:`~single.SingleProblem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, fx, nn

from upscale_fx.analysis.dataflow import Dataflow
from upscale_fx.channels.positions import Positions
from upscale_fx.masking.reconstruction.moments import Moments
from upscale_fx.masking.reconstruction.replay import Replay


class Problem(Protocol):
    """One least-squares problem of a traced graph."""

    @property
    def number(self) -> int:
        """Its number among the problems of its graph, in execution order; what is known of it is kept by number."""

    @property
    def variables(self) -> Positions:
        """``[B, V, 2]``: number of the consumer and channel of every variable; -1 and -1 for a bias."""

    @property
    def calls(self) -> tuple[fx.Node, ...]:
        """The calls whose weights it fits."""

    @property
    def target(self) -> fx.Node | None:
        """The value whose channels are its outputs; None where outputs are no channels of a value (logits, gates)."""

    @property
    def logits(self) -> bool:
        """Whether its outputs are logits of attention."""

    @property
    def parameters(self) -> set[str]:
        """The names of parameters whose entries :meth:`write` may set."""

    @property
    def reason(self) -> str:
        """Why its weights cannot be fitted, if they cannot."""

    def weight(self, root: nn.Module) -> Tensor:
        """``[B, V, O]`` in float64: the weights as parameters hold them."""

    def last_node(self, place: Mapping[fx.Node, int]) -> fx.Node:
        """The node after which all that it reads has been computed, given the places of nodes in execution order."""

    def held_nodes(self, refitted: bool = True) -> set[fx.Node]:
        """Values that a run has to hold until the rows are gathered.

        Those of the target only where weights are ``refitted``: the dense model lacks nothing of itself.
        """

    def gather(
        self, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
    ) -> Tensor | None:
        """Add the rows of one batch to the moments.

        Args:
            moments: the moments so far.
            replay: the batch, run up to :meth:`last_node`.
            flow: the analysed graph.
            weight: the weights ``[B, V, O]`` that the pruned model still has: rows are the pruned model's, and targets
                what its outputs lack of the dense model's. None: rows are the dense model's, and nothing is lacking.
            seed: of the draw, where the batch has too many rows.

        Returns:
            The rows ``[rows, 1, V]`` that :meth:`correct` takes; None where it takes none.

        Raises:
            NotFittedError: what was read are no rows of a least-squares problem.
        """

    def correct(self, replay: Replay, rows: Tensor | None, change: Tensor) -> bool:
        """Add to a run what weights that changed by ``[B, V, O]`` change; False where it has to start again."""

    def write(self, root: nn.Module, weight: Tensor) -> set[str]:
        """Set parameters to weights ``[B, V, O]``, in place; returns the names of those that were set."""


def consumers_of(problem: Problem) -> set[int]:
    """The numbers of the consumers that have variables in a problem."""
    return {int(number) for number in problem.variables[..., 0].reshape(-1) if number >= 0}
