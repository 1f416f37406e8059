"""Functions and modules that traces do not look into, because somebody has registered a rule for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Functions and module types of users that have a rule, so that traces do not look into them.
OPAQUE_FUNCTIONS: list[Callable[..., Any]] = []


OPAQUE_MODULES: list[type] = []
