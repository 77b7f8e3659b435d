"""The door for mails to the service's own domain (D14): SMTP, or LMTP behind a mail server of one's own. Takes nothing
for anybody else, says 250 only for what is durable, and must never log an address or a text."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, AnyStr, cast

from aiosmtpd.smtp import SMTP

from gateway.config.im_section import Im
from gateway.im.messaging.mail_intake import MailIntake
from gateway.im.mime import is_address
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError

# they log every command, address and peer
for _name in ("mail.log", "mail.debug"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

#: unknown recipients on one connection, after which it is cut: nobody reads our users off us quickly
_UNKNOWN_RECIPIENTS = 10
_RECIPIENTS = 100
#: commands of one kind on one connection
_COMMANDS = 10_000
#: lines of a mail that are read before others have their turn
_LINES = 500
#: of what is too large so many times more is thrown away in wait for its end, then the connection is cut
_DRAIN_TIMES = 2
_PIECE = 65_536
#: where there is no room for another, who had so long and did not get on goes
_PATIENCE_S = 10.0
#: a mail that comes in slower, bytes a second, does not get on
_SLOW_BYTES_PER_S = 4_096


class MailDoor:
    """Listens between `start` and `close`."""

    def __init__(self, settings: Im, intake: MailIntake, metrics: Metrics) -> None:
        self._settings = settings
        self._intake = intake
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._links: dict[_Link, None] = {}
        self._taking: set[asyncio.Task[list[str]]] = set()
        #: those whose mail comes in now, the one that began first first
        self._receiving: dict[_Link, None] = {}

    async def start(self) -> None:
        """ConfigError; OSError where the port can not be had."""
        if not is_address(f"a@{self._settings.mail_domain}"):
            raise ConfigError("name the domain whose mails are taken here", field="im.mail_domain")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._greet, self._settings.mail_host, self._settings.mail_port)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """What is being delivered now is delivered; its sender may not hear of it and send it again, which is seen."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.cut()
        tasks = [link.task for link in self._links if link.task is not None]
        await asyncio.gather(*tasks, *self._taking, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def take(self, sender: str, recipients: list[str], mail: bytes) -> list[str]:
        """A connection that is lost meanwhile does not undo half of it."""
        task = asyncio.create_task(self._intake.take(sender, recipients, mail))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        return await asyncio.shield(task)

    def _greet(self) -> asyncio.Protocol:
        if len(self._links) >= self._settings.mail_connections and not self._part_with_idle():
            self._metrics.count(Metric.IM_MAIL_CUT, label="too_many")
            return _TooMany()
        return _Link(self, self._settings, self._intake, self._metrics)

    def opened(self, link: _Link) -> None:
        self._links[link] = None

    def closed(self, link: _Link) -> None:
        self._links.pop(link, None)
        self._receiving.pop(link, None)

    def _part_with_idle(self) -> bool:
        """Nobody keeps others out by being there: the one who brought no mail for longest goes."""
        patience_at = asyncio.get_running_loop().time() - _PATIENCE_S
        idle = (link for link in self._links if link not in self._receiving and link.since <= patience_at)
        return self._part_with(min(idle, key=lambda link: link.since, default=None), "idle")

    def begin_mail(self, link: _Link) -> bool:
        """False: too many mails come in. Nobody keeps others' out by sending slowly: the slowest goes."""
        if len(self._receiving) >= self._settings.mail_at_once:
            now = asyncio.get_running_loop().time()
            slow = (one for one in self._receiving if one.is_slow(now))
            if not self._part_with(min(slow, key=lambda one: one.pace(now), default=None), "slow"):
                return False
        self._receiving[link] = None
        return True

    def end_mail(self, link: _Link) -> None:
        self._receiving.pop(link, None)

    def _part_with(self, link: _Link | None, why: str) -> bool:
        if link is None:
            return False
        self._metrics.count(Metric.IM_MAIL_CUT, label=why)
        self.closed(link)
        link.cut()
        return True


class _TooMany(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's are none of its class
        stream.write(b"421 4.7.0 too many connections, come back later\r\n")
        stream.close()


class _Link(SMTP):
    """One connection. aiosmtpd's own DATA keeps lines without an end for ever, so this has one of its own."""

    line_length_limit = _PIECE
    local_part_limit = 64

    def __init__(self, door: MailDoor, settings: Im, intake: MailIntake, metrics: Metrics) -> None:
        self._door = door
        self._settings = settings
        self._intake = intake
        self._metrics = metrics
        self._unknown = 0
        #: connected, or the last mail was over, by the loop's clock
        self.since = asyncio.get_running_loop().time()
        #: of the mail that comes in: when it began, bytes so far, and whether all of it is here
        self._began, self._came, self._is_whole = 0.0, 0, False
        super().__init__(
            self,
            data_size_limit=settings.mail_bytes,
            hostname=settings.mail_domain or "localhost",
            ident="ready",
            timeout=settings.mail_s,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            command_call_limit=_COMMANDS,
            loop=asyncio.get_running_loop(),
        )
        commands = self._smtp_methods
        if settings.mail_lmtp:  # RFC 2033 §4.1
            commands["LHLO"] = commands.pop("EHLO")
            commands.pop("HELO")
        for name in ("AUTH", "VRFY", "EXPN", "HELP", "STARTTLS"):
            commands.pop(name, None)

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.opened(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._door.closed(self)
        super().connection_lost(error)

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._handler_coroutine

    def pace(self, now: float) -> float:
        """Of the mail that comes in, bytes a second."""
        return self._came / max(now - self._began, 1.0)

    def is_slow(self, now: float) -> bool:
        return not self._is_whole and now - self._began >= _PATIENCE_S and self.pace(now) < _SLOW_BYTES_PER_S

    def cut(self) -> None:
        if self.transport is not None:
            cast(asyncio.Transport, self.transport).abort()

    async def push(self, status: AnyStr) -> None:
        """Many commands may have come at once: after each answer others have their turn."""
        await super().push(status)
        await asyncio.sleep(0)

    async def handle_exception(self, error: Exception) -> str:  # noqa: ARG002 - what is wrong names a person
        self._metrics.count(Metric.IM_MAIL_CUT, label="fault")
        return "451 4.3.0 this failed here, come back later"

    # --- commands

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        _ = server, session
        if len(envelope.rcpt_tos) >= _RECIPIENTS:
            return "452 4.5.3 too many recipients in one mail"
        answer = self._intake.check_recipient(address)
        if answer:
            if answer.startswith("5"):
                self._unknown += 1
                if self._unknown >= _UNKNOWN_RECIPIENTS:
                    self._metrics.count(Metric.IM_MAIL_CUT, label="unknown_recipients")
                    self._hang_up_soon()
                    return "421 4.7.0 too many unknown recipients"
            return answer
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    def _hang_up_soon(self) -> None:
        """Behind the answer that is about to be written."""
        asyncio.get_running_loop().call_soon(self._hang_up)

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.close()

    async def smtp_DATA(self, arg: str) -> None:
        if await self.check_helo_needed("LHLO" if self._settings.mail_lmtp else "HELO"):
            return
        assert self.envelope is not None
        recipients = list(self.envelope.rcpt_tos)
        if not recipients:
            await self.push("503 5.5.1 need RCPT command")
        elif arg:
            await self.push("501 5.5.4 Syntax: DATA")
        elif not self._door.begin_mail(self):
            self._metrics.count(Metric.IM_MAILS, label="busy")
            await self.push("451 4.3.2 too many mails at once, come back later")
        else:
            loop = asyncio.get_running_loop()
            self._began, self._came, self._is_whole = loop.time(), 0, False
            try:
                answers = await self._receive(recipients)
            finally:
                self._door.end_mail(self)
                self.since = loop.time()
            self._set_post_data_state()  # type: ignore[no-untyped-call]
            for answer in answers:
                await self.push(answer)

    async def _receive(self, recipients: list[str]) -> list[str]:
        sender = "" if self.envelope is None else str(self.envelope.mail_from or "")
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        try:
            async with asyncio.timeout(self._settings.mail_s):
                mail = await self._read_mail()
        except TimeoutError:
            self._metrics.count(Metric.IM_MAIL_CUT, label="slow")
            self._hang_up_soon()
            return self._answers(["451 4.4.2 this took too long"] * len(recipients))
        if mail is None:
            self._metrics.count(Metric.IM_MAILS, len(recipients), label="large")
            return self._answers(["552 5.3.4 this mail is too large"] * len(recipients))
        self._is_whole = True
        self._reset_timeout()
        return self._answers(await self._door.take(sender, recipients, mail))

    def _answers(self, each: list[str]) -> list[str]:
        """LMTP answers for every recipient; in SMTP it is sent again for all where one could not take it now, and those
        who have it already do not get it twice."""
        if self._settings.mail_lmtp:
            return each
        return [next((a for want in ("4", "5") for a in each if a[0] == want), each[0])]

    async def _read_mail(self) -> bytes | None:
        """None: too large. Dots at the beginning of lines are undone (RFC 5321 §4.5.2), and only CR LF ends a line."""
        data = bytearray()
        total, lines, is_line_start = 0, 0, True
        limit = self._settings.mail_bytes
        while True:
            lines += 1
            if lines % _LINES == 0:
                await asyncio.sleep(0)
            try:
                line = await self._reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as error:
                line = await self._reader.read(error.consumed)
            if is_line_start and line == b".\r\n":
                return bytes(data) if total <= limit else None
            if is_line_start and line.startswith(b"."):
                line = line[1:]
            is_line_start = line.endswith(b"\r\n")
            total += len(line)
            self._came = total
            if total <= limit:
                data += line
            else:
                data.clear()
                if total > (1 + _DRAIN_TIMES) * limit:
                    self._metrics.count(Metric.IM_MAIL_CUT, label="endless")
                    self._hang_up_soon()
                    return None
