"""States of single modules of a graph: ``compiled.convs.load_state_dict(...)`` is refused for other channels, too.

A state that was asked of a module itself has one more entry, a digest of which channels of its own parameters are kept.
States of the whole graph have one entry for all, and no other.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from upscale_fx.compiled.guards.state import KEY, check_fingerprint, fingerprint
from upscale_fx.compiled.record import GraphRecord
from upscale_fx.errors import StateError

#: The key of the hooks in the tables of a module.
_HOOK = "upscale_fx"


class PartState:
    """What is kept of the parameters of one module.

    Attributes:
        path: its path in the graph.
        record: the graph's record.
        names: the parameters and buffers below the path of which channels were cut or reordered.
    """

    def __init__(self, path: str, record: GraphRecord, names: frozenset[str]) -> None:
        self.path, self.record, self.names = path, record, names

    def __deepcopy__(self, memo: dict[int, Any]) -> PartState:
        return self

    def save(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        """Add the digest to a state, if it was asked of the module itself and not of one above it."""
        first = next(iter(getattr(state, "_metadata", {"": None})), "")
        if prefix[:-1] == first:
            state[prefix + KEY] = self._digest()

    def load(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        """Compare the digests, if the state is for the module itself; a state of the whole graph is compared there.

        Raises:
            StateError: the state is of other channels, or does not say of which.
        """
        if prefix:
            return
        given = state.pop(KEY, None)
        if given is not None:
            check_fingerprint(self._digest(), given, f"the part '{self.path}'")
        elif any(f"{self.path}.{name}" in self.names for name in state):
            raise StateError(
                f"this state does not say which channels of '{self.path}' it is for, and this graph keeps some of "
                f"them, in an order of its own: load a state of the whole graph, or one that state_dict() of "
                f"'{self.path}' returned in a graph of the same channels"
            )

    def _digest(self) -> Tensor | None:
        return fingerprint(self.record, self.names)


def compare_states_of_parts(gm: nn.Module, record: GraphRecord) -> None:
    """Let the modules of a graph that hold cut parameters say and compare which channels their states are for."""
    cut: dict[str, set[str]] = {}
    for name in _cut_names(gm, record):
        parts = name.split(".")
        for end in range(1, len(parts)):
            cut.setdefault(".".join(parts[:end]), set()).add(name)
    for path, module in gm.named_modules():
        for table in _tables(module):
            table.pop(_HOOK, None)
        if path in cut:
            state = PartState(path, record, frozenset(cut[path]))
            hooks, loading = _tables(module)
            hooks[_HOOK], loading[_HOOK] = state.save, state.load


def _tables(module: nn.Module) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The hooks of ``state_dict`` and ``load_state_dict``; torch's own keys are numbers."""
    return module._state_dict_hooks, module._load_state_dict_pre_hooks


def _cut_names(gm: nn.Module, record: GraphRecord) -> list[str]:
    known = {name for name, _ in (*gm.named_parameters(remove_duplicate=False), *gm.named_buffers())}
    return [name for name in dict.fromkeys((*record.origins, *(name for name, _ in record.reads))) if name in known]
