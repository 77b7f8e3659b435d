"""FreeRADIUS' own client as a GGSN that tells who is on line; checks what it takes for an answer by itself."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.paging.ip.accounting import START, STOP

#: program → Debian package
NEEDED = {"radclient": "freeradius-utils"}
PATIENCE_S = 30.0
_STATUS = {START: "Start", STOP: "Stop"}
_NAMES = {"ip": "Framed-IP-Address", "imsi": "3GPP-IMSI", "msisdn": "Calling-Station-Id", "called": "Called-Station-Id"}
_SESSION = 'Acct-Session-Id = "0A0B0C0D00000001", NAS-Identifier = "ggsn1"'


class Said(NamedTuple):
    code: int
    text: str


async def radclient(port: int, secret: str, request: str, *more: str) -> Said:
    """Its exit code, and what it said; `request`: attributes as it reads them, `more`: arguments."""
    process = await asyncio.create_subprocess_exec(
        "radclient",
        *("-x", "-r", "1", "-t", "2", *more, f"127.0.0.1:{port}", "acct", secret),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(request.encode()), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Said(process.returncode or 0, said.decode("utf-8", "replace"))


class RadclientNas:
    """What `LocalNas.tell` does, by radclient."""

    def __init__(self, port: int, secret: bytes) -> None:
        self._port = port
        self._secret = secret.decode()

    async def tell(self, status: int = START, **said: str) -> None:
        """Answered when it returns; RuntimeError where there is no answer, or none that it takes for one."""
        attributes = [f"Acct-Status-Type = {_STATUS[status]}", _SESSION]
        attributes += [f'{_NAMES[name]} = "{value}"' for name, value in said.items()]
        code, text = await radclient(self._port, self._secret, ", ".join(attributes) + "\n")
        if code or "Received Accounting-Response" not in text:
            raise RuntimeError(f"radclient ended with {code}: {text[-500:]}")
