"""FreeRADIUS' own client tells who is on line, in every way it can; what it takes for an answer is one (C11)."""

from __future__ import annotations

from pathlib import Path

import pytest
from ip_scene import IMSI, MSISDN, IpScene
from needs import needs

from gateway.tour.operator.radclient import NEEDED, Said
from gateway.tour.operator.radclient import radclient as ask

pytestmark = [pytest.mark.slow, needs(NEEDED)]
SECRET = "between-us-alone"
SESSION = 'Acct-Session-Id = "0A0B0C0D00000001", NAS-IP-Address = 192.0.2.2, NAS-Identifier = "ggsn1"'
WHO = (
    f'User-Name = "{MSISDN}", Calling-Station-Id = "{MSISDN}", Called-Station-Id = "internet", 3GPP-IMSI = "{IMSI}",'
    ' 3GPP-IMEISV = "3570000000000116", 3GPP-SGSN-Address = 192.0.2.1, 3GPP-GGSN-Address = 192.0.2.2,'
    " 3GPP-Charging-ID = 77, Framed-Protocol = GPRS-PDP-Context, Acct-Authentic = RADIUS, Framed-IP-Address = {ip}"
)


async def radclient(scene: IpScene, text: str, *more: str, secret: str = SECRET) -> Said:
    assert scene.notifier.listener is not None
    return await ask(scene.notifier.listener.port, secret, text, *more)


def told(status: str, *more: str, ip: str = "127.0.0.1") -> str:
    return ", ".join([f"Acct-Status-Type = {status}", SESSION, WHO.format(ip=ip), *more]) + "\n"


async def test_start_interim_stop(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        assert (await scene.push()).detail == "later"
        code, said = await radclient(scene, told("Start", "Acct-Delay-Time = 0"))
        assert (code, "Received Accounting-Response" in said) == (0, True), said
        assert scene.backs == [3]
        assert (await scene.push()).ok
        assert (await radclient(scene, told("Interim-Update")))[0] == 0
        assert (await radclient(scene, told("Stop", "Acct-Terminate-Cause = User-Request")))[0] == 0
        assert (await scene.push()).detail == "later"
        assert [scene.requests(each) for each in ("on_line", "interim", "off_line")] == [1, 1, 1]
        scene.assert_strict()


async def test_a_gateway_that_starts_again_ends_its_sessions(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        for status in ("Accounting-On", "Accounting-Off"):
            assert (await radclient(scene, told("Start")))[0] == 0
            assert (await scene.push()).ok
            code, said = await radclient(scene, f"Acct-Status-Type = {status}, {SESSION}\n")
            assert code == 0, said
            assert (await scene.push()).detail == "later"
        assert scene.requests("flushed") == 2


async def test_another_secret_gets_no_answer(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        code, said = await radclient(scene, told("Start"), secret="another-secret")
        assert code != 0
        assert "No reply" in said
        assert scene.requests("bad_authenticator") == 1
        assert (await scene.push()).detail == "later"


async def test_who_is_no_client_gets_no_answer(tmp_path: Path) -> None:
    async with IpScene(tmp_path, radius={"clients": ["10.0.0.0/8"]}) as scene:
        assert (await radclient(scene, told("Start")))[0] != 0
        assert scene.requests("stranger") == 1


async def test_a_message_authenticator_is_checked_and_given_back(tmp_path: Path) -> None:
    async with IpScene(tmp_path, radius={"require_message_authenticator": True}) as scene:
        assert (await radclient(scene, told("Start")))[0] != 0
        assert scene.requests("no_message_authenticator") == 1
        # radclient computes it, and checks the one of the answer
        code, said = await radclient(scene, told("Start", "Message-Authenticator = 0x00"))
        assert code == 0, said
        assert said.count("Message-Authenticator") >= 2
        assert (await scene.push()).ok


async def test_a_proxy_gets_its_states_back(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        _, said = await radclient(scene, told("Start", "Proxy-State = 0x0102", "Proxy-State = 0x03"))
        received = said.partition("Received Accounting-Response")[2]
        assert "Proxy-State = 0x0102" in received
        assert "Proxy-State = 0x03" in received


async def test_many_of_them_at_once(tmp_path: Path) -> None:
    async with IpScene(tmp_path) as scene:
        requests = "\n".join(
            f'Acct-Status-Type = Start, Acct-Session-Id = "{n:08x}", NAS-Identifier = "ggsn1", Framed-IP-Address ='
            f' 10.45.{n >> 8}.{n & 255}, 3GPP-IMSI = "0010100000{n:05d}"\n'
            for n in range(1_000)
        )
        code, said = await radclient(scene, requests, "-p", "50")
        assert code == 0, said[-500:]
        assert scene.notifier.sessions is not None
        assert len(scene.notifier.sessions) == 1_000
        assert scene.requests("on_line") == 1_000


async def test_a_request_that_is_sent_again_is_answered_again(tmp_path: Path) -> None:
    """Each retry of radclient is the same bytes from the same port; the first answers are kept from it."""
    async with IpScene(tmp_path) as scene:
        listener = scene.notifier.listener
        assert listener is not None
        handle, lost = listener.handle, list[bytes]()

        def lose_one(packet: bytes, host: str, port: int) -> tuple[str, bytes]:
            result, answer = handle(packet, host, port)
            if not lost:
                lost.append(answer)
                return result, b""
            return result, answer

        listener.handle = lose_one  # type: ignore[method-assign]
        code, said = await radclient(scene, told("Start"), "-r", "3", "-t", "1")
        assert code == 0, said
        assert [scene.requests(each) for each in ("on_line", "repeated")] == [1, 1]
