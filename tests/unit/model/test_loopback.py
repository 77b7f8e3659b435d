"""What is asked of this machine alone: addresses of it, however short, and names that lead to no other."""

from __future__ import annotations

import pytest

from gateway.model.public_addresses import is_loopback


@pytest.mark.parametrize("host", ["localhost", "shop.localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_these_are_asked_of_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "127.example.net", "localhost.example.net", "xlocalhost", "0.0.0.0", "::", "10.0.0.1"]
)
def test_these_may_be_asked_of_others(host: str) -> None:
    assert not is_loopback(host)
