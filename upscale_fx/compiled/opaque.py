"""Opaque functions and modules: a user has registered a channel rule for them, so a trace records them as one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Functions with a registered rule.
OPAQUE_FUNCTIONS: list[Callable[..., Any]] = []

#: Module types with a registered rule.
OPAQUE_MODULES: list[type] = []
