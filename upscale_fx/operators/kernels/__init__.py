"""The kernels of the operators: compiled by numba for CPUs, torch's own kernels for everything else.

numba compiles the loops over edges without a C++ compiler. On other devices, and for dtypes other than float32 and
float64, compositions of torch's kernels run instead, with the same results up to rounding. They also run if numba does
not work; one warning says so. ``UPSCALE_FX_KERNELS=torch`` in the environment, or ``with using("torch"):``, switches
the compiled kernels off without a warning.
"""

from upscale_fx.operators.kernels.choice import (
    Kernels,
    choose,
    choose_again,
    choose_structure,
    fall_back,
    name,
    using,
    without_warning,
)

__all__ = ["Kernels", "choose", "choose_again", "choose_structure", "fall_back", "name", "using", "without_warning"]
