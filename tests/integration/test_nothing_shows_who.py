"""Everything that leaves a gateway with every pager, looked through for who somebody is: its log at its most talkative,
its metrics, every answer to a provider, what it posts to one, and its store (C1 to C15, all kinds of trouble on the
way). What goes to the operator's own servers is not looked at: that is where network ids belong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.paging.ims.local import LocalCscf
from gateway.paging.ip.local import LocalTerminal
from gateway.paging.ip.local_nas import SECRET as RADIUS_SECRET
from gateway.paging.ip.local_nas import LocalNas
from gateway.paging.sms.local import Behaviour as SmscBehaviour
from gateway.paging.sms.local import LocalSmsc
from gateway.paging.sms.pdu import Status
from gateway.paging.sms.receipt import MessageState
from gateway.paging.trigger.local import Behaviour as ScefBehaviour
from gateway.paging.trigger.local import LocalScef
from gateway.tour.bare import BareDevice
from gateway.tour.stage import APP, Stage, eventually

pytestmark = pytest.mark.timeout(120)

IMSI, MSISDN, IMEI = "001017392846155", "4915173928461", "490154203237518"
IMPU, NAI, IMPI = "sip:quentin@ims.example.com", "quentin-nai@example.com", "quentin-impi@ims.example.com"
MAC, ADDRESS = "02:73:92:84:61:55", "127.0.73.92"
NETWORK_IDS = [
    {"kind": kind, "value": value}
    for kind, value in (
        ("imsi", IMSI),
        ("imei", IMEI),
        ("msisdn", f"+{MSISDN}"),
        ("impu", IMPU),
        ("impi", IMPI),
        ("nai", NAI),
        ("mac", MAC),
    )
]
TITLE, TEXT = "Quaestor", "perscrutatio"
PASSWORD = secrets.token_urlsafe(5)
#: who somebody is, and what the gateway shares with the operator's servers: nowhere outside
SECRETS = (IMSI, MSISDN, IMEI, "quentin", MAC, MAC.replace(":", ""), ADDRESS, PASSWORD, RADIUS_SECRET.decode())
#: words of a push: its own provider gets them back, no log and no metric has them
WORDS = (TITLE, TEXT)
PAGERS = ("sms", "wap", "trigger", "ip", "service")


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Everything:
    """A gateway with every pager, the operator's servers, and what it said to the outside."""

    def __init__(self) -> None:
        self.smsc = LocalSmsc(password=PASSWORD[:8])
        self.scef = LocalScef(client_secret=PASSWORD)
        self.cscf = LocalCscf()
        self.terminal = LocalTerminal()
        self.answers: list[str] = []
        self.stage: Stage
        self.nas: LocalNas

    def file(self, name: str, words: bytes) -> str:
        path = self.stage.folder / name
        path.write_bytes(words)
        path.chmod(0o600)
        return str(path)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A provider's; its answer is looked through."""
        answer = await self.stage.call(method, path, **options)
        self.answers.append(f"{method} {path} {answer.headers} {answer.text}")
        return answer

    async def operator(self, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
        """The operator's; answers to the operator alone show network ids, so they are not kept, but refusals are."""
        admin = (self.stage.folder / "store" / "admin.key").read_text().strip()
        answer = await self.stage.call(
            "POST", f"/v1/subscribers{path}", json=body, headers={"authorization": f"Bearer {admin}"}
        )
        assert answer.status_code == status, answer.text
        if status != 200:
            self.answers.append(answer.text)
        return dict(answer.json())

    async def push(self, target: dict[str, Any], *fallback: str, **fields: Any) -> str:
        body = {"target": target, "title": TITLE, "text": TEXT, "fallback": list(fallback), **fields}
        answer = await self.call("POST", "/v1/push", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def came(self, push: str, *words: str) -> None:
        """One of these words stands in the history of its delivery."""

        async def probe() -> bool:
            steps = (await self.call("GET", f"/v1/push/{push}")).json()["deliveries"][0]["steps"]
            return bool({step["what"] for step in steps} & set(words))

        await eventually(probe, f"{words} of {push}", 15)


@contextlib.asynccontextmanager
async def everything() -> AsyncIterator[Everything]:
    all_of_it = Everything()
    radius, smsc, scef = free_port(), await all_of_it.smsc.start(), await all_of_it.scef.start()
    cscf, port = await all_of_it.cscf.start(), 0
    for port in range(16_000, 17_000):
        with contextlib.suppress(OSError):
            await all_of_it.terminal.start(port, ADDRESS)
            break
    stage = all_of_it.stage = Stage("log.level=debug", "identity.host=push.example.com", f"identity.ask_apps={APP}")
    stage.add_settings(
        f"paging.smscs=smpp://{all_of_it.smsc.system_id}@127.0.0.1:{smsc}",
        f"paging.smsc_password_file={all_of_it.file('smsc', PASSWORD[:8].encode())}",
        "paging.coalesce_s=0",
        "paging.jitter_s=0",
        "paging.subscriber_per_hour=0",
        "wap.href_bytes=200",
        f"trigger.t8={scef}",
        f"trigger.scs_as_id={all_of_it.scef.scs_as_id}",
        "trigger.auth=oauth2",
        f"trigger.token_url={all_of_it.scef.token_url}",
        "trigger.client_id=pushgw",
        f"trigger.client_secret_file={all_of_it.file('scef', PASSWORD.encode())}",
        f"radius.port={radius}",
        "radius.clients=127.0.0.1/32",
        f"radius.secret_file={all_of_it.file('radius', RADIUS_SECRET)}",
        "ip.networks=127.0.0.0/8",
        "ip.loopback=true",
        f"ip.port={port}",
        "ip.ack_s=0.1",
        "ip.retransmits=1",
        f"ims.servers=127.0.0.1:{cscf}",
        f"ims.app={APP}",
        "ims.reconnect_s=0.1",
        "ims.refuse_ms=0",
    )
    try:
        async with stage, LocalNas(radius) as all_of_it.nas:
            yield all_of_it
    finally:
        all_of_it.terminal.close()
        for server in (all_of_it.smsc, all_of_it.scef, all_of_it.cscf):
            await server.close()


async def go_well(scene: Everything, token: str, opaque: str) -> None:
    """Every pager takes a push, to a device's token and to the id itself."""
    for pager in PAGERS:
        fields = {"data": {"href": "https://shop.example/1"}} if pager == "wap" else {}
        push = await scene.push({"token": token}, pager, **fields)
        await scene.came(push, "notified")
    await scene.came(await scene.push({"token": opaque}, "sms"), "notified")


async def go_wrong(scene: Everything, token: str, opaque: str) -> None:
    """Every pager and every listener has trouble that names the subscriber."""
    named = f"no {IMSI} {MSISDN} {IMPU}".encode()
    scene.smsc.behaviour = SmscBehaviour(status=Status.RINVDSTADR)
    await scene.came(await scene.push({"token": token}, "sms"), "notifier_failed")
    scene.smsc.behaviour = SmscBehaviour(receipts=(MessageState.UNDELIVERABLE,))
    await scene.came(await scene.push({"token": token}, "sms"), "failed")
    for refusal in (
        ScefBehaviour(status=404, cause="USER_UNKNOWN", invalid=MSISDN),
        ScefBehaviour(status=500, body=named),
        ScefBehaviour(raw=named),
        ScefBehaviour(location=f"http://{MSISDN}.example/"),
    ):
        scene.scef.next.append(refusal)
        await scene.came(await scene.push({"token": token}, "trigger"), "notifier_failed", "notified")
    scene.terminal.close()
    await scene.came(await scene.push({"token": token}, "ip"), "notifier_failed")
    await scene.nas.tell(2, ip=ADDRESS, imsi=IMSI, msisdn=MSISDN)
    await scene.came(await scene.push({"token": token}, "ip"), "notifier_failed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(named, scene.nas._address)
    scene.cscf.send(f"{len(named)}:".encode() + named + b",")
    assert await scene.cscf.invite("sip:nobody-quentin@ims.example.com").ended == "refused"
    # what people get wrong, with an id where it does not belong
    for body in (
        {"network_ids": [{"kind": "imsi", "value": f"{IMSI}00"}], "trigger": "attach"},
        {"network_ids": [{"kind": "msisdn", "value": f"{NAI}"}], "trigger": "attach"},
        {"network_ids": NETWORK_IDS, "trigger": IMSI},
        {"network_ids": NETWORK_IDS, MSISDN: 1, "trigger": "attach"},
    ):
        await scene.operator("", body, 400)
    for target in ({"token": f"{opaque[:-1]}x"}, {"token": f"{MSISDN}@push.example.com"}, {"alias": opaque}):
        await scene.call("POST", "/v1/push", json={"target": target, "title": TITLE})
    for nai in (NAI, f"{NAI}x", "@"):
        await scene.call("POST", "/v1/subscriber-ids", json={"nai": nai})
    await scene.call(
        "POST", f"/3gpp-device-triggering/v1/{APP}/transactions", json={"msisdn": MSISDN, "triggerPayload": "AAAA"}
    )


async def test_nothing_that_leaves_the_process_shows_who_somebody_is() -> None:
    async with everything() as scene:
        stage = scene.stage
        made = await scene.operator("", {"network_ids": NETWORK_IDS, "trigger": "attach", "app": APP})
        opaque = made["ids"][0]["id"]
        await stage.change_app(notifiers={"service": {"aid": "com.example.chat"}})
        await scene.nas.tell(ip=ADDRESS, imsi=IMSI, msisdn=MSISDN, called="internet", user_name=NAI)
        device = BareDevice(stage.device_port)
        token = await device.connect("quidam", addresses=dict.fromkeys(PAGERS, opaque))
        await device.close()
        await stage.disconnected(token)
        await go_well(scene, token, opaque)
        await eventually(lambda: asyncio.sleep(0, scene.cscf.is_connected), "the link to the SIP server")
        held = scene.cscf.invite(IMPU)
        await asyncio.wait_for(held.paged.wait(), 10)
        scene.cscf.register(IMPU)
        await go_wrong(scene, token, opaque)
        for path in (
            "/v1/receipts",
            "/v1/subscriber-ids",
            "/v1/registrations/" + token,
            "/v1/registrations/" + opaque,
            "/metrics",
            "/readyz",
            "/openapi.json",
        ):
            await scene.call("GET", path)
        log = (stage.folder / "gateway.log").read_text()
        metrics = next(answer for answer in scene.answers if answer.startswith("GET /metrics"))
        # it was a real run: each pager was asked, each listener heard
        for pager in PAGERS:
            assert f'{pager} ok"' in metrics, pager
        for word in ('"POST /v1/push"', "heliograph_radius_requests_total", "heliograph_ims_calls_total"):
            assert word in log + metrics, word
        posts = json.dumps([post for _, post in stage.endpoint.posts])
        outside = "\n".join([log, posts, *scene.answers])
        assert not [secret for secret in SECRETS if secret in outside]
        assert not [word for word in (*WORDS, opaque.partition("@")[0]) if word in log + metrics]
        raw = b"".join(file.read_bytes() for file in (stage.folder / "store").iterdir() if file.is_file())
        assert not [secret for secret in SECRETS if secret.encode() in raw]
