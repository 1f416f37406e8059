"""The interface of all least-squares problems.

A *least-squares problem* is a linear regression with several outputs: weights ``W [B, V, O]``, for each of the ``B``
blocks separately, from *rows* of inputs ``X [rows, B, V]`` to *targets*, the dense model's outputs. An input is a
*variable*: a channel of a consumer, or the constant 1 of a bias. Only *moments* of the rows are kept.

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
        """Its number among the problems of its graph, in execution order; results are stored by this number."""

    @property
    def variables(self) -> Positions:
        """``[B, V, 2]``: number of the consumer and channel of every variable; -1 and -1 for a bias."""

    @property
    def calls(self) -> tuple[fx.Node, ...]:
        """The calls whose weights it fits."""

    @property
    def target(self) -> fx.Node | None:
        """The value whose channels are its outputs; None where outputs are not channels of a value (logits, gates)."""

    @property
    def logits(self) -> bool:
        """Whether its outputs are logits of attention."""

    @property
    def parameters(self) -> set[str]:
        """The names of parameters whose entries :meth:`write` can set."""

    @property
    def reason(self) -> str:
        """Why its weights cannot be fitted, if they cannot."""

    def weight(self, root: nn.Module) -> Tensor:
        """``[B, V, O]`` in float64: the weights as parameters hold them."""

    def last_node(self, place: Mapping[fx.Node, int]) -> fx.Node:
        """The last node that it reads; ``place`` has the places of nodes in execution order."""

    def held_nodes(self, refitted: bool = True) -> set[fx.Node]:
        """Values that a run has to hold until the rows are gathered.

        The target is among them only if weights are ``refitted``: for the dense model alone no difference is needed.
        """

    def gather(
        self, moments: Moments, replay: Replay, flow: Dataflow, weight: Tensor | None, seed: int
    ) -> Tensor | None:
        """Add the rows of one batch to the moments.

        Args:
            moments: the moments so far.
            replay: the batch, run up to :meth:`last_node`.
            flow: the analysed graph.
            weight: the present weights ``[B, V, O]`` of the pruned model: rows are the pruned model's, and targets the
                dense model's outputs minus its outputs. None: rows are the dense model's, and targets zero.
            seed: seed of the draw, where the batch has too many rows.

        Returns:
            The rows ``[rows, 1, V]`` that :meth:`correct` takes, or None.

        Raises:
            NotFittedError: the values read are not rows of a least-squares problem.
        """

    def correct(self, replay: Replay, rows: Tensor | None, change: Tensor) -> bool:
        """Add the effect of a ``change [B, V, O]`` of weights to a run; False if the run has to start again."""

    def write(self, root: nn.Module, weight: Tensor) -> set[str]:
        """Set parameters to weights ``[B, V, O]``, in place; returns the names of those that were set."""


def consumers_of(problem: Problem) -> set[int]:
    """The numbers of the consumers with variables in a problem."""
    return {int(number) for number in problem.variables[..., 0].reshape(-1) if number >= 0}
