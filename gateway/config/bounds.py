"""How a setting that is a number says the range it must lie in."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def within(default: float, low: float, high: float | None = None) -> Any:
    """A number field with the range it must lie in, both ends included; `high` None = no upper end."""
    return field(default=default, metadata={"low": low, "high": high})
