"""Parts: what a compiled graph has in place of the model's modules whose layers it holds, under their paths.

``train()`` and ``eval()`` of a part do what they do in the model. The constants that depend on the mode of a module
(:class:`ByMode`) are children of its part, and follow its ``training``, however that is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn
from torch.utils.hooks import RemovableHandle

from upscale_fx.compiled.functions import ByMode
from upscale_fx.compiled.layers.computed import ComputedOnRead, computes_parameter
from upscale_fx.compiled.layers.kinds import LAYERS
from upscale_fx.compiled.layers.place import Place
from upscale_fx.compiled.undisturbed import is_in
from upscale_fx.errors import ModeError, PartError, UnsupportedError


def refuse_script() -> NoReturn:
    """Raise an UnsupportedError: there is no Python code that ``torch.jit.script`` could compile.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(
        "torch.jit.script cannot compile a compiled graph, nor parts of one: their code is generated, and TorchScript "
        "reads source files. torch.export.export(compiled, inputs) makes a program of the whole graph, torch.jit.trace "
        "follows a call of it, torch.compile(compiled) makes it faster, and torch.save(compiled, path) saves it, to be "
        "read by torch.load(path, weights_only=False)"
    )


def refuse_training(what: str, reason: str) -> None:
    """Raise a ModeError if there is a reason why ``what`` must stay in ``eval()``."""
    if reason:
        raise ModeError(f"this {what} was traced for eval() only and cannot be trained: {reason}")


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

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise an UnsupportedError: ``torch.jit.script`` asks for what it is to compile."""
        refuse_script()


class Part(ComputedOnRead, Switching):
    """Stands for a module of the model that the graph does not call: hooks on its calls are refused.

    Attributes:
        graph_place: where it lies in the graph.
        eval_only: why it must stay in ``eval()``; empty if it need not.
        after_switch: by mode, the modes that the model's own ``train(mode)`` gives to modules under it (relative paths)
            where they differ from ``mode``.
    """

    graph_place = Place()
    eval_only: str = ""
    after_switch: Mapping[bool, Mapping[str, bool]] = {}

    def register_forward_pre_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Take a mask of ``torch.nn.utils.prune`` or a norm; raises PartError for other hooks."""
        if not computes_parameter(hook):
            self.graph_place.refuse("a forward pre hook")
        return super().register_forward_pre_hook(hook, **options)

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Raise a PartError."""
        self.graph_place.refuse("a forward hook")

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Raise a PartError."""
        self.graph_place.refuse("a full backward hook")

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Raise a PartError."""
        self.graph_place.refuse("a full backward pre hook")

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Raise a PartError."""
        self.graph_place.refuse("a backward hook")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raise a PartError."""
        raise PartError(
            f"'{self.graph_place.path}' cannot be called alone: its operations are calls of the whole graph, which "
            f"knows no border of the module. Call the graph, or trace the module itself with upscale_fx.trace()"
        )

    def check_can_train(self) -> None:
        """Raise a ModeError if the graph is right only while this part is in ``eval()``."""
        refuse_training("part", self.eval_only)

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


class FusedLinear(Part, nn.Linear):
    """A part with the weight and bias of a linear layer that fusing merged with other calls: a layer by type only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("parts of a graph become fused layers; make an nn.Linear instead")

    def _get_name(self) -> str:
        return "FusedLinear"


class SharedPart(nn.Module):
    """A second path of a module that the model has under several; whatever is asked of it, is asked of that module.

    Modules above it find no parameters in it, so that every parameter keeps one name.
    """

    def __init__(self, target: nn.Module, first: str) -> None:
        """Stand for ``target``, whose first path is ``first``."""
        super().__init__()
        self.__dict__["target"] = target
        self.__dict__["first_path"] = first

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

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Raise a PartError: masks and norms belong to the one module."""
        raise PartError(f"this is a second path of '{self.__dict__['first_path']}': add '{name}' to that module")

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise an UnsupportedError, as any part does."""
        refuse_script()

    def extra_repr(self) -> str:
        """Say what it is."""
        return "shared with another path"


#: What modules above a shared part call of it.
_OWN = {"state_dict", "named_modules", "extra_repr", "register_parameter"}


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
                owner.add_module(name, SharedPart(module.get_submodule(first), first))


def _ensure(module: nn.Module, path: str) -> nn.Module:
    """The submodule of a path, made of parts where there is none."""
    for name in path.split(".") if path else ():
        if name not in module._modules:
            module.add_module(name, Part())
        module = module._modules[name]  # type: ignore[assignment]
    return module


def copy_modes(module: nn.Module, like: nn.Module, eval_only: Callable[[str], str]) -> None:
    """Put a graph, its parts and the layers that parts became into the modes that their paths have in ``like``.

    Args:
        module: the module of the graph; modules that it took over from the model, such as dropouts, keep their modes.
        like: the model, or the graph that this one was made from. A path that it lacks gets the mode of the one above.
        eval_only: by path of a part, why it must stay in ``eval()``; empty if it need not.
    """
    known = {path: is_in(part, True) for path, part in like.named_modules()}
    for path, part in module.named_modules():
        if isinstance(part, Switching | ByMode) or type(part) in LAYERS:
            above = path
            while above not in known:
                above = above.rpartition(".")[0]
            part.__dict__["training"] = known[above]
        reason = eval_only(path.rpartition(".")[0] if isinstance(part, ByMode) else path)
        if reason:
            part.__dict__["training"] = False
        if isinstance(part, Part):
            part.__dict__["eval_only"] = reason
