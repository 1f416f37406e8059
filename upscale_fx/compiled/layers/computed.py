"""Masks of ``torch.nn.utils.prune`` and norms of ``torch.nn.utils.weight_norm`` on modules that a graph does not call.

Both replace a parameter by others and compute it from them in a pre-hook, before every call of the module. The graph
does not call a part but reads its tensors; so the part computes them whenever they are read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from upscale_fx.errors import PartError


def masked_name(hook: object) -> str | None:
    """The parameter that a pre-hook masks; None if it is no mask of torch.nn.utils.prune."""
    name: str | None = hook._tensor_name if isinstance(hook, BasePruningMethod) else None
    return name


def computes_parameter(hook: object) -> bool:
    """Whether a pre-hook only computes a parameter, in a way that a part can do when it is read."""
    return isinstance(hook, BasePruningMethod | WeightNorm)


class ComputedOnRead(nn.Module):
    """A module whose masked and normalised parameters are computed whenever they are read."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Users' initialisations ask whether a module can be reset; the parameters must not stay without a word.
            if name == "reset_parameters" and any(value is not None for value in self._parameters.values()):
                return self._cannot_reset
            if (value := self._computed(name)) is None:
                raise
            return value

    def _computed(self, name: str) -> Tensor | None:
        parameters = self._parameters
        original, mask = parameters.get(f"{name}_orig"), self._buffers.get(f"{name}_mask")
        if original is not None and mask is not None:
            return mask.to(original.dtype) * original
        for hook in self._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == name and f"{name}_g" in parameters:
                value: Tensor = hook.compute_weight(self)
                return value
        return None

    def _is_computed(self, name: str) -> bool:
        masked = f"{name}_orig" in self._parameters and f"{name}_mask" in self._buffers
        normed = f"{name}_g" in self._parameters and f"{name}_v" in self._parameters
        return name not in self._parameters and (masked or normed)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and self._is_computed(name):
            return  # what torch would keep until the next call
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__ or not self._is_computed(name):
            super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter; raises PartError for those of ``torch.nn.utils.spectral_norm``."""
        original = name.removesuffix("_orig")
        if original != name and original not in self._parameters and param is not None:
            super().register_parameter(original, param)  # spectral_norm() took it away before
            raise PartError(
                f"torch.nn.utils.spectral_norm() computes '{original}' in calls of the module, and this graph does not "
                f"call it as one: use torch.nn.utils.parametrizations.spectral_norm(), which computes it when it is "
                f"read, or normalise the weight of the model before it is compiled"
            )
        super().register_parameter(name, param)

    def _cannot_reset(self) -> None:
        names = ", ".join(name for name, value in self._parameters.items() if value is not None)
        raise PartError(
            f"this module of a compiled graph has no reset_parameters(): how its model draws {names} is not part of "
            f"the graph. Reset the model before it is compiled, or set them with torch.nn.init"
        )
