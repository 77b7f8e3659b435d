"""Storms: moments at which a share of all devices drops and comes back."""

from __future__ import annotations

import random
from typing import Any


class Storms:
    """When a storm is called, this share of the devices drops, each once."""

    def __init__(self) -> None:
        self.number = 0
        self.share = 0.0

    def call(self, share: float) -> None:
        self.number += 1
        self.share = share

    def hits(self, user: Any) -> bool:
        if getattr(user, "storm", 0) == self.number:
            return False
        user.storm = self.number
        return random.random() < self.share


STORMS = Storms()
