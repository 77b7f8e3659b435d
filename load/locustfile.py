"""Load test: device users over plain sockets and provider users over HTTP, in the shape of a day.

make load USERS=2000 SECONDS=180            # a gateway of its own, headless, a page in build/load/
HELIOGRAPH_KEY=hk_… locust -f load/locustfile.py --host http://127.0.0.1:7480 --device-port 7400
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from locust import LoadTestShape

from load.scenarios.day import Shape
from load.scenarios.device import DeviceUser
from load.scenarios.provider import ProviderUser

__all__ = ["DayShape", "DeviceUser", "ProviderUser"]

# nine devices to a provider
DeviceUser.weight = 9
ProviderUser.weight = 1


class DayShape(LoadTestShape):
    """As --scenario says."""

    def __init__(self) -> None:
        super().__init__()
        self._shape = Shape()

    def tick(self) -> tuple[int, float] | None:
        return self._shape.tick(self.get_run_time(), self.runner.environment.parsed_options)
