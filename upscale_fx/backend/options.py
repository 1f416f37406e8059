"""The options of the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from upscale_fx.errors import PatternError
from upscale_fx.masking.criteria import Criterion
from upscale_fx.passes.base import Callback


@dataclass(frozen=True)
class Options:
    """Options of :func:`upscale_fx.prune`, and ``inner``: the backend that compiles the pruned graph."""

    amount: float | Mapping[str, float] = 0.0
    criterion: str | Criterion | None = None
    inputs: bool = False
    constrained: bool = False
    scope: str = "layer"
    round_to: int = 1
    ignore: str | Sequence[str] = ()
    approximate_norms: bool = False
    callback: Callback | None = None
    inner: str | Callable[..., Any] = "inductor"

    def of_prune(self) -> dict[str, Any]:
        """The options of ``prune``, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "inner"}


def parse_options(given: Mapping[str, Any] | None, mode: str | None) -> Options:
    """The options of one ``torch.compile`` call.

    Raises:
        PatternError: one is unknown, or ``mode`` is given.
    """
    valid = [field.name for field in fields(Options)]
    if mode is not None:
        raise PatternError(
            f"backend='upscale' takes no mode, got mode={mode!r}; pass options={{...}} instead, any of {valid}"
        )
    unknown = sorted(set(given or ()) - set(valid))
    if unknown:
        raise PatternError(f"unknown option {unknown[0]!r} of backend='upscale'; valid options: {valid}")
    options = Options(**(given or {}))
    if options.inner in ("upscale", ""):
        raise PatternError(f"the option inner={options.inner!r} names no other backend; the default is 'inductor'")
    return options
