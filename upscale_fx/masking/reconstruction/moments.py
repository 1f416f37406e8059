"""Second moments of least-squares problems, gathered batch by batch. Nothing else of the calibration data is kept.

For inputs ``X [rows, V]`` of the pruned model, and ``E [rows, O]``, the dense model's outputs minus the pruned model's:
``gram = X'X``, ``cross = X'E`` and ``error = |E|^2``, in float64 and for every block. Memory does not depend on rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: The number of rows that are converted to float64 at a time.
_CHUNK = 1 << 13


@dataclass
class Moments:
    """Sums over all rows of all batches.

    Attributes:
        gram: ``[B, V, V]``.
        cross: ``[B, V, O]``.
        total: ``[B, V]``, the sum of the inputs.
        error: sum of squared differences to the dense outputs.
        rows: the number of rows.
    """

    gram: Tensor
    cross: Tensor
    total: Tensor
    error: float = 0.0
    rows: float = 0.0

    @classmethod
    def zeros(cls, blocks: int, variables: int, outputs: int) -> Moments:
        """Moments of no rows, for this many blocks, and inputs and outputs of each."""
        exact = torch.float64
        return cls(
            torch.zeros(blocks, variables, variables, dtype=exact),
            torch.zeros(blocks, variables, outputs, dtype=exact),
            torch.zeros(blocks, variables, dtype=exact),
        )

    @classmethod
    def for_weight(cls, weight: Tensor) -> Moments:
        """Moments of no rows, for a problem with weights ``[B, V, O]``."""
        return cls.zeros(*weight.shape)

    def add(self, x: Tensor, lacking: Tensor | None, weight: float = 1.0) -> None:
        """Add rows: inputs ``x [rows, B, V]``, and the differences of outputs ``lacking [rows, B, O]`` (None: zero)."""
        self.rows += weight * len(x)
        for start in range(0, len(x), _CHUNK):
            part = x[start : start + _CHUNK].double().movedim(1, 0)
            self.gram += weight * _squared(part)
            self.total += weight * part.sum(dim=1).cpu()
            if lacking is not None:
                missing = lacking[start : start + _CHUNK].double().movedim(1, 0)
                self.cross += weight * (part.mT @ missing).cpu()
                self.error += weight * float(missing.square().sum())

    def include(self, other: Moments) -> None:
        """Add the sums over other rows."""
        self.gram += other.gram.cpu()
        self.cross += other.cross.cpu()
        self.total += other.total.cpu()
        self.error += other.error
        self.rows += other.rows

    @property
    def finite(self) -> bool:
        """Whether all inputs and outputs were finite."""
        return math.isfinite(self.error) and bool(torch.isfinite(self.gram.diagonal(dim1=1, dim2=2)).all())

    def spread(self, weight: Tensor) -> float:
        """Energy of the outputs ``X W`` around their mean, ``weight [B, V, O]``."""
        mean = self.total / max(self.rows, 1.0)
        centred = self.gram - self.rows * mean[:, :, None] * mean[:, None, :]
        return float((weight * (centred @ weight)).sum())


def _squared(part: Tensor) -> Tensor:
    """``X'X`` of every block of ``[B, rows, V]``."""
    if part.device.type != "cpu":
        return (part.mT @ part).cpu()
    # NumPy computes only half of the products when both operands are one array (BLAS syrk); torch computes all.
    with np.errstate(all="ignore"):  # the study raises where moments are not finite
        return torch.from_numpy(np.stack([block.T @ block for block in part.contiguous().numpy()]))
