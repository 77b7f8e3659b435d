"""The client of a swarm's control protocol, against a script that speaks it."""

import sys
from pathlib import Path

import pytest

from bench.system.stage import BenchFailed
from bench.system.swarm_client import Swarm

SCRIPT = Path(__file__).with_name("scripted_swarm.py")


def swarm(**options: object) -> Swarm:
    return Swarm(port=7400, command=(sys.executable, str(SCRIPT)), **options)  # type: ignore[arg-type]


async def test_answers_come_back_as_they_are() -> None:
    async with swarm() as fleet:
        assert (await fleet.connect(50))["connected"] == 50
        assert (await fleet.do("stats"))["online"] == 50


async def test_the_options_reach_the_command() -> None:
    async with swarm(heartbeat=7, ack="none", protocol="mqtt") as fleet:
        options = (await fleet.do("stats"))["options"]
    assert options[0] == "--control"
    pairs = dict(zip(options[1::2], options[2::2], strict=True))
    assert (pairs["--port"], pairs["--heartbeat"], pairs["--ack"], pairs["--protocol"]) == ("7400", "7", "none", "mqtt")
    assert "--key" not in pairs  # there was none


async def test_a_device_that_does_not_come_up_fails_the_figure() -> None:
    async with swarm() as fleet:
        with pytest.raises(BenchFailed, match="100 of 101 devices could connect"):
            await fleet.connect(101)


async def test_a_delivery_that_does_not_come_fails_the_figure() -> None:
    async with swarm() as fleet:
        await fleet.connect(10)
        assert (await fleet.broadcast())["delivered"] == 10
        with pytest.raises(BenchFailed, match="0 of 10 deliveries"):
            await fleet.broadcast(bytes=50)


async def test_an_error_is_told_with_the_command() -> None:
    async with swarm() as fleet:
        with pytest.raises(BenchFailed, match="could not dance: dance is no command"):
            await fleet.do("dance")


async def test_the_end_of_the_swarm_is_told_with_what_it_said() -> None:
    async with swarm() as fleet:
        with pytest.raises(BenchFailed, match=r"exit code 3: .*no memory for the devices"):
            await fleet.do("die")
