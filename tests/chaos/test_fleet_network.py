"""Networks of their own, where the machine lets us make them: a cable pulled, and two that do not hear each other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from fleet_network import CAN_MAKE_NETWORKS, Network

pytestmark = pytest.mark.chaos

#: of `timeout`
_TIMED_OUT = 124


def hears(network: Network, one: str, other: str) -> bool:
    """Who is there refuses a connection to a port where nobody listens; who is not says nothing."""
    knock = f"exec 3<>/dev/tcp/{network.host(other)}/9"
    command = [*network.command(one), "timeout", "0.3", "bash", "-c", knock]
    return subprocess.run(command, capture_output=True, check=False).returncode != _TIMED_OUT


@pytest.fixture
def network() -> Iterator[Network | None]:
    if not CAN_MAKE_NETWORKS:
        yield None  # said aloud at the end of the run: conftest
        return
    with Network(("a", "b", "c")) as network:
        yield network


def test_two_are_cut_and_whole_again_and_the_third_hears_both(network: Network | None) -> None:
    if network is None:
        return
    assert hears(network, "a", "b")
    network.cut("a", ["b"])
    assert not hears(network, "a", "b")
    assert not hears(network, "b", "a")
    assert hears(network, "a", "c")
    assert hears(network, "c", "b")
    network.mend()
    assert hears(network, "a", "b")


def test_who_is_unplugged_hears_nobody_until_it_is_plugged_in(network: Network | None) -> None:
    if network is None:
        return
    assert hears(network, "b", "a")
    network.unplug("a")
    assert not hears(network, "b", "a")
    assert not hears(network, "a", "c")
    assert hears(network, "b", "c")
    network.mend()
    assert hears(network, "b", "a")


def test_nothing_is_left_behind() -> None:
    if not CAN_MAKE_NETWORKS:
        return
    with Network(("a",)) as network:
        tag = network._tag
    for command in (["ip", "netns", "list"], ["ip", "-o", "link"]):
        assert tag not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
