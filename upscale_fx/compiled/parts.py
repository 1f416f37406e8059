"""Parts: what a compiled graph has in place of the model's modules whose layers it holds, under their paths.

``train()`` and ``eval()`` of a part do what they do in the model. The constants that depend on the mode of a module
(:class:`ByMode`) are children of its part, and follow its ``training``, however that is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from upscale_fx.compiled.functions import ByMode
from upscale_fx.compiled.undisturbed import is_in
from upscale_fx.errors import ModeError


class Switching(nn.Module):
    """A module whose own ``training`` is also that of its constants."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":
            if value:
                self.check_can_train()
            for child in self.__dict__.get("_modules", {}).values():
                if isinstance(child, ByMode):
                    child.training = bool(value)
        super().__setattr__(name, value)

    def check_can_train(self) -> None:
        """Raise a ModeError if ``train()`` is refused."""


class Part(Switching):
    """Stands for a module of the model.

    Attributes:
        eval_only: why it must stay in ``eval()``; empty if it need not.
        after_switch: by mode, the modes that the model's own ``train(mode)`` gives to modules under it (relative paths)
            where they differ from ``mode``.
    """

    eval_only: str = ""
    after_switch: Mapping[bool, Mapping[str, bool]] = {}

    def check_can_train(self) -> None:
        """Raise a ModeError if the graph is right only while this part is in ``eval()``."""
        if self.eval_only:
            raise ModeError(f"this part was traced for eval() only and cannot be trained: {self.eval_only}")

    def train(self, mode: bool = True) -> Part:
        """Switch the part and all under it; raises ModeError if the graph is right in ``eval()`` only."""
        if mode:
            for module in self.modules():
                if isinstance(module, Part):
                    module.check_can_train()
        super().train(mode)
        switch_as_model(self, self.after_switch, mode)
        return self

    def _get_name(self) -> str:
        return "Module"


class SharedPart(nn.Module):
    """A second path of a module that the model has under several; whatever is asked of it, is asked of that module.

    Modules above it find no parameters in it, so that every parameter keeps one name.
    """

    def __init__(self, target: nn.Module) -> None:
        super().__init__()
        self.__dict__["target"] = target

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name.startswith("_") or name in _OWN or "target" not in own:
            return super().__getattribute__(name)
        return getattr(own["target"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["target"], name, value)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state of the one module; nothing for the state of a module above."""
        return None if args or kwargs.get("destination") is not None else self.__dict__["target"].state_dict(**kwargs)

    def extra_repr(self) -> str:
        """Say what it is."""
        return "shared with another path"


#: What modules above a shared part call of it.
_OWN = {"state_dict", "named_modules", "extra_repr"}


def switch_as_model(module: nn.Module, after_switch: Mapping[bool, Mapping[str, bool]], mode: bool) -> None:
    """Give modules under ``module`` the modes that the model's own ``train(mode)`` leaves them in."""
    for path, training in after_switch.get(mode, {}).items():
        module.get_submodule(path).training = training


def make_parts(module: nn.Module, paths: Mapping[str, str]) -> None:
    """Turn the containers of a graph into parts, and add those of ``paths`` that hold nothing.

    Args:
        module: the module of the graph.
        paths: by path of a module of the model, the first path that it is known under.
    """
    for path, first in paths.items():
        if path == first:
            _ensure(module, path)
    for part in module.modules():
        if type(part) is nn.Module:
            part.__class__ = Part
    for path, first in paths.items():
        if path != first:
            *above, name = path.split(".")
            owner = _ensure(module, ".".join(above))
            if name not in owner._modules:
                owner.add_module(name, SharedPart(module.get_submodule(first)))


def _ensure(module: nn.Module, path: str) -> nn.Module:
    """The submodule of a path, made of parts where there is none."""
    for name in path.split(".") if path else ():
        if name not in module._modules:
            module.add_module(name, Part())
        module = module._modules[name]  # type: ignore[assignment]
    return module


def set_modes(module: nn.Module, like: nn.Module, eval_only: Callable[[str], str]) -> None:
    """Put the parts of a graph into the modes that modules of their paths have in ``like``.

    Args:
        module: the module of the graph; layers in it keep their own modes.
        like: the model, or the graph that this one was made from. A path that it lacks gets the mode of the one above.
        eval_only: by path of a part, why it must stay in ``eval()``; empty if it need not.
    """
    known = {path: is_in(part, True) for path, part in like.named_modules()}
    for path, part in module.named_modules():
        if isinstance(part, Switching | ByMode):
            above = path
            while above not in known:
                above = above.rpartition(".")[0]
            part.__dict__["training"] = known[above]
        reason = eval_only(path.rpartition(".")[0] if isinstance(part, ByMode) else path)
        if reason:
            part.__dict__["training"] = False
        if isinstance(part, Part):
            part.__dict__["eval_only"] = reason
