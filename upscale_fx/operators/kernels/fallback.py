"""The fallback to torch's kernels if numba does not work, and its one warning: the reason, the cost and the remedy."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import torch

from upscale_fx.errors import CompilationError, warn

_PACKAGES = ("numba", "llvmlite")
# Measured: 169,343 nodes, 2,315,598 edges, widths 128-256-256-40, `python -m upscale_fx bench`.
_COST = (
    "on 2 cores, a graph of 169,000 nodes and 2.3 million edges and a GCN with 75 % of its channels removed, they were "
    "9x as fast as PyG where numba's are 20x and more"
)
_INSTALL, _REPAIR = "pip install numba", "pip install --upgrade --force-reinstall numba"


@dataclass
class Fallback:
    """Why torch's kernels run although the user did not choose them.

    Attributes:
        reason: why numba's kernels do not run; empty if they do.
        remedy: the command that helps.
        uncompiled: whether numba was imported but could not compile.
        warned: whether this process has been warned.
        silenced: the number of surrounding blocks in which no warning may be given.
    """

    reason: str = ""
    remedy: str = ""
    uncompiled: bool = False
    warned: bool = False
    silenced: int = 0

    def not_imported(self, error: Exception) -> None:
        """Remember that numba could not be imported."""
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        self.reason = "numba is not installed" if missing else f"numba cannot be imported ({_first_line(error)})"
        self.remedy = _INSTALL if missing else _REPAIR

    def not_compiled(self, error: CompilationError) -> None:
        """Remember that numba could not compile a kernel."""
        self.reason, self.remedy, self.uncompiled = _first_line(error), _REPAIR, True

    def warn_once(self) -> None:
        """Warn at the first call; not while torch traces, where the warning would enter the trace or be lost."""
        if self.warned or not self.reason or self.silenced or torch.compiler.is_compiling():
            return
        self.warned = True
        warn(
            f"{self.reason}, so upscale_fx runs on torch's kernels, which are slower: {_COST}. "
            f"`{self.remedy}` makes it fast, UPSCALE_FX_KERNELS=torch in the environment silences this"
        )


def comes_from_numba(error: Exception) -> bool:
    """Whether an import failed because of numba: it or its compiler is missing, or the error was raised inside them.

    An ImportError names the missing module. A wrong numpy or a broken library also raises errors of other types.
    """
    if isinstance(error, ImportError) and _is_numba_module(error.name):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(_is_numba_module(frame.f_globals.get("__name__")) for frame, _ in frames)


def _is_numba_module(name: str | None) -> bool:
    return (name or "").partition(".")[0] in _PACKAGES


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text.rstrip(".") or type(error).__name__
