"""Which modules' modes a forward pass reads, and where: ``self.training`` is a plain bool to the model's code.

While a model is traced, ``training`` is taken out of its modules, so that reading it comes through ``__getattr__``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from upscale_fx.compiled.undisturbed import in_mode
from upscale_fx.tracing.proxy import CannotTrace

#: The key in a node's ``meta``: paths of modules whose mode was read after the node before was recorded.
READ_BEFORE = "modes_read"


class WatchedModes:
    """The modes of a model's modules during one trace; ``read_by_forward`` are the paths of those that were read."""

    def __init__(self) -> None:
        self.read_by_forward: dict[str, None] = {}
        self._modes: dict[int, tuple[str, bool]] = {}
        self._since_last_node: dict[str, None] = {}

    @contextmanager
    def watched(self, root: nn.Module) -> Iterator[None]:
        """Take ``training`` out of all modules for the length of the block, and refuse to change it.

        Raises:
            CannotTrace: in the block, when forward() switches a module to the other mode.
        """
        modules = [(path, module) for path, module in root.named_modules() if "training" in module.__dict__]
        self._modes = {id(module): (path, module.__dict__.pop("training")) for path, module in modules}
        original = nn.Module.__setattr__

        def set_attribute(module: nn.Module, name: str, value: Any) -> None:
            if name != "training" or id(module) not in self._modes:
                original(module, name, value)
                return
            path, mode = self._modes[id(module)]
            if bool(value) != mode:
                raise CannotTrace(
                    f"forward() switches {path or 'the model'} to {'train' if value else 'eval'}(); switch it outside "
                    f"of forward(), for example in a train() of the model's own"
                )

        nn.Module.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.__setattr__ = original  # type: ignore[method-assign]
            for _, module in modules:
                module.__dict__["training"] = self._modes[id(module)][1]

    def read(self, module: nn.Module, unseen: bool) -> bool | None:
        """Return the mode of a watched module, None for others; ``unseen`` reads are not the model's own."""
        if id(module) not in self._modes:
            return None
        path, mode = self._modes[id(module)]
        if not unseen:
            self.read_by_forward[path] = self._since_last_node[path] = None
        return mode

    def note_reads(self, node: fx.Node) -> None:
        """Note in a new node which modes were read since the node before."""
        node.meta[READ_BEFORE] = tuple(self._since_last_node)
        self._since_last_node.clear()

    @contextmanager
    def in_eval(self, module: nn.Module) -> Iterator[None]:
        """Put one module, and all below it, into ``eval()`` for the length of the block."""
        watched = {id(part): self._modes[id(part)] for part in module.modules() if id(part) in self._modes}
        self._modes.update({key: (path, False) for key, (path, _) in watched.items()})
        try:
            with in_mode(module, training=False):  # those of TorchScript are not watched
                yield
        finally:
            self._modes.update(watched)
