"""What the operators run on: compiled kernels for CPUs, and torch's own ones for everything else.

numba compiles the loops over edges without a C++ compiler. On other devices, and in other dtypes than float32 and
float64, compositions of torch's kernels run instead, with the same results up to rounding. They also run where numba
does not work, which one warning says. ``UPSCALE_FX_KERNELS=torch`` in the environment and ``with using("torch"):``
switch the compiled ones off, without a warning.
"""

from upscale_fx.operators.kernels.choice import (
    Kernels,
    choose,
    choose_again,
    choose_structure,
    fall_back,
    name,
    untold,
    using,
)

__all__ = ["Kernels", "choose", "choose_again", "choose_structure", "fall_back", "name", "untold", "using"]
