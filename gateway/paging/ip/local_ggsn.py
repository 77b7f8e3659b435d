"""A GGSN's command line of our own for tests and trials, as osmo-ggsn has it: telnet commands first, a banner, an echo,
a prompt; must never be reachable from anywhere but this machine.

What is no command that osmo-ggsn knows is a line in `faults`, which a test expects to be empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

_COMMAND = re.compile(rb"show pdp-context ggsn ([A-Za-z0-9_.-]+) imsi (\d{6,15})\r\n")
_BANNER = b'Welcome to the OsmoGGSN VTY interface\r\n\r\n\xff\xfb\x01\xff\xfb\x03\xff\xfe"\xff\xfd\x1f'
_CONTEXT = (
    "IMSI: {imsi}, NSAPI: 0, MSISDN: (NONE)\r\n Version: 1, Primary, Num Secondaries: 0\r\n"
    " Control: 127.0.0.2:00000001 <-> 127.0.0.3:00000001\r\n Data: 127.0.0.2:00000001 <-> 127.0.0.3:00000001\r\n"
    " APN requested: {apn}\r\n APN in use: {apn}\r\n End-User Address (IPv4): {address}\r\n"
    " Transmit GTP Sequence Number for G-PDU: Yes\r\n"
)


class LocalGgsn:
    def __init__(self, name: str = "ggsn0") -> None:
        self.name = name
        #: IMSI → (APN, address)
        self.contexts: dict[str, tuple[str, str]] = {}
        self.asked = 0
        self.faults: list[str] = []
        #: answer | hang | close | refuse | garbage | flood | stranger (somebody else's context)
        self.how = "answer"
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        prompt = b"OsmoGGSN> "
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(_BANNER + prompt)
            while True:
                line = await reader.readuntil(b"\n")
                self.asked += 1
                answer = self._answer(line)
                if answer is None:
                    break
                if self.how == "hang":
                    await reader.read()
                    break
                # in two pieces, so that who reads has to wait for the prompt
                writer.write(line + answer.encode("latin-1")[:20])
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(answer.encode("latin-1")[20:] + prompt)
        self._writers.discard(writer)
        writer.close()

    def _answer(self, line: bytes) -> str | None:
        command = _COMMAND.fullmatch(line)
        if command is None:
            self.faults.append("an unknown command")
            return "% Unknown command.\r\n"
        if self.how == "close":
            return None
        if self.how == "refuse" or command[1].decode() != self.name:
            return f"% No such GGSN '{command[1].decode()}'\r\n"
        if self.how == "garbage":
            return "\x00\xff\xfe nothing of the kind\r\n"
        if self.how == "flood":
            return "x" * 200_000
        imsi = command[2].decode()
        found = self.contexts.get(imsi)
        if self.how == "stranger":
            return _CONTEXT.format(imsi="999999999999999", apn="internet", address="127.0.0.9")
        if found is None:
            return "% No such PDP context found\r\n"
        return _CONTEXT.format(imsi=imsi, apn=found[0], address=found[1])
