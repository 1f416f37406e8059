"""How much a cast to another dtype changed the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """How much a cast changed the outputs on example graphs.

    Attributes:
        dtype: name of the dtype, such as ``"bfloat16"``.
        largest: largest difference, as a share of the largest magnitude of that output.
        mean: mean difference, as a share of the mean magnitude of that output; the maximum over outputs.
    """

    dtype: str
    largest: float
    mean: float

    def after(self, other: Precision | None) -> Precision:
        """Return a bound for both casts, where this one follows ``other``: the sum of both."""
        return self if other is None else Precision(self.dtype, self.largest + other.largest, self.mean + other.mean)

    def __str__(self) -> str:
        if not math.isfinite(self.largest):
            return f"{self.dtype}: outputs cannot be compared on example graphs: they overflow, or select other rows"
        return f"{self.dtype}: outputs differ by at most {100 * self.largest:.2g} % of the largest"
