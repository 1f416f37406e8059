"""Whether a truth value decides an ``assert`` statement, by the instructions of the code that asks for it."""

from __future__ import annotations

import dis
from types import FrameType


def passes_assertion(frame: FrameType) -> bool | None:
    """Return the truth value with which the assertion that a frame evaluates goes on; None if it evaluates none.

    Both forms are known: the jump over ``raise AssertionError``, and the jump to it in ``assert a and b``.
    """
    code = [i for i in dis.get_instructions(frame.f_code) if i.opname not in ("CACHE", "NOT_TAKEN", "TO_BOOL", "NOP")]
    place = next((n for n, i in enumerate(code) if i.offset >= frame.f_lasti), len(code))
    if place + 1 >= len(code) or "JUMP" not in code[place].opname or "_IF_" not in code[place].opname:
        return None
    jump, following = code[place], code[place + 1]
    if jump.opname.endswith("_NONE"):
        return None
    jumps_if = jump.opname.endswith("TRUE")
    if _raises(following):
        return jumps_if
    target = next((i for i in code if i.offset >= jump.argval), None)
    return not jumps_if if target is not None and _raises(target) else None


def _raises(instruction: dis.Instruction) -> bool:
    if instruction.opname == "LOAD_ASSERTION_ERROR":  # up to Python 3.13
        return True
    return instruction.opname == "LOAD_COMMON_CONSTANT" and "AssertionError" in instruction.argrepr
