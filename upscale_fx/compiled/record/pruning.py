"""What was removed from a model: what reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from upscale_fx.compiled.record.size import Size
from upscale_fx.compiled.record.trail import Trail


@dataclass(frozen=True)
class ConsumerRecord:
    """What was asked of one consumer.

    Attributes:
        name: its name.
        channels: how many input channels it had.
        asked: how many of them were asked to go.
        masked: how many were masked.
        reason: why not more; empty if there is none.
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
        channels: how many input channels it has.
        asked: how many the amount would have asked to go.
        reason: why none can.
    """

    name: str
    channels: int
    asked: int
    reason: str


@dataclass(frozen=True)
class PruningRecord:
    """What was asked of a model, and what it cost before.

    Attributes:
        consumers: what was asked of each consumer.
        refused: contractions that are no consumers.
        before: what the model cost.
        unused: parameters that no output needs.
        chosen: how channels were chosen, for people; empty where by weights alone.
        not_refitted: by the names of consumers, why their weights were not refitted.
        trail: what a search for the amount tried.
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
    """What a model held when it was traced.

    Attributes:
        parameters: entries of all of its parameters.
        bytes: bytes of parameters and persistent buffers.
        unused: parameters that no output needs, so that the graph does not hold them.
    """

    parameters: int
    bytes: int
    unused: tuple[str, ...]


@dataclass(frozen=True)
class KeptChannels:
    """Over how many channels a statistic was taken in the model, and over how many it is now."""

    channels: int
    kept: int
