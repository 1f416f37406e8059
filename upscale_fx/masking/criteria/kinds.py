"""The interfaces of criteria that read calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from upscale_fx.channels.positions import Scores

if TYPE_CHECKING:
    from upscale_fx.analysis.dataflow import Dataflow
    from upscale_fx.masking.consumers.pools import Removal
    from upscale_fx.masking.reconstruction.errors import Choice


@runtime_checkable
class ReconstructionCriterion(Protocol):
    """Chooses by how well layers can still compute the dense model's outputs."""

    @property
    def ridge(self) -> float:
        """Ridge of the reconstruction errors, as a share of the Gram matrix's diagonal."""

    def rank(self, choice: Choice) -> Scores:
        """Scores ``[U]`` of all units; in every block the ``quotas`` lowest are removed."""


@runtime_checkable
class OutputCriterion(Protocol):
    """Chooses by running the model on the calibration data."""

    def observe(
        self, flow: Dataflow, removals: Sequence[Removal], batches: Iterable[tuple[Any, Mapping[str, Any]]], seed: int
    ) -> list[Scores]:
        """Scores ``[in]`` for every consumer.

        ``batches`` yields each batch of the user with its arguments by name; ``seed`` is for random draws.
        """
