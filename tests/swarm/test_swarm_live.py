"""The swarm against a gateway in a process of its own, against nobody, and against a server that speaks nonsense."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.swarm.options import Options
from gateway.swarm.swarm import Swarm, SwarmError
from gateway.tour.stage import APP, Stage

DEVICES = 300
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage("edge.device_logins_per_minute=0") as stage:
        yield stage


def options(stage: Stage, **more: Any) -> Options:
    assert stage._http is not None
    key = str(stage._http.headers["authorization"]).removeprefix("Bearer ")
    return Options(**({"port": stage.device_port, "app": APP, "key": key, "threads": 2, "heartbeat_s": 1.0} | more))


async def test_devices_log_in_heartbeat_get_pushes_drop_and_come_back_as_themselves(
    stage: Stage, tmp_path: Path
) -> None:
    with Swarm(options(stage)) as swarm:
        login = swarm.connect(DEVICES)
        assert (login["connected"], login["failed"]) == (DEVICES, 0)
        assert login["login_ms"]["count"] == DEVICES
        idle = swarm.idle(1.5)
        assert idle["heartbeats"] >= DEVICES
        assert idle["lost"] == 0
        pushed = swarm.push(rate=2_000, seconds=1.0, batch=50)
        assert pushed["offered"] == pushed["accepted"] == pushed["delivered"] > 1_000
        assert (pushed["refused"], pushed["duplicates"]) == (0, 0)
        everyone = swarm.broadcast(count=3)
        assert everyone["delivered"] == everyone["expected"] == 3 * DEVICES
        tokens = {fleet.token(index) for fleet in swarm._fleets for index in range(DEVICES // 2)}
        assert len(tokens) == DEVICES
        assert swarm.drop(share=0.5) == {"dropped": DEVICES // 2}
        assert swarm.reconnect()["connected"] == DEVICES // 2
        assert swarm.storm()["connected"] == DEVICES
        assert {fleet.token(index) for fleet in swarm._fleets for index in range(DEVICES // 2)} == tokens
        assert swarm.save(tmp_path / "fleet") == {"saved": DEVICES}
        assert (tmp_path / "fleet").stat().st_mode & 0o777 == 0o600
    with Swarm(options(stage)) as swarm:
        assert swarm.load(tmp_path / "fleet") == {"loaded": DEVICES}
        away = swarm.push(rate=0, seconds=0.3, targets="away")
        assert away["accepted"] > 0
        assert away["delivered"] == 0
        assert swarm.reconnect()["connected"] == DEVICES
        assert {fleet.token(index) for fleet in swarm._fleets for index in range(DEVICES // 2)} == tokens


@pytest.mark.parametrize(("ack", "acked"), [("none", 0), ("late:300", DEVICES)])
async def test_acks_are_as_asked_for(stage: Stage, ack: str, acked: int) -> None:
    with Swarm(options(stage, ack=ack)) as swarm:
        swarm.connect(DEVICES)
        swarm.broadcast()
        swarm.idle(0.6)
        assert swarm.counts()["acked"] == acked


async def test_a_gateway_that_is_killed_loses_all_and_all_come_back(stage: Stage) -> None:
    with Swarm(options(stage)) as swarm:
        swarm.connect(DEVICES)
        await stage.stop_gateway(signal.SIGKILL)
        assert swarm._wait(lambda counts: counts["lost"] == DEVICES, 10)
        assert swarm.reasons() == {"cut": DEVICES}
        assert swarm.reconnect()["failed"] == DEVICES
        with pytest.raises(SwarmError, match="refused"):
            swarm.broadcast()
        await stage.start_gateway()
        assert swarm.reconnect()["connected"] == DEVICES


async def test_a_wrong_app_or_key_is_said_by_name(stage: Stage) -> None:
    with Swarm(options(stage, key="hk_wrong")) as swarm, pytest.raises(SwarmError, match="unauthorized"):
        swarm.broadcast()


@contextlib.contextmanager
def server(answer: bytes) -> Iterator[int]:
    """Answers whatever comes with these bytes, then closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = listener.accept()
                with link:
                    link.recv(4_096)
                    link.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 600, b"\x04", b"\x10\x03\x81\xa4co", b""]
)
def test_a_server_that_speaks_nonsense_is_a_refusal_not_a_crash(answer: bytes) -> None:
    with server(answer) as port, Swarm(Options(port=port, threads=1)) as swarm:
        login = swarm.connect(20)
        assert (login["connected"], login["failed"]) == (0, 20)


def test_nobody_at_the_port_is_a_refusal_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Swarm(Options(port=port, threads=1)) as swarm:
        login = swarm.connect(20)
        assert login["failed"] == 20
        assert login["errno"] == ["Connection refused"]


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt install mosquitto")
def test_a_broker_is_driven_by_the_same_devices(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
    assert MOSQUITTO is not None
    broker = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        with Swarm(Options(port=port, protocol="mqtt", threads=1, heartbeat_s=1.0)) as swarm:
            assert swarm._wait(lambda _: _is_open(port), 10)
            assert swarm.connect(DEVICES)["connected"] == DEVICES
            assert swarm.idle(1.5)["heartbeats"] >= DEVICES
            pushed = swarm.push(rate=1_000, seconds=1.0)
            assert pushed["accepted"] == pushed["delivered"] > 500
            assert swarm.broadcast(count=2)["delivered"] == 2 * DEVICES
    finally:
        broker.terminate()
        broker.wait()


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def test_devices_take_gateways_in_turn_and_those_of_one_that_is_gone_find_another(stage: Stage) -> None:
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        other = f"127.0.0.1:{closed.getsockname()[1]}"
        with Swarm(options(stage, nodes=(other,))) as swarm:
            assert swarm.connect(100)["connected"] == 50
            swarm.reconnect()
            assert swarm.counts()["online"] == 100
