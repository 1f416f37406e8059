"""Calibration batches as the arguments of a traced graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from upscale_fx.compiled.batches import Batches, arguments_of
from upscale_fx.compiled.missing_types import missing_types, text_of
from upscale_fx.compiled.module import CompiledGNN, record_of
from upscale_fx.compiled.signatures import signature_of
from upscale_fx.errors import InputError
from upscale_fx.masking.criteria.labels import without_labels


class CalibrationData:
    """Calibration batches as arguments by name; can be iterated any number of times.

    Args:
        calibration: one batch, or an iterable of batches.
        transform: makes the arguments of a batch; None: the batch holds them.
        model: the traced graph that is called.
    """

    def __init__(self, calibration: Any, transform: Callable[[Any], Any] | None, model: CompiledGNN) -> None:
        self.batches = calibration if isinstance(calibration, Batches) else Batches(calibration, replay=True)
        self.transform = transform
        self._model = model

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for _, arguments in self.with_batches():
            yield arguments

    def with_batches(self) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Every batch of the user, and its arguments."""
        for batch in self.batches:
            given = without_labels(batch, self._model) if self.transform is None else batch
            args, kwargs = arguments_of(given, self._model, self.transform)
            arguments = signature_of(self._model).bind(*args, **kwargs).arguments
            record = record_of(self._model)
            if missing := missing_types(record.inputs, arguments, record.any_order) & record.typed:
                raise InputError(
                    f"a calibration batch lacks {text_of(missing)}, which the example that was traced has; calibrate "
                    f"on batches that have all types"
                )
            yield batch, arguments

    def __len__(self) -> int:
        return len(self.batches)
