"""The modules of a model as the compiled graph shows them: their paths, and what their own ``train()`` does."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from upscale_fx.compiled.undisturbed import is_in, modes_kept
from upscale_fx.errors import warn
from upscale_fx.tracing.modules.modes import Modes

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LIBRARIES = ("torch.", "torch_geometric.")


def part_paths(root: nn.Module, switches: Collection[str]) -> dict[str, str]:
    """Return by path of a module the first path that it is known under.

    Modules inside the layers of torch and PyG are left out, except those that own one of ``switches``.
    """
    first = {id(module): path for path, module in root.named_modules()}
    named = dict(root.named_modules(remove_duplicate=False))
    paths: dict[str, str] = {}
    for path, module in named.items():
        above = path.rpartition(".")[0]
        is_shown = not above or (paths.get(above) == above and _is_open(named[above]))
        if path and is_shown:
            paths[path] = first[id(module)]
    owners = {path.rpartition(".")[0] for path in switches} - {""}
    return paths | {path: path for path in owners}


def _is_open(module: nn.Module) -> bool:
    """Whether a module is the user's own, or a container."""
    return isinstance(module, _CONTAINERS) or not type(module).__module__.startswith(_LIBRARIES)


def modes_after_switch(root: nn.Module) -> dict[str, dict[bool, dict[str, bool]]]:
    """Return what modules' own ``train(mode)`` does: by path and mode, the modes below it that differ from ``mode``."""
    own = [path for path, module in root.named_modules() if type(module).train is not nn.Module.train]
    found: dict[str, dict[bool, dict[str, bool]]] = {}
    for path in own:
        module = copy.deepcopy(root.get_submodule(path))  # its train() may change more than modes
        for mode in (True, False):
            with modes_kept(module):
                try:
                    module.train(mode)
                except Exception:  # it cannot be switched so at all
                    continue
                other = {name: not mode for name, part in module.named_modules() if is_in(part, not mode)}
            if other:
                found.setdefault(path, {})[mode] = other
    return found


def eval_parts(root: nn.Module, modes: Modes) -> tuple[str, ...]:
    """The parts that must stay in ``eval()``; empty, which means all, if one of them is in ``train()``.

    Warns if this changes the mode of any module.
    """
    if not modes.reason:
        return ()
    trained = [path for path, module in root.named_modules() if is_in(module, True)]
    if not trained or (modes.eval_parts and not set(modes.eval_parts) & set(trained)):
        return modes.eval_parts
    name = type(root).__name__
    what = name if root.training else f"{name}: {trained[0]}"
    warn(
        f"{what} is in train(), but the graph made of it is for eval() only: {modes.reason}. So compiled models of it "
        f"are in eval() and cannot be trained, while mask() returns the model itself, still in train(). To train after "
        f"pruning, let forward() do the same in both modes, and do what only training needs (other heads, noise) in "
        f"another module or method; or train before pruning, and prune model.eval()"
    )
    return ()


@contextmanager
def attached(root: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules under their paths in ``root`` for the length of the block, so that a graph can be made of it."""
    for path, module in modules.items():
        owner, _, name = path.rpartition(".")
        root.get_submodule(owner).add_module(name, module)
    try:
        yield
    finally:
        for path in modules:
            owner, _, name = path.rpartition(".")
            delattr(root.get_submodule(owner), name)
