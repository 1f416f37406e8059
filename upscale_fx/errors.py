"""Every error a user can meet, under one root; each is also the built-in type it fits. And one way to warn."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# What may stand between a user's line and a warning: this package, and the decorators and progress bars around it.
_BETWEEN = (__package__ + ".", "torch.", "tqdm.")


class UpscaleError(Exception):
    """Root of all errors raised on purpose by upscale_fx."""


class UpscaleWarning(UserWarning):
    """Something was asked and not all of it could be done; the report has the details."""


class TraceError(UpscaleError, RuntimeError):
    """The model cannot be turned into a graph; names module, source line, reason and remedy."""


class InputError(UpscaleError, ValueError):
    """Inputs are missing or do not fit the model; names the argument and what was expected."""


class AmountError(UpscaleError, ValueError):
    """An amount is not a number in [0, 1)."""


class PatternError(UpscaleError, ValueError):
    """A name or pattern matches no consumer, or a criterion is unknown; lists the valid names."""


class CriterionError(UpscaleError, ValueError):
    """A criterion returned something other than one number per channel."""


class NothingToPruneError(UpscaleError, ValueError):
    """Something was asked to be removed and nothing could be; lists every consumer and why."""


class VerificationError(UpscaleError, AssertionError):
    """Two models disagree; names the worst output and the difference."""


class ModeError(UpscaleError, RuntimeError):
    """The graph exists for one of ``train()`` / ``eval()`` only and the other one was asked for."""


class PassError(UpscaleError, RuntimeError):
    """A pass broke an invariant of the graph: a bug of ours, not of the user."""


class CompilationError(UpscaleError, RuntimeError):
    """numba could not compile a kernel; raised where it is asked for by name, elsewhere torch's kernels run instead."""


class EvaluationError(UpscaleError, ValueError):
    """An evaluation returned something other than one finite number; names the model and what came back."""


class TargetError(UpscaleError, ValueError):
    """No amount that removes anything keeps the score, or the target itself makes no sense; shows what was tried."""


def warn(text: str) -> None:
    """Give an :class:`UpscaleWarning` that names the line of the user's that led here, however many calls of ours ago.

    That is the innermost frame outside this package, torch and tqdm; a function that we call back counts as the user's.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UpscaleWarning, stacklevel=level)
