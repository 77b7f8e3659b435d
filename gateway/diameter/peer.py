"""One Diameter peer: the connection, capabilities, watchdog and its end (RFC 6733 §5, RFC 3539 §3.4); must never send a
request before the capabilities are exchanged, and never log what is in a message.

The gateway is always the one that connects; requests of the peer come on the same connection.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from gateway.diameter import codes
from gateway.diameter.avps import (
    Avps,
    Kind,
    Malformed,
    build_address,
    build_group,
    build_octets,
    build_text,
    build_u32,
    parse_avps,
    parse_u32,
)
from gateway.diameter.codes import Application, Command, DisconnectCause, Result
from gateway.diameter.messages import (
    ERROR,
    PROXIABLE,
    REQUEST,
    Frames,
    Header,
    Message,
    build_message,
    parse_header,
    parse_message,
)
from gateway.metrics import Metric, Metrics

_log = structlog.get_logger(__name__)

READ_BYTES = 65_536
PRODUCT = "Heliograph"
#: a connection that lived this long was a good one: the next pause is the first again
STEADY_S = 10.0
#: a peer that has so much to read still is passed over; one that never reads is ended by its silence
MOST_UNSENT_BYTES = 1_048_576
#: at the end, the peer's goodbye is waited for so long
GOODBYE_S = 1.0
#: silent for so many watchdog intervals: not asked any more, closed (RFC 3539 §3.4.1: suspect, then down)
SUSPECT, DOWN = 2, 3
_MOST = 0xFFFFFFFF

#: what is behind the header of an answer: None where the request was wrong
OnRequest = Callable[[Message], bytes]


class PeerLost(OSError):
    """The peer went away, or is not trusted any more, before it answered."""


class NotSent(PeerLost):
    """Not a byte of it went out."""


class SessionEnd(Exception):
    """Why a connection is over, as one word for log and metric."""

    def __init__(self, reason: str, *, wants_rest: bool = False) -> None:
        super().__init__(reason)
        self.wants_rest = wants_rest


class Unanswerable(Exception):
    """A request of the peer that is refused with this result."""

    def __init__(self, result: int, failed: bytes = b"") -> None:
        super().__init__(result)
        self.result = result
        self.failed = failed  # the AVP that is at fault, built


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Of one peer; times in seconds."""

    name: str  # host:port, for logs and metrics
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    origin_host: str = "gateway.example.net"
    origin_realm: str = "example.net"
    origin_state: int = 1
    applications: tuple[int, ...] = (Application.SH, Application.S6M, Application.S6C, Application.TSP)
    connect_s: float = 5.0
    watchdog_s: float = 30.0
    reconnect_s: float = 1.0
    reconnect_max_s: float = 60.0
    most_bytes: int = 65_536


@dataclass(slots=True, eq=False)
class Asked:
    """A request that has no answer yet."""

    header: Header
    answer: asyncio.Future[Message] = field(repr=False)


def build_application(application: int) -> bytes:
    """Vendor-Specific-Application-Id (§6.11): all of ours are 3GPP's."""
    return build_group(
        codes.VENDOR_SPECIFIC_APPLICATION_ID,
        build_u32(codes.VENDOR_ID, codes.TGPP),
        build_u32(codes.AUTH_APPLICATION_ID, application),
    )


def parse_applications(avps: Avps) -> frozenset[int]:
    """What a CER or CEA says that its sender speaks. Malformed."""
    found = set[int]()
    kinds = (codes.AUTH_APPLICATION_ID, codes.ACCT_APPLICATION_ID)
    for kind in kinds:
        found |= {parse_u32(data) for data in avps.all(kind)}
    for group in avps.all(codes.VENDOR_SPECIFIC_APPLICATION_ID):
        inner = parse_avps(group)
        for kind in kinds:
            found |= {parse_u32(data) for data in inner.all(kind)}
    return frozenset(found)


class Peer:
    """Keeps itself connected from `start` to `close`."""

    def __init__(self, settings: PeerSettings, metrics: Metrics, on_request: OnRequest) -> None:
        self.name = settings.name
        #: capabilities are exchanged, and it answers
        self.is_open = False
        self.applications: frozenset[int] = frozenset()
        self._settings = settings
        self._metrics = metrics
        self._on_request = on_request
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, Asked] = {}
        self._hop_by_hop = random.SystemRandom().randrange(_MOST)
        self._goodbye: asyncio.Future[None] | None = None
        self._opened_at_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="diameter-peer")

    async def close(self) -> None:
        """Say goodbye (§5.4), wait a moment for the answer."""
        if self.is_open and self._writer is not None:
            self.is_open = False  # nothing new goes out behind the goodbye
            self._goodbye = asyncio.get_running_loop().create_future()
            self._send_request(Command.DISCONNECT_PEER, build_u32(codes.DISCONNECT_CAUSE, DisconnectCause.REBOOTING), 0)
            await asyncio.wait({self._goodbye}, timeout=min(GOODBYE_S, self._settings.connect_s))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def speaks(self, application: int) -> bool:
        return application in self.applications or Application.RELAY in self.applications

    async def ask(self, header: Header, avps: bytes) -> Message:
        """Its answer. PeerLost, NotSent; Malformed where the answer is none. No deadline of its own."""
        writer = self._writer
        if writer is None or not self.is_open or writer.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            raise NotSent
        self._hop_by_hop = self._hop_by_hop + 1 & _MOST
        header = header._replace(hop_by_hop=self._hop_by_hop)
        asked = Asked(header, asyncio.get_running_loop().create_future())
        self._asked[header.hop_by_hop] = asked
        try:
            writer.write(build_message(header, avps))
            return await asked.answer
        finally:
            self._asked.pop(header.hop_by_hop, None)

    # --- one connection after the other

    async def _keep(self) -> None:
        pause_s = self._settings.reconnect_s
        loop = asyncio.get_running_loop()
        while True:
            self._opened_at_s = 0.0
            wants_rest = False
            try:
                await self._session()
                reason = "closed"
            except TimeoutError:
                reason = "timeout"
            except SessionEnd as end:
                reason, wants_rest = str(end), end.wants_rest
            except Malformed:
                reason = "malformed"
            except ssl.SSLError:
                reason = "tls"
            except OSError:
                reason = "connection"
            except Exception as error:
                # ours; its text may hold what a message held
                reason = "internal"
                _log.warning("diameter_peer_failed", diameter=self.name, error=type(error).__name__)
            self._metrics.count(Metric.DIAMETER_ENDED, label=reason)
            if self._goodbye is not None:
                return
            if self._opened_at_s and loop.time() - self._opened_at_s >= STEADY_S:
                pause_s = self._settings.reconnect_s
            if wants_rest:
                pause_s = self._settings.reconnect_max_s
            wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads gateways, hides nothing
            _log.warning("diameter_peer_down", diameter=self.name, reason=reason, again_in_s=round(wait_s, 1))
            pause_s = min(pause_s * 2, self._settings.reconnect_max_s)
            await asyncio.sleep(wait_s)

    async def _session(self) -> None:
        settings = self._settings
        async with asyncio.timeout(settings.connect_s):
            reader, writer = await asyncio.open_connection(
                settings.host, settings.port, ssl=settings.tls, server_hostname=settings.host if settings.tls else None
            )
        frames = Frames(settings.most_bytes)
        self._writer = writer
        try:
            async with asyncio.timeout(settings.connect_s):
                behind = await self._exchange(reader, frames)
            self.is_open = True
            self._opened_at_s = asyncio.get_running_loop().time()
            self._metrics.set(Metric.DIAMETER_PEERS, 1, label=self.name)
            _log.info("diameter_peer_open", diameter=self.name)
            await self._serve(reader, writer, frames, behind)
        finally:
            self.is_open = False
            self._writer = None
            self._metrics.set(Metric.DIAMETER_PEERS, 0, label=self.name)
            self._lose_all()
            if self._goodbye is not None and not self._goodbye.done():
                self._goodbye.set_result(None)
            writer.close()

    def _lose_all(self) -> None:
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(PeerLost())

    async def _exchange(self, reader: asyncio.StreamReader, frames: Frames) -> list[bytes]:
        """§5.3. What came behind the answer is returned; anything before it is out of order."""
        writer = self._writer
        assert writer is not None
        local = writer.get_extra_info("sockname")[0].partition("%")[0]
        avps = [
            build_address(codes.HOST_IP_ADDRESS, local),
            build_u32(codes.VENDOR_ID, 0),
            build_text(codes.PRODUCT_NAME, PRODUCT),
            build_u32(codes.ORIGIN_STATE_ID, self._settings.origin_state),
            build_u32(codes.SUPPORTED_VENDOR_ID, codes.TGPP),
            *(build_application(application) for application in self._settings.applications),
        ]
        sent = self._send_request(Command.CAPABILITIES_EXCHANGE, b"".join(avps), 0)
        while True:
            data = await reader.read(READ_BYTES)
            if not data:
                raise SessionEnd("refused")
            cut = frames.feed(data)
            if not cut:
                continue
            answer = parse_message(cut[0])
            if answer.header.is_request or answer.header.command != Command.CAPABILITIES_EXCHANGE:
                raise SessionEnd("no_capabilities")
            if answer.header.hop_by_hop != sent.hop_by_hop:
                raise SessionEnd("no_capabilities")
            result = answer.avps.u32(codes.RESULT_CODE)
            if result != Result.SUCCESS:
                raise SessionEnd(_name_refusal(result))
            self.applications = parse_applications(answer.avps)
            if not any(self.speaks(application) for application in self._settings.applications):
                raise SessionEnd("no_common_application")
            return cut[1:]

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames, behind: list[bytes]
    ) -> None:
        settings = self._settings
        silent = 0  # watchdog intervals without a byte
        self._handle_all(behind)
        while True:
            try:
                # RFC 3539 §3.4.1: the interval is jittered, so that peers do not beat in step
                wait_s = settings.watchdog_s * random.uniform(0.9, 1.0)  # noqa: S311 - spreads, hides nothing
                async with asyncio.timeout(wait_s):
                    data = await reader.read(READ_BYTES)
            except TimeoutError:
                silent += 1
                if silent >= DOWN:
                    raise SessionEnd("watchdog") from None
                if silent >= SUSPECT:
                    # failover: what it has not answered goes to another, and nothing new comes here
                    self.is_open = False
                    self._lose_all()
                else:
                    self._send_request(Command.DEVICE_WATCHDOG, b"", 0)
                continue
            if not data:
                return
            self._handle_all(frames.feed(data))
            if self._goodbye is None:
                self.is_open = True  # a suspect that speaks again is trusted again
            silent = 0
            # a peer that sends and does not read has to wait, not our memory
            async with asyncio.timeout(settings.connect_s):
                await writer.drain()

    def _handle_all(self, frames: list[bytes]) -> None:
        for frame in frames:
            header = parse_header(frame)
            if header.is_request:
                self._handle_request(header, frame)
            else:
                self._handle_answer(header, frame)

    def _handle_answer(self, header: Header, frame: bytes) -> None:
        asked = self._asked.get(header.hop_by_hop)
        if asked is None:
            if header.command == Command.DISCONNECT_PEER and self._goodbye is not None:
                raise SessionEnd("goodbye")
            return  # the watchdog's, a late one, or one to what was never asked
        if asked.answer.done():
            return
        # §6.2.1: the same End-to-End Identifier, command and application
        if asked.header.end_to_end != header.end_to_end or asked.header.command != header.command:
            self._metrics.count(Metric.DIAMETER_MALFORMED)
            return
        try:
            asked.answer.set_result(parse_message(frame))
        except Malformed as error:
            self._metrics.count(Metric.DIAMETER_MALFORMED)
            asked.answer.set_exception(error)

    def _handle_request(self, header: Header, frame: bytes) -> None:
        answer = header._replace(flags=header.flags & PROXIABLE)
        try:
            message = parse_message(frame)
        except Malformed as error:
            # the frame was whole, so what is behind it can be read
            self._metrics.count(Metric.DIAMETER_MALFORMED)
            self._send_answer(answer, b"", error.result)
            return
        echoed = _echo(message.avps)
        if header.application == Application.BASE and header.command == Command.DEVICE_WATCHDOG:
            self._send_answer(answer, build_u32(codes.ORIGIN_STATE_ID, self._settings.origin_state), Result.SUCCESS)
        elif header.application == Application.BASE and header.command == Command.DISCONNECT_PEER:
            self._send_answer(answer, b"", Result.SUCCESS)
            cause = message.avps.first(codes.DISCONNECT_CAUSE)
            raise SessionEnd("disconnected", wants_rest=cause not in (None, bytes(4)))
        else:
            try:
                self._send_answer(answer, echoed + self._on_request(message), Result.SUCCESS)
            except Unanswerable as refusal:
                failed = build_octets(codes.FAILED_AVP, refusal.failed) if refusal.failed else b""
                self._send_answer(answer, echoed + failed, refusal.result)
            except Malformed as error:
                self._metrics.count(Metric.DIAMETER_MALFORMED)
                self._send_answer(answer, echoed, error.result)
            except Exception as error:
                # ours; the peer is told that it was not done, and may ask again
                _log.warning("diameter_request_failed", diameter=self.name, error=type(error).__name__)
                self._send_answer(answer, echoed, Result.UNABLE_TO_COMPLY)

    # --- out

    def _build_origin(self) -> bytes:
        return build_text(codes.ORIGIN_HOST, self._settings.origin_host) + build_text(
            codes.ORIGIN_REALM, self._settings.origin_realm
        )

    def _send_request(self, command: int, avps: bytes, application: int) -> Header:
        """One of the base protocol; its answer is nobody's."""
        self._hop_by_hop = self._hop_by_hop + 1 & _MOST
        header = Header(REQUEST, command, application, self._hop_by_hop, self._hop_by_hop)
        if self._writer is not None:
            self._writer.write(build_message(header, self._build_origin() + avps))
        return header

    def _send_answer(self, header: Header, avps: bytes, result: int) -> None:
        """The order of AVPs is free but for Session-Id, which comes first where there is one (§8.8)."""
        if 3000 <= result < 4000:
            header = header._replace(flags=header.flags | ERROR)  # §7.2
        session, rest = _cut_session(avps)
        if self._writer is not None:
            self._writer.write(
                build_message(header, session + build_u32(codes.RESULT_CODE, result) + self._build_origin() + rest)
            )


def _echo(avps: Avps) -> bytes:
    """What an answer repeats of its request (§6.2): the session, and what proxies want back, in their order."""
    out = b""
    for kind in (codes.SESSION_ID, codes.PROXY_INFO):
        for data in avps.all(kind):
            out += build_octets(kind, data)
    return out


def _cut_session(avps: bytes) -> tuple[bytes, bytes]:
    head = codes.SESSION_ID.code.to_bytes(4, "big")
    if avps[:4] != head:
        return b"", avps
    length = int.from_bytes(avps[5:8], "big")
    length += -length % 4
    return avps[:length], avps[length:]


def _name_refusal(result: int | None) -> str:
    """Few words, so that a peer can not fill the metric with its own."""
    known = (Result.UNKNOWN_PEER, Result.NO_COMMON_APPLICATION, Result.UNABLE_TO_COMPLY, Result.TOO_BUSY)
    return f"refused_{Result(result).name}" if result in known else "refused"


def require(avps: Avps, kind: Kind) -> bytes:
    """What a request of the peer has to hold. Unanswerable: 5005, with the AVP that is missing (§7.5)."""
    data = avps.first(kind)
    if data is None:
        raise Unanswerable(Result.MISSING_AVP, build_octets(kind, b""))
    return data
