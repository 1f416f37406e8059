"""What was removed from a model, for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from upscale_fx.compiled.record.size import Size
from upscale_fx.compiled.record.trail import Trail


@dataclass(frozen=True)
class ConsumerRecord:
    """How many channels of one consumer were masked.

    Attributes:
        name: its name.
        channels: number of its input channels.
        asked: number of channels that the amount asks to mask.
        masked: number of channels that were masked.
        reason: why fewer than ``asked`` were masked; empty if there is no reason.
    """

    name: str
    channels: int
    asked: int
    masked: int
    reason: str = ""


@dataclass(frozen=True)
class UnmaskableRecord:
    """A contraction whose channels cannot be masked one by one.

    Attributes:
        name: its name.
        channels: number of its input channels.
        asked: number of channels that the amount would ask to mask.
        reason: why none can be masked.
    """

    name: str
    channels: int
    asked: int
    reason: str


@dataclass(frozen=True)
class PruningRecord:
    """What was masked in a model, and the size of the model before.

    Attributes:
        consumers: the masked channels of each consumer.
        refused: contractions whose channels cannot be masked.
        before: the size of the model before.
        unused: parameters that no output needs.
        chosen: how channels were chosen, as text; empty if by weights alone.
        not_refitted: by name of a consumer, why its weights were not refitted.
        trail: the amounts that a search tried; None without a search.
    """

    consumers: Sequence[ConsumerRecord]
    refused: Sequence[UnmaskableRecord]
    before: Size
    unused: Sequence[str] = ()
    chosen: str = ""
    not_refitted: Mapping[str, str] = field(default_factory=dict)
    trail: Trail | None = None


@dataclass(frozen=True)
class TracedModel:
    """The size of a model when it was traced.

    Attributes:
        parameters: number of entries of all its parameters.
        bytes: bytes of parameters and persistent buffers.
        unused: parameters that no output needs; the graph does not hold them.
    """

    parameters: int
    bytes: int
    unused: tuple[str, ...]


@dataclass(frozen=True)
class KeptChannels:
    """The number of channels that a statistic is taken over: ``channels`` in the model, ``kept`` now."""

    channels: int
    kept: int
