"""The TLS port of a whole gateway: SDK and bare clients, certificates that change under live links, PROXY headers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from open_house import House, build_config, until

from gateway.app import Gateway
from gateway.client import Device, Provider
from gateway.client.link import ALPN
from gateway.metrics import Metric
from gateway.model.errors import ConfigError
from gateway.notifiers.local_tls import Authority, Issued

DAY_S = 86_400


class Files:
    """Certificate files as an operator has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority()
        self.renew()

    def renew(self, *, ends_days: float = 90, name: str = "the first") -> None:
        issued = self.ca.issue("localhost", "127.0.0.1", ends_days=ends_days, name=name)
        self.cert, self.key = issued.write(self.folder)

    def context(self, mine: Issued | None = None) -> ssl.SSLContext:
        """What a device connects with."""
        return self.ca.client_context(mine, alpn=[ALPN])

    def settings(self, **further: Any) -> dict[str, Any]:
        return {
            "edge.tls_port": 0,
            "edge.tls_cert": str(self.cert),
            "edge.tls_key": str(self.key),
            "edge.tls_reload_s": 0.02,
            **further,
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "tls")


async def subject(port: int, context: ssl.SSLContext, name: str = "localhost") -> str:
    """Common name of the certificate a new handshake gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return dict(part[0] for part in certificate["subject"])["commonName"]


async def test_a_device_and_a_provider_of_the_sdk_over_tls_alone(open_house: Any, files: Files) -> None:
    house: House = await open_house(files.settings(**{"edge.port": -1, "edge.proxy_protocol": "off"}))
    assert house.port == -1
    port = house.gateway.edge.tls_port
    context = files.context()
    async with (
        Device("127.0.0.1", port, tls=context, server_name="localhost") as device,
        Provider("localhost", port, key=house.shop.key, tls=context) as provider,
    ):
        got: asyncio.Queue[Any] = asyncio.Queue()
        registration = await device.register("shop", "1.0", on_message=got.put_nowait)
        result = await provider.push(target={"token": registration.token}, title="hello", text="x" * 12_000)
        assert (await asyncio.wait_for(got.get(), 10)).title == "hello"
        await house.shop.reaches(result.id, "acked")
    assert house.value(Metric.TLS_HANDSHAKES, "full") + house.value(Metric.TLS_HANDSHAKES, "resumed") == 2


async def test_the_sdk_checks_the_gateway(open_house: Any, files: Files) -> None:
    """The system's authorities do not know ours, and ours did not sign that name."""
    house: House = await open_house(files.settings())
    port = house.gateway.edge.tls_port
    for options in ({"tls": True}, {"tls": files.context(), "server_name": "another.example"}):
        before = house.ended("tls")
        async with Device("127.0.0.1", port, **options) as device:
            await until(lambda before=before: house.ended("tls") > before)
            assert device.id == ""
            await until(lambda device=device: "certificate was refused" in str(device.state.error))
    # asyncio's TLS sends an alert, uvloop's only leaves
    assert house.value(Metric.TLS_FAILURES, "refused") + house.value(Metric.TLS_FAILURES, "closed") >= 2


async def test_a_new_certificate_is_used_for_new_links_and_live_ones_go_on(open_house: Any, files: Files) -> None:
    house: House = await open_house(files.settings())
    port, context = house.gateway.edge.tls_port, files.context()
    async with Device("127.0.0.1", port, tls=context) as device:
        await device.connected()
        assert await subject(port, context) == "the first"
        files.renew(name="the second")
        await until(lambda: house.value(Metric.TLS_RELOADS, "ok") >= 1)
        await until(lambda: until_subject(port, context, "the second"))
        got: asyncio.Queue[Any] = asyncio.Queue()
        registration = await device.register("shop", "1.0", on_message=got.put_nowait)
        push = await house.shop.push(registration.token, "still there")
        assert (await asyncio.wait_for(got.get(), 10)).title == "still there"
        await house.shop.reaches(push, "acked")
        assert house.value(Metric.LOGINS, "ok") == 1


async def until_subject(port: int, context: ssl.SSLContext, name: str) -> bool:
    return await subject(port, context) == name


async def test_a_bad_new_certificate_leaves_the_old_one(
    open_house: Any, files: Files, expected_errors: set[str]
) -> None:
    expected_errors.add("certificate_reload_failed")
    house: House = await open_house(files.settings())
    port, context = house.gateway.edge.tls_port, files.context()
    files.key.write_text(files.ca.issue("localhost").key)
    await until(lambda: house.value(Metric.TLS_RELOADS, "failed") == 1)
    assert await subject(port, context) == "the first"
    files.renew(ends_days=-1, name="ended already")
    await until(lambda: house.value(Metric.TLS_RELOADS, "failed") >= 2)
    assert await subject(port, context) == "the first"
    files.cert.unlink()
    await until(lambda: house.value(Metric.TLS_RELOADS, "failed") >= 3)
    files.renew(name="good again")
    await until(lambda: until_subject(port, context, "good again"))


async def test_one_that_can_not_be_used_holds_up_no_others_renewal(
    open_house: Any, files: Files, tmp_path: Path, expected_errors: set[str]
) -> None:
    expected_errors.add("certificate_reload_failed")
    shop = files.ca.issue("shop.example", name="shop's first").write(tmp_path, "shop")
    sni = {"edge.tls_sni": [f"shop.example={shop.cert}:{shop.key}"]}
    house: House = await open_house(files.settings(**sni))
    port, context = house.gateway.edge.tls_port, files.context()
    files.renew(ends_days=-1, name="ended already")
    files.ca.issue("shop.example", name="shop's second").write(tmp_path, "shop")

    async def is_renewed() -> bool:
        return await subject(port, context, "shop.example") == "shop's second"

    await until(is_renewed)
    assert await subject(port, context) == "the first"
    assert house.value(Metric.TLS_RELOADS, "failed") >= 1


async def test_a_reload_that_was_asked_for_reads_unchanged_files(open_house: Any, files: Files) -> None:
    house: House = await open_house(files.settings(**{"edge.tls_reload_s": 3600}))
    house.gateway.edge.certificates.reload()
    await until(lambda: house.value(Metric.TLS_RELOADS, "ok") == 1)


async def test_a_reload_without_tls_does_nothing(house: House) -> None:
    house.gateway.edge.certificates.reload()
    assert house.value(Metric.TLS_RELOADS, "ok") == 0


async def test_the_time_that_is_left_is_a_metric_and_the_log_warns(
    tmp_path: Path, files: Files, expected_errors: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("certificate_expired")
    now = [time.time()]
    said: list[str] = []
    monkeypatch.setattr("gateway.edge.certificates._log.warning", lambda event, **_: said.append(event), raising=False)
    monkeypatch.setattr("gateway.edge.certificates._log.error", lambda event, **_: said.append(event), raising=False)
    async with House(tmp_path, files.settings()) as house:
        certificates = house.gateway.edge.certificates
        certificates._clock = lambda: now[0]
        left = house.value(Metric.TLS_CERTIFICATE_SECONDS, "default")
        assert 89 * DAY_S < left <= 90 * DAY_S
        assert said == []
        now[0] += 80 * DAY_S
        await until(lambda: said == ["certificate_expires_soon"])
        now[0] += 11 * DAY_S
        await until(lambda: said == ["certificate_expires_soon", "certificate_expired"])
        assert house.value(Metric.TLS_CERTIFICATE_SECONDS, "default") < 0
        # devices that look refuse it, but it is served
        blind = files.context()
        assert await subject(house.gateway.edge.tls_port, blind) == "the first"


async def test_names_and_client_certificates(open_house: Any, files: Files) -> None:
    other = files.ca.issue("push.example.org").write(files.folder, "push")
    house: House = await open_house(
        files.settings(
            **{
                "edge.tls_sni": [f"push.example.org={other[0]}:{other[1]}"],
                "edge.tls_client_auth": "required",
                "edge.tls_client_ca": str(files.ca.write(files.folder)),
            }
        )
    )
    port = house.gateway.edge.tls_port
    mine = files.context(files.ca.issue(name="device"))
    assert await subject(port, mine, "push.example.org") == "push.example.org"
    async with Device("127.0.0.1", port, tls=mine) as device:
        await device.connected()
    async with Device("127.0.0.1", port, tls=files.context()) as device:
        await until(lambda: house.value(Metric.TLS_FAILURES, "no_certificate") >= 1)
        assert device.id == ""
        await until(lambda: str(device.state.error) == "The gateway refused TLS: certificate required.")
    assert house.value(Metric.TLS_CERTIFICATE_SECONDS, "push.example.org") > 0


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda f: f.cert.unlink(), "edge.tls_cert", "cannot read"),
        (lambda f: f.cert.write_text("no"), "edge.tls_cert", "no certificate in PEM"),
        (lambda f: f.key.write_text("no"), "edge.tls_key", "no private key"),
        (lambda f: f.key.write_text(f.ca.issue("x.example").key), "edge.tls_key", "does not belong"),
        (lambda f: f.renew(ends_days=-3), "edge.tls_cert", "renew it"),
    ],
)
async def test_certificates_that_can_not_be_used_stop_the_start(
    tmp_path: Path, files: Files, change: Callable[[Files], None], field: str, words: str
) -> None:
    change(files)
    with pytest.raises(ConfigError, match=words) as caught:
        await Gateway.start(build_config(tmp_path / "store", files.settings()))
    assert caught.value.field == field


async def test_a_port_that_is_taken_is_named(tmp_path: Path, files: Files) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = files.settings(**{"edge.tls_port": taken.getsockname()[1]})
        with pytest.raises(ConfigError) as caught:
            await Gateway.start(build_config(tmp_path / "store", settings))
    assert caught.value.field == "edge.tls_port"


async def test_tls_over_several_reactors_with_tickets(open_house: Any, files: Files) -> None:
    house: House = await open_house(files.settings(**{"edge.reactors": 3}))
    context = files.context()
    devices = [Device("127.0.0.1", house.gateway.edge.tls_port, tls=context) for _ in range(24)]
    for device in devices:
        device.start()
    for device in devices:
        await device.connected()
    assert house.counter("tls_links") == 24
    await house.gateway.drain()
    for device in devices:
        await device.aclose()


async def test_a_sighup_reloads_and_does_not_end_the_process(tmp_path: Path, files: Files) -> None:
    """The real process: SIGHUP's default would end it."""
    import json
    import sys

    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", "--api-port", "0"]
    command += ["--store", str(tmp_path / "store"), "--ready-file", str(ready), "--set", "edge.drain_s=0"]
    settings = files.settings(**{"edge.tls_reload_s": 3600, "api.tls_reload_s": 3600, "api.tls_port": 0})
    settings |= {f"api.{name}": settings[f"edge.{name}"] for name in ("tls_cert", "tls_key")}
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    child = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await until(ready.exists, 30)
        about = json.loads(ready.read_text())
        port, context = about["device_tls_port"], files.context()
        both = port, about["api_tls_port"]
        for port in both:
            assert await subject(port, context) == "the first"
        files.renew(name="the second")
        os.kill(child.pid, signal.SIGHUP)
        for port in both:
            await until(lambda port=port: until_subject(port, context, "the second"))
    finally:
        child.terminate()
        await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0


async def test_a_device_behind_a_balancer(open_house: Any) -> None:
    house: House = await open_house(
        {"edge.proxy_protocol": "required", "edge.proxy_trusted": ["127.0.0.0/8", "::1"], "edge.tls_port": -1}
    )
    device = await house.device().connect()
    addresses = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + b"\xc3\x50\x1c\xe8"
    device.send_raw(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + addresses)
    await device.join()
    assert house.value(Metric.PROXIED, "ipv4") == 1
    bare = await house.device().connect()
    bare.send(1, {"v": 1})
    assert await bare.end() == []
    assert house.value(Metric.PROXY_REFUSED, "signature") == 1
    assert house.value(Metric.LINKS_CLOSED, "proxy") == 1
