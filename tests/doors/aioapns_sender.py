"""Sends with aioapns: a JSON object on stdin, a list of results on stdout.

Nothing of the library is changed but the host and port it goes to, which are attributes of a class. (Its way through a
proxy, the other way to lead it elsewhere, uses methods of a transport's socket that Python 3.11 no longer has.)
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol


async def send(ask: dict[str, Any]) -> list[dict[str, Any]]:
    APNsProductionClientProtocol.APNS_SERVER = "localhost"
    APNsProductionClientProtocol.APNS_PORT = ask["port"]
    trust = ssl.create_default_context(cafile=ask["trust"])
    apns = APNs(max_connections=1, max_connection_attempts=2, ssl_context=trust, **ask["client"])
    options = ask["options"]
    if "push_type" in options:
        options["push_type"] = PushType(options["push_type"])
    message = {"aps": {"alert": {"title": "Ann", "body": "There?"}}, "chat": 17}
    requests = [NotificationRequest(device_token=token, message=message, **options) for token in ask["tokens"]]
    async with asyncio.timeout(30):
        results = await asyncio.gather(*map(apns.send_notification, requests))
    connections = len(apns.pool.connections)
    apns.pool.close()
    assert connections == 1
    return [{"status": r.status, "reason": r.description, "timestamp": r.timestamp} for r in results]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(send(json.load(sys.stdin)))))
