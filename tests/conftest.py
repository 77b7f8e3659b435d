"""What holds for every test: properties are tried with the same examples each time, however slow the machine is.

`--hypothesis-profile=explore` looks for others; what it finds becomes an `@example`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# A time that a busy machine can miss is no property, neither of an example nor of making one.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("steady", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("steady")


@pytest.fixture
def own_logging() -> Iterator[None]:
    """For tests that run commands here: those set logs up for their process, and the tests after them have theirs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
