"""The errors and the warning of upscale_fx. All errors have one base class; each is also the built-in type it fits."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# Frames that may lie between the user's line and a warning: this package, torch's decorators and progress bars.
_BETWEEN = (__package__ + ".", "torch.", "tqdm.")


class UpscaleError(Exception):
    """Base class of all errors that upscale_fx raises on purpose."""


class UpscaleWarning(UserWarning):
    """A request could only partly be met; the report has the details."""


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
    """No channel could be removed; lists every consumer and why it keeps its channels."""


class VerificationError(UpscaleError, AssertionError):
    """Two models disagree; names the worst output and the difference."""


class ModeError(UpscaleError, RuntimeError):
    """The graph exists only for ``train()`` or only for ``eval()``, and the call needs the other mode."""


class StateError(UpscaleError, RuntimeError):
    """A state keeps other channels than the graph that it is loaded into, or keeps them in another order."""


class PartError(UpscaleError, RuntimeError):
    """A module of a compiled graph is asked for what only a module can do that the graph calls; names the way out."""


class UnsupportedError(UpscaleError, NotImplementedError):
    """A tool of torch cannot take a compiled graph, or a part of one; names the tool and the way out."""


class EditedGraphError(UpscaleError, RuntimeError):
    """A graph was changed by hand, and the call needs the graph from before; names the nodes and the way out."""


class PassError(UpscaleError, RuntimeError):
    """A pass broke an invariant of the graph: a bug of upscale_fx, not of the user."""


class InternalError(UpscaleError, RuntimeError):
    """upscale_fx itself failed: a bug. Names the part of the model; the cause is the error that it met."""


class CompilationError(UpscaleError, RuntimeError):
    """numba could not compile a kernel. Raised only if numba was chosen by name; otherwise torch's kernels run."""


class EvaluationError(UpscaleError, ValueError):
    """An evaluation returned something other than one finite number; names the model and the value."""


class TargetError(UpscaleError, ValueError):
    """No amount above 0 keeps the score, or the target itself is invalid; shows the amounts that were tried."""


class ServerError(UpscaleError, RuntimeError):
    """A server cannot answer, or refuses a change of its graph: unknown nodes or edges, a closed server, a store."""


def warn(text: str) -> None:
    """Issue an :class:`UpscaleWarning` that names the user's line.

    This is the innermost frame outside this package, torch and tqdm; it may lie in a function that this package calls.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UpscaleWarning, stacklevel=level)
