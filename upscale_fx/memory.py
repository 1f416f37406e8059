"""Memory of large results, kept for the next call: ``release()`` gives what is unused back to the system."""

from upscale_fx.operators.kernels.memory import release

__all__ = ["release"]
