"""A Diameter peer of our own for tests and trials: relay, HSS and MTC-IWF in one, strict about what it is asked, and
able to misbehave in every way that is known of real ones; must never be reachable from anywhere but this machine.

What breaks RFC 6733 or the 3GPP's specifications is a line in `faults`, which a test expects to be empty.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

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
from gateway.diameter.codes import Application, Command, Experimental, Result
from gateway.diameter.messages import ERROR, PROXIABLE, REQUEST, Frames, Header, Message, build_message, parse_message
from gateway.diameter.peer import build_application, parse_applications
from gateway.diameter.tbcd import build_tbcd, parse_tbcd

HOST, REALM = "hss.example.net", "example.net"
ALL = (Application.SH, Application.S6M, Application.S6C, Application.TSP)
MOST_BYTES = 1 << 20
_GIVEN_BY_SH = {17: "MSISDN", 32: "IMSI"}


@dataclass(slots=True, frozen=True)
class Behaviour:
    """Of one request."""

    #: answer with this Result-Code; 0: as the request deserves
    result: int = 0
    #: answer with this Experimental-Result-Code of 3GPP
    experimental: int = 0
    #: Request-Status in the Device-Notification of a Device-Action-Answer; None: there is none
    status: int | None = None
    #: no answer at all
    hangs: bool = False
    answers: int = 1
    #: close the connection instead of answering
    closes: bool = False
    #: these bytes instead of an answer
    raw: bytes = b""
    #: these AVPs instead of those of the answer, behind its head
    avps: bytes | None = None
    #: User-Data of an answer by Sh
    user_data: bytes | None = None
    #: a delivery report follows, with this Delivery-Outcome
    outcome: int | None = None


@dataclass(slots=True, frozen=True)
class Subscription:
    """What the HSS has of somebody."""

    msisdn: str = ""
    imsi: str = ""

    def __repr__(self) -> str:
        return "Subscription(…)"


@dataclass(slots=True, eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    is_open: bool = False
    hop_by_hop: int = 0
    waiting: dict[int, asyncio.Future[Message]] = field(default_factory=dict)


class LocalDiameter:
    """Listens on loopback from `start` to `close`. `next` holds the behaviour of the next requests, `behaviour` that of
    those behind them."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = HOST, behind_relay: bool = False) -> None:
        self.host = host
        #: who connects is another's relay, of whose own messages less is asked; those it passes on are the gateway's
        self._behind_relay = behind_relay
        self.behaviour = Behaviour()
        self.next: deque[Behaviour] = deque()
        #: by public identity, and by External Identifier
        self.by_impu: dict[str, Subscription] = {}
        self.by_external_id: dict[str, Subscription] = {}
        #: whom S6c finds, by MSISDN and by IMSI
        self.by_number: list[Subscription] = []
        self.gives_both = True  # MSISDN and IMSI in one answer by Sh
        self.applications: Sequence[int] = ALL
        self.capabilities_result: int = Result.SUCCESS
        self.answers_capabilities = True
        self.answers_watchdog = True
        self.answers_goodbye = True
        self.faults: list[str] = []
        #: requests of applications, as they came
        self.requests: list[Message] = []
        self.exchanges = self.watchdogs = self.goodbyes = 0
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: list[_Connection] = []
        self._tasks: set[asyncio.Task[Message]] = set()

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Go down: no listener, no connection."""
        if self._server is not None:
            self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.writer.close()

    @property
    def is_open(self) -> bool:
        return any(connection.is_open for connection in self._connections)

    # --- what a peer says of its own accord

    def send(self, data: bytes) -> None:
        """Any bytes, to who is connected."""
        for connection in self._connections:
            if connection.is_open:
                connection.writer.write(data)

    async def ask(self, command: int, application: int, avps: bytes, flags: int = REQUEST) -> Message:
        """The gateway's answer to a request."""
        connection = next(each for each in self._connections if each.is_open)
        connection.hop_by_hop += 1
        header = Header(flags, command, application, connection.hop_by_hop, 0x5A00_0000 | connection.hop_by_hop)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        connection.waiting[header.hop_by_hop] = future
        connection.writer.write(build_message(header, avps))
        return await future

    async def disconnect(self, cause: int) -> Message:
        return await self.ask(
            Command.DISCONNECT_PEER,
            Application.BASE,
            self._origin() + build_u32(codes.DISCONNECT_CAUSE, cause),
        )

    async def report(self, reference: int, outcome: int) -> Message:
        """A delivery report of a trigger (TS 29.368 §6.6.4)."""
        return await self.ask(
            Command.DEVICE_NOTIFICATION,
            Application.TSP,
            build_text(codes.SESSION_ID, f"{self.host};1;{reference}")
            + build_u32(codes.AUTH_APPLICATION_ID, Application.TSP)
            + build_u32(codes.AUTH_SESSION_STATE, codes.NO_STATE_MAINTAINED)
            + self._origin()
            + build_text(codes.DESTINATION_REALM, REALM)
            + build_octets(codes.PROXY_INFO, build_octets(Kind(280), b"relay") + build_octets(Kind(33), b"\x01\x02"))
            + build_group(
                codes.DEVICE_NOTIFICATION,
                build_u32(codes.REFERENCE_NUMBER, reference),
                build_u32(codes.ACTION_TYPE, 2),
                build_u32(codes.DELIVERY_OUTCOME, outcome),
            ),
            REQUEST | PROXIABLE,
        )

    # --- connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, frames = _Connection(writer), Frames(MOST_BYTES)
        self._connections.append(connection)
        try:
            while data := await reader.read(65_536):
                for frame in frames.feed(data):
                    self._handle(connection, parse_message(frame))
                await writer.drain()
        except Malformed as error:
            self.faults.append(f"frame: {error}")
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self._connections.remove(connection)
            writer.close()

    def _handle(self, connection: _Connection, message: Message) -> None:
        header, avps = message
        if not header.is_request:
            future = connection.waiting.pop(header.hop_by_hop, None)
            if future is None or future.done():
                self._fault(f"answer {header.command} to what was not asked")
            else:
                self._expect(avps, codes.RESULT_CODE, codes.ORIGIN_HOST, codes.ORIGIN_REALM)
                future.set_result(message)
        elif header.command == Command.CAPABILITIES_EXCHANGE:
            self._handle_capabilities(connection, message)
        elif not connection.is_open:
            self._fault("a request before the capabilities are exchanged")
        elif header.command == Command.DEVICE_WATCHDOG:
            self.watchdogs += 1
            self._expect(avps, codes.ORIGIN_HOST, codes.ORIGIN_REALM)
            if self.answers_watchdog:
                self._answer(connection, header, build_u32(codes.RESULT_CODE, Result.SUCCESS) + self._origin())
        elif header.command == Command.DISCONNECT_PEER:
            self.goodbyes += 1
            self._expect(avps, codes.ORIGIN_HOST, codes.ORIGIN_REALM, codes.DISCONNECT_CAUSE)
            if self.answers_goodbye:
                self._answer(connection, header, build_u32(codes.RESULT_CODE, Result.SUCCESS) + self._origin())
        else:
            self._handle_request(connection, message)

    def _handle_capabilities(self, connection: _Connection, message: Message) -> None:
        header, avps = message
        self.exchanges += 1
        if header.application or header.flags != REQUEST:
            self._fault("a CER is of application 0 and not proxiable")
        needed = (codes.ORIGIN_HOST, codes.ORIGIN_REALM, codes.HOST_IP_ADDRESS, codes.VENDOR_ID, codes.PRODUCT_NAME)
        self._expect(avps, *needed)
        if not parse_applications(avps) >= ({Application.RELAY} if self._behind_relay else set(ALL)):
            self._fault("a CER without our applications")
        if not self._behind_relay and codes.TGPP not in [
            parse_u32(data) for data in avps.all(codes.SUPPORTED_VENDOR_ID)
        ]:
            self._fault("a CER that does not support 3GPP's AVPs")
        if not self.answers_capabilities:
            return
        body = [
            build_u32(codes.RESULT_CODE, self.capabilities_result),
            self._origin(),
            build_address(codes.HOST_IP_ADDRESS, "127.0.0.1"),
            build_u32(codes.VENDOR_ID, codes.TGPP),
            build_text(codes.PRODUCT_NAME, "local"),
            *(build_application(application) for application in self.applications),
        ]
        self._answer(connection, header, b"".join(body))
        connection.is_open = self.capabilities_result == Result.SUCCESS
        if not connection.is_open:
            connection.writer.close()

    # --- requests

    def _handle_request(self, connection: _Connection, message: Message) -> None:
        header, avps = message
        self.requests.append(message)
        self._check_head(message)
        behaviour = self.next.popleft() if self.next else self.behaviour
        if behaviour.closes:
            connection.writer.close()
            return
        if behaviour.raw:
            connection.writer.write(behaviour.raw)
        if behaviour.hangs or behaviour.raw:
            return
        head = build_octets(codes.SESSION_ID, avps.first(codes.SESSION_ID) or b"") + self._origin()
        head += build_u32(codes.AUTH_SESSION_STATE, codes.NO_STATE_MAINTAINED)
        flags = header.flags & PROXIABLE
        body = b""
        if behaviour.result:
            body = build_u32(codes.RESULT_CODE, behaviour.result)
            flags |= ERROR if 3000 <= behaviour.result < 4000 else 0
        elif behaviour.experimental:
            body = _build_experimental(behaviour.experimental)
        elif header.command == Command.USER_DATA:
            body = self._build_user_data(avps, behaviour)
        elif header.command == Command.SUBSCRIBER_INFORMATION:
            body = self._build_subscriber(avps)
        elif header.command == Command.SEND_ROUTING_INFO_FOR_SM:
            body = self._build_routing(avps)
        elif header.command == Command.DEVICE_ACTION:
            body = self._build_action(avps, behaviour)
        else:
            self._fault(f"command {header.command} is not known")
        if behaviour.avps is not None:
            body = behaviour.avps
        for _ in range(behaviour.answers):
            self._answer(connection, header._replace(flags=flags), head + body)
        if behaviour.outcome is not None:
            action = avps.group(codes.DEVICE_ACTION) or Avps()
            reporting = self.report(action.u32(codes.REFERENCE_NUMBER) or 0, behaviour.outcome)
            task = asyncio.get_running_loop().create_task(reporting)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _check_head(self, message: Message) -> None:
        header, avps = message
        if not header.flags & PROXIABLE:
            self._fault("a request of an application is proxiable")
        first = next(iter(avps), None)
        if first is None or first.code != codes.SESSION_ID.code:
            self._fault("Session-Id is not the first AVP")
        self._expect(avps, codes.ORIGIN_HOST, codes.ORIGIN_REALM, codes.DESTINATION_REALM, codes.AUTH_SESSION_STATE)
        said = parse_applications(avps)
        if said and said != {header.application}:
            self._fault("the application is another one than the header's")
        for avp in avps:
            if avp.vendor == codes.TGPP and not avp.is_mandatory:
                self._fault(f"AVP {avp.code} has no M bit")

    def _build_user_data(self, avps: Avps, behaviour: Behaviour) -> bytes:
        self._expect(avps, codes.USER_IDENTITY, codes.DATA_REFERENCE, codes.VENDOR_SPECIFIC_APPLICATION_ID)
        who = avps.group(codes.USER_IDENTITY) or Avps()
        references = [parse_u32(data) for data in avps.all(codes.DATA_REFERENCE)]
        if not set(references) <= set(_GIVEN_BY_SH):
            self._fault("a Data-Reference that is not known")
        known = self.by_impu.get(who.text(codes.PUBLIC_IDENTITY) or "")
        number = who.first(codes.MSISDN)
        if number is not None:
            digits = parse_tbcd(number)
            known = next((each for each in self.by_impu.values() if each.msisdn == digits), None)
        if known is None:
            return _build_experimental(Experimental.USER_UNKNOWN)
        if len(references) > 1 and not self.gives_both:
            return _build_experimental(Experimental.OPERATION_NOT_ALLOWED)
        data = behaviour.user_data
        if data is None:
            data = build_user_data(known, [_GIVEN_BY_SH[each] for each in references])
        return build_u32(codes.RESULT_CODE, Result.SUCCESS) + build_octets(codes.USER_DATA, data)

    def _build_subscriber(self, avps: Avps) -> bytes:
        self._expect(avps, codes.USER_IDENTIFIER, codes.SIR_FLAGS)
        who = avps.group(codes.USER_IDENTIFIER) or Avps()
        known = self.by_external_id.get(who.text(codes.EXTERNAL_IDENTIFIER) or "")
        if known is None:
            return _build_experimental(Experimental.USER_UNKNOWN)
        told = [build_text(codes.USER_NAME, known.imsi)] if known.imsi else []
        told += [build_octets(codes.MSISDN, build_tbcd(known.msisdn))] if known.msisdn else []
        return build_u32(codes.RESULT_CODE, Result.SUCCESS) + build_group(codes.USER_IDENTIFIER, *told)

    def _build_routing(self, avps: Avps) -> bytes:
        self._expect(avps, codes.SM_DELIVERY_NOT_INTENDED, codes.VENDOR_SPECIFIC_APPLICATION_ID)
        for data in avps.all(codes.SC_ADDRESS):
            parse_tbcd(data)
        number, imsi = avps.first(codes.MSISDN), avps.text(codes.USER_NAME)
        if (number is None) == (imsi is None):
            self._fault("a request for routing names its subscriber once")
        msisdn = parse_tbcd(number) if number is not None else ""
        for known in self.by_number:
            if msisdn == known.msisdn if msisdn else imsi == known.imsi:
                return build_u32(codes.RESULT_CODE, Result.SUCCESS) + build_text(codes.USER_NAME, known.imsi)
        return _build_experimental(Experimental.USER_UNKNOWN)

    def _build_action(self, avps: Avps, behaviour: Behaviour) -> bytes:
        self._expect(avps, codes.DEVICE_ACTION, codes.AUTH_APPLICATION_ID)
        action = avps.group(codes.DEVICE_ACTION) or Avps()
        self._expect(action, codes.REFERENCE_NUMBER, codes.ACTION_TYPE, codes.TRIGGER_DATA, codes.VALIDITY_TIME)
        if action.u32(codes.ACTION_TYPE) == 4:
            self._expect(action, codes.OLD_REFERENCE_NUMBER)
        elif action.u32(codes.ACTION_TYPE) != 1 or action.all(codes.OLD_REFERENCE_NUMBER):
            self._fault("a Device-Action asks for what it does not say")
        named = [kind for kind in (codes.EXTERNAL_IDENTIFIER, codes.MSISDN) if action.first(kind) is not None]
        if len(named) != 1:
            self._fault("a Device-Action names its device once")
        for data in action.all(codes.MSISDN):
            parse_tbcd(data)
        self._expect(parse_avps(action.first(codes.TRIGGER_DATA) or b""), codes.PAYLOAD)
        told = b""
        if behaviour.status is not None:
            told = build_group(
                codes.DEVICE_NOTIFICATION,
                build_u32(codes.REFERENCE_NUMBER, action.u32(codes.REFERENCE_NUMBER) or 0),
                build_u32(codes.ACTION_TYPE, 1),
                build_u32(codes.REQUEST_STATUS, behaviour.status),
            )
        return build_u32(codes.RESULT_CODE, Result.SUCCESS) + told

    # --- out

    def _origin(self) -> bytes:
        return build_text(codes.ORIGIN_HOST, self.host) + build_text(codes.ORIGIN_REALM, REALM)

    def _answer(self, connection: _Connection, header: Header, avps: bytes) -> None:
        connection.writer.write(build_message(header._replace(flags=header.flags & ~REQUEST), avps))

    def _expect(self, avps: Avps, *kinds: Kind) -> None:
        for kind in kinds:
            if not avps.all(kind):
                self._fault(f"AVP {kind.code} is missing")

    def _fault(self, words: str) -> None:
        self.faults.append(words)


def _build_experimental(code: int) -> bytes:
    return build_group(
        codes.EXPERIMENTAL_RESULT,
        build_u32(codes.VENDOR_ID, codes.TGPP),
        build_u32(codes.EXPERIMENTAL_RESULT_CODE, code),
    )


def build_user_data(known: Subscription, names: Sequence[str]) -> bytes:
    """Sh-Data with these of MSISDN and IMSI (TS 29.328 annex C, D)."""
    values = {"MSISDN": known.msisdn, "IMSI": known.imsi}
    msisdn = f"<MSISDN>{values['MSISDN']}</MSISDN>" if "MSISDN" in names and known.msisdn else ""
    imsi = f"<Extension><IMSI>{values['IMSI']}</IMSI></Extension>" if "IMSI" in names and known.imsi else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Sh-Data><PublicIdentifiers>{msisdn}</PublicIdentifiers>'
        f"{imsi}</Sh-Data>"
    ).encode()
