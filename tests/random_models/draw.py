"""Programs drawn at random."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.random_models.build import OPS, Builder, channelled
from tests.random_models.program import Program

_FIRST = [op for name in ("linear", "conv", "product") for op in dict.fromkeys(OPS) if op.__name__ == name]


def drawn(choose: Callable[[Sequence[Any]], Any], steps: int, zeros: bool) -> Program:
    """A program of up to ``steps`` operations; ``choose`` makes every decision."""
    b = Builder(choose, choose([False, False, False, True]))
    choose(_FIRST)(b)
    for _ in range(choose([count for count in (2, 1, 3, 4, 6, 9, 14) if count <= steps])):
        known = len(b.lines)
        for _ in range(4):  # an operation that fits no value writes nothing
            choose(OPS)(b)
            if len(b.lines) > known:
                break
    outputs = _read(b)
    for _ in range(choose([0, 0, 0, 1])):
        value = b.take()
        assert value is not None
        outputs.append(value[0])
    parts = {name: code for name, code in b.parts.items() if any(_reads(line, name) for line in b.lines)}
    return Program(parts, b.lines, _result(choose, outputs), choose(range(2**16)), zeros, b.hetero)


def _read(b: Builder) -> list[str]:
    """The outputs: the last value as it is, or what linear layers read, in one value or in several, each its own."""
    same = b.choose([True, False])
    value, outputs = b.values[-1], []
    for _ in range(b.choose([1, 2, 0, 3])):
        if not same or not channelled(value[1]):
            taken = b.take(channelled)
            assert taken is not None
            value = taken
        name, (*lead, width) = value
        outputs.append(b.emit(f"{b.part(f'nn.Linear({width}, 2)')}({name})", (*lead, 2))[0])
    return outputs or [value[0]]


def _reads(line: str, part: str) -> bool:
    return re.search(rf"self\.{part}\b", line) is not None


def _result(choose: Callable[[Sequence[Any]], Any], outputs: list[str]) -> str:
    """A tensor, a tuple, or a dictionary with a list in it."""
    if len(outputs) == 1:
        return outputs[0]
    first, *rest = outputs
    return choose([f"({', '.join(outputs)})", f'{{"out": {first}, "more": [{", ".join(rest)}]}}'])


@st.composite
def programs(draw, steps=9, zeros=True):
    """Programs as hypothesis draws and shrinks them."""
    return drawn(lambda options: draw(st.sampled_from(options)), steps, zeros)
