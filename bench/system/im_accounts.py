"""D1: memory of an idle XMPP account through our connector, before a real server (prosody); the floor is a client of
the same library with its defaults, in the same run. Both without TLS: what OpenSSL holds for a connection is nobody's
choice. Then the same accounts in a whole gateway, with their supervision and their users' devices on line, without
TLS and over it.

Each side is a process of its own, which connects ten accounts first, so that what all share is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from bench.system.figures import Measured, Run
from bench.system.im_gateway import ImGateway
from bench.system.stage import BenchFailed, Process, open_files
from bench.system.swarm_client import Swarm
from gateway.notifiers.local_tls import Authority
from gateway.tour.networks.prosody import DOMAIN, NEEDED, Prosody
from gateway.tour.operator.programs import missing

FULL, QUICK = 1_000, 200
#: of the floor, whose accounts are fifteen times as large
BARE = 100
#: connected before the first look
FIRST = 10
PASSWORD = "of-the-bench"  # a server that lives as long as the run
ANSWER_S = 600.0
STILL_S, SETTLE_S = 60.0, 3.0


async def take(run: Run) -> Measured:
    lacking = missing(NEEDED)
    if lacking:
        raise BenchFailed(f"{lacking} is not installed (on Debian: apt install {lacking})")
    n = run.size(FULL, QUICK)
    if open_files() < n + 200:
        raise BenchFailed(f"{n:,} accounts need as many open files; raise the limit (ulimit -n)")
    with tempfile.TemporaryDirectory(prefix="heliograph-im-") as name:
        folder = Path(name)
        accounts = {f"user{number}": PASSWORD for number in range(n + FIRST)}
        server = Prosody(folder, accounts, is_hashed=True)
        await server.start()
        try:
            run.say(f"{n:,} accounts through the connector")
            ours = await _ask(folder, "connector", n, server)
            run.say(f"{BARE:,} accounts of the library's own client")
            bare = await _ask(folder, "bare", BARE, server)
            run.say(f"{n:,} accounts in a gateway")
            gateway_bytes = await _in_gateway(n, server, "never")
        finally:
            await server.stop()
        run.say("the same over TLS")
        tls_bytes = await _over_tls(n, folder, accounts)
    value, floor = ours["bytes"] / n, bare["bytes"] / BARE
    cpu_ms = ours["cpu_s"] * 1_000 / n
    return Measured(
        value,
        "bytes",
        n,
        floor=floor,
        ratio=value / floor,
        note=f"a login takes {cpu_ms:.1f} ms of CPU, the floor's {bare['cpu_s'] * 1_000 / BARE:.1f} ms; in the gateway "
        f"{gateway_bytes:,.0f} bytes, supervision and a device included, over TLS {tls_bytes:,.0f}",
        more={"login_cpu_ms": cpu_ms, "gateway_bytes": gateway_bytes, "tls_bytes": tls_bytes},
    )


async def _over_tls(n: int, folder: Path, accounts: dict[str, str]) -> float:
    """As `_in_gateway`, at a server that has the same accounts and a certificate."""
    authority = Authority()
    files = authority.issue(DOMAIN).write(folder)
    ca = folder / "ca.pem"
    ca.write_text(authority.pem)
    server = Prosody(folder, accounts, certificate=str(files.cert), key=str(files.key), is_hashed=True)
    await server.start()
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(ca)  # of the gateway that is started
    try:
        return await _in_gateway(n, server, "required")
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before
        await server.stop()


async def _in_gateway(n: int, server: Prosody, tls: str) -> float:
    """Bytes an account."""
    form = {"jid": f"user{{number}}@{DOMAIN}", "host": "127.0.0.1", "port": str(server.port), "tls": tls}
    async with (
        ImGateway("im.connects_per_s=1000", network="xmpp") as gateway,
        Swarm(port=gateway.port, devices=n) as swarm,
    ):
        await swarm.connect(n)
        await swarm.do("drop", count=n)
        await gateway.settle(password=PASSWORD, **form)
        before = await gateway.ask("begin")
        await swarm.reconnect(n)
        await gateway.wait_until_connected(n, STILL_S)
        await asyncio.sleep(SETTLE_S)
        after = await gateway.ask("end")
    return float(after["bytes"] - before["bytes"]) / n


async def _ask(folder: Path, side: str, count: int, server: Prosody) -> dict[str, float]:
    process = Process(f"the accounts ({side})", folder)
    words = [side, str(count), str(server.port)]
    await process.start([sys.executable, "-m", "bench.system.im_account_process", *words], piped=True)
    try:
        stdout = process.child.stdout
        assert stdout is not None
        line = await asyncio.wait_for(stdout.readline(), ANSWER_S)
        if not line:
            raise BenchFailed(f"the accounts ended: {process.said()}")
        answer: dict[str, float] = json.loads(line)
        return answer
    finally:
        await process.stop()
