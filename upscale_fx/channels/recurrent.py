"""How torch's recurrent modules number their states and name their parameters.

A *line* is one layer in one direction. Lines are numbered as the first axis of initial and last states: line
``layer * D + direction`` of a module with ``D`` directions. Each has ``H`` states, and state ``line * H + unit`` is
one channel at all steps, in all results and in initial states.
"""

from __future__ import annotations

from torch import nn


def endings(module: nn.RNNBase) -> tuple[str, ...]:
    """What the names of the parameters of each direction end in."""
    return ("", "_reverse") if module.bidirectional else ("",)


def line_count(module: nn.RNNBase) -> int:
    """Number of lines: layers times directions."""
    return module.num_layers * len(endings(module))


def state_count(module: nn.RNNBase) -> int:
    """Number of states of all lines."""
    return line_count(module) * module.hidden_size


def recurrent_module(root: nn.Module, path: str) -> nn.RNNBase:
    """Return the recurrent module of a path."""
    module = root.get_submodule(path)
    assert isinstance(module, nn.RNNBase)
    return module
