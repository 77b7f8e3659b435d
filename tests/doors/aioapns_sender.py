"""Sends with aioapns: a JSON object on stdin, a list of results on stdout.

Nothing of the library is changed. Where `proxy_port` is asked for it goes through its own proxy setting, to Apple's
name; else to another host and port, which are attributes of a class. Its way through a proxy hands a transport's socket
to another transport, which asyncio no longer allows (Python 3.11); so the loop hands it a socket of its own there, as
docs/apns-door.md says.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol


class Loop(asyncio.SelectorEventLoop):
    """The socket behind a transport may be given to another one: that gets one of its own."""

    _before: asyncio.Transport

    async def create_connection(self, *args: Any, sock: Any = None, **options: Any) -> Any:
        if sock is not None:
            self._before.pause_reading()
            sock = sock.dup()
        made = await super().create_connection(*args, sock=sock, **options)
        self._before = made[0]
        return made


async def send(ask: dict[str, Any]) -> list[dict[str, Any]]:
    trust = ssl.create_default_context(cafile=ask["trust"])
    if ask["proxy_port"]:
        ask["client"] |= {"proxy_host": "127.0.0.1", "proxy_port": ask["proxy_port"]}
    else:
        APNsProductionClientProtocol.APNS_SERVER = "localhost"
        APNsProductionClientProtocol.APNS_PORT = ask["port"]
    apns = APNs(max_connections=1, max_connection_attempts=2, ssl_context=trust, **ask["client"])
    options = ask["options"]
    if "push_type" in options:
        options["push_type"] = PushType(options["push_type"])
    message = {"aps": {"alert": {"title": "Ann", "body": "There?"}}, "chat": 17}
    requests = [NotificationRequest(device_token=token, message=message, **options) for token in ask["tokens"]]
    results = await asyncio.wait_for(asyncio.gather(*map(apns.send_notification, requests)), 30)
    connections = len(apns.pool.connections)
    apns.pool.close()
    assert connections == 1
    return [{"status": r.status, "reason": r.description, "timestamp": r.timestamp} for r in results]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=Loop) as runner:
        print(json.dumps(runner.run(send(json.load(sys.stdin)))))
