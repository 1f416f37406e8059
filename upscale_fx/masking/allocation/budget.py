"""A budget: how much of a model's cost may be left, in the unit that matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from upscale_fx.compiled.numbers import is_number
from upscale_fx.errors import AmountError

CostUnit = Literal["macs", "params", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a pruned model may cost at most: exactly one of ``macs``, ``params`` and ``bytes``.

    It is met within 2 %, or from below within what the dearest channel costs. From a model that costs no more than its
    budget nothing is removed.

    Attributes:
        macs: multiply-adds of one call on the calibration data, as a share of the dense model's (at most 1), or as a
            number.
        params: entries of parameters, likewise.
        bytes: bytes of parameters and persistent buffers, likewise.
        sharing: ``"auto"``: for every channel, whichever costs less error for what it saves: all readers of the tensor
            drop it together, which shrinks the layer that makes it, or one reader alone does. ``"always"``: readers
            of a tensor share one set of channels (constrained). ``"never"``: every reader chooses alone.

    Raises:
        AmountError: not exactly one of them is given, or it is not a positive number.
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    sharing: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        given = [(name, getattr(self, name)) for name in ("macs", "params", "bytes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise AmountError(
                f"a Budget takes exactly one of macs, params and bytes, as in Budget(params=0.25); got {len(given)}"
            )
        name: str = given[0][0]
        value: Any = given[0][1]
        if not is_number(value) or not 0 < float(value) < float("inf"):
            raise AmountError(
                f"Budget({name}=...) must be a positive number: a share of the dense model's cost up to 1, or a "
                f"number of {name}; got {value!r}"
            )
        if self.sharing not in ("auto", "always", "never"):
            raise AmountError(f"Budget(sharing=...) is 'auto', 'always' or 'never', got {self.sharing!r}")

    @property
    def unit(self) -> CostUnit:
        """What is counted."""
        return "macs" if self.macs is not None else "params" if self.params is not None else "bytes"

    def target(self, dense: float) -> float:
        """The cost that may be left, of a dense model that costs ``dense``."""
        value = float(getattr(self, self.unit))
        return value * dense if value <= 1 else value

    def __str__(self) -> str:
        return f"{self.unit}={getattr(self, self.unit):g}"
