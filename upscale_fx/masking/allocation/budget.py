"""A budget: a limit on the cost of a pruned model, in multiply-adds, parameters or bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from upscale_fx.compiled.numbers import is_number
from upscale_fx.errors import AmountError

CostUnit = Literal["macs", "params", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The largest cost of a pruned model: exactly one of ``macs``, ``params`` and ``bytes``.

    It is met within 2 %, or else the cost is below it by less than one channel. A model that costs no more than its
    budget loses no channels.

    Attributes:
        macs: multiply-adds of one call on the calibration data, as a share of the dense model's (at most 1), or as a
            number.
        params: entries of parameters, as a share or a number.
        bytes: bytes of parameters and persistent buffers, as a share or a number.
        sharing: ``"auto"``: for every channel the choice with less error per saving: all readers of the tensor drop
            it, which shrinks the layer that makes it, or one reader does. ``"always"``: readers of a tensor share one
            set of channels (constrained). ``"never"``: every reader chooses alone.

    Raises:
        AmountError: not exactly one of them is set, or it is not a positive number.
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
        """The unit of the cost."""
        return "macs" if self.macs is not None else "params" if self.params is not None else "bytes"

    def target(self, dense: float) -> float:
        """The largest cost, for a dense model that costs ``dense``."""
        value = float(getattr(self, self.unit))
        return value * dense if value <= 1 else value

    def __str__(self) -> str:
        return f"{self.unit}={getattr(self, self.unit):g}"
