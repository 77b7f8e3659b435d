"""The gateway as a Diameter node: asks the first peer that can be asked, the next where that one fails, and gives
requests of peers to who handles them (RFC 6733 §5.5, §6.1); must never wait longer than its deadline, nor keep more
requests without an answer than it is allowed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.config.diameter import read_peers, read_tls
from gateway.config.sections import Config
from gateway.diameter import codes
from gateway.diameter.avps import Avps, Malformed, build_text, build_u32
from gateway.diameter.codes import Application, Command, Result
from gateway.diameter.messages import PROXIABLE, REQUEST, RETRANSMITTED, Header, Message
from gateway.diameter.peer import NotSent, Peer, PeerLost, PeerSettings, Unanswerable, build_application
from gateway.metrics import Metric, Metrics

#: answers after which another peer is asked (§7.1.3)
ELSEWHERE = (Result.UNABLE_TO_DELIVER, Result.TOO_BUSY)
_NAMES = {Application.SH: "sh", Application.S6M: "s6m", Application.S6C: "s6c", Application.TSP: "tsp"}
_MOST = 0xFFFFFFFF

#: what an answer of ours holds beside the result; Unanswerable, Malformed
OnMessage = Callable[[Message], bytes]


class NotConnected(OSError):
    """No peer that speaks the application can be asked now."""


class Busy(OSError):
    """As many requests are without an answer as are allowed."""


class Refused(OSError):
    """The network answered that it can not say."""


class ResultOf(NamedTuple):
    """What an answer says became of its request."""

    code: int
    is_experimental: bool = False  # 3GPP's own numbers, which mean something else than the base protocol's

    @property
    def is_success(self) -> bool:
        return 2000 <= self.code < 3000


def parse_result(avps: Avps) -> ResultOf:
    """Result-Code or Experimental-Result (§7). Malformed where there is neither."""
    code = avps.u32(codes.RESULT_CODE)
    if code is not None:
        return ResultOf(code)
    group = avps.group(codes.EXPERIMENTAL_RESULT)
    code = group.u32(codes.EXPERIMENTAL_RESULT_CODE) if group is not None else None
    if code is None:
        raise Malformed("an answer has no result")
    return ResultOf(code, True)


class Node:
    """One for all that speak Diameter. `start` on the loop; `close` ends it."""

    def __init__(
        self,
        peers: Sequence[PeerSettings],
        metrics: Metrics,
        *,
        destination_realm: str,
        answer_s: float = 3.0,
        most_outstanding: int = 256,
    ) -> None:
        first = peers[0]
        self.origin_host, self.origin_realm = first.origin_host, first.origin_realm
        self._destination_realm = destination_realm
        self._answer_s = answer_s
        self._most_outstanding = most_outstanding
        self._metrics = metrics
        self._outstanding = 0
        self._handlers: dict[tuple[int, int], OnMessage] = {}
        self._peers = [Peer(each, metrics, self._handle) for each in peers]
        # §3: 12 bits of the time, so that a restart begins elsewhere, then a random part that rises
        self._end_to_end = (int(time.time()) & 0xFFF) << 20 | random.SystemRandom().randrange(1 << 20)
        # §8.8: the high part of a Session-Id is the time of the start
        self._session_high, self._session_low = int(time.time()), random.SystemRandom().randrange(_MOST)

    def start(self) -> None:
        for peer in self._peers:
            peer.start()

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers))

    @property
    def open_peers(self) -> int:
        return sum(peer.is_open for peer in self._peers)

    def on_request(self, application: int, command: int, handler: OnMessage) -> None:
        """Requests of peers with this command go there."""
        self._handlers[application, command] = handler

    def off_request(self, application: int, command: int) -> None:
        """No more: they are answered with 3001 or 3007."""
        self._handlers.pop((application, command), None)

    async def request(self, application: Application, command: Command, avps: bytes, destination_host: str) -> Avps:
        """AVPs of the answer, whatever its result. TimeoutError after `answer_s` in all; NotConnected, Busy or PeerLost
        (OSError); Malformed (ValueError) where the answer is no Diameter."""
        name = _NAMES.get(application, "other")
        if self._outstanding >= self._most_outstanding:
            self._metrics.count(Metric.DIAMETER_REQUESTS, label=f"{name} busy")
            raise Busy
        self._outstanding += 1
        result = "cancelled"
        try:
            async with asyncio.timeout(self._answer_s):
                answer = await self._ask(application, command, avps, destination_host)
            result = _name_result(parse_result(answer))
            return answer
        except TimeoutError:
            result = "timeout"
            raise
        except Malformed:
            result = "malformed"
            raise
        except OSError as error:
            result = "not_connected" if isinstance(error, NotConnected) else "lost"
            raise
        finally:
            self._outstanding -= 1
            self._metrics.count(Metric.DIAMETER_REQUESTS, label=f"{name} {result}")

    async def _ask(self, application: Application, command: Command, avps: bytes, destination_host: str) -> Avps:
        self._end_to_end = self._end_to_end + 1 & _MOST
        header = Header(REQUEST | PROXIABLE, command, application, 0, self._end_to_end)
        body = self._build_head(application, destination_host) + avps
        answer: Message | None = None
        lost: PeerLost | None = None
        for peer in self._peers:
            if not peer.is_open or not peer.speaks(application):
                continue
            try:
                answer = await peer.ask(header, body)
            except PeerLost as error:
                # §5.5.4: the next one gets it with the same End-to-End Identifier, so that who got it twice can tell
                lost = error
                if not isinstance(error, NotSent):
                    header = header._replace(flags=header.flags | RETRANSMITTED)
                continue
            if parse_result(answer.avps) not in ELSEWHERE_RESULTS:
                return answer.avps
        if answer is not None:
            return answer.avps
        raise lost or NotConnected

    def _build_head(self, application: Application, destination_host: str) -> bytes:
        self._session_low = self._session_low + 1 & _MOST
        session = f"{self.origin_host};{self._session_high};{self._session_low}"
        # TS 29.368 §6.6.2 has the application by itself
        said = (
            build_u32(codes.AUTH_APPLICATION_ID, application)
            if application == Application.TSP
            else build_application(application)
        )
        return b"".join(
            (
                build_text(codes.SESSION_ID, session),
                said,
                build_u32(codes.AUTH_SESSION_STATE, codes.NO_STATE_MAINTAINED),
                build_text(codes.ORIGIN_HOST, self.origin_host),
                build_text(codes.ORIGIN_REALM, self.origin_realm),
                build_text(codes.DESTINATION_HOST, destination_host) if destination_host else b"",
                build_text(codes.DESTINATION_REALM, self._destination_realm),
            )
        )

    def _handle(self, message: Message) -> bytes:
        header = message.header
        handler = self._handlers.get((header.application, header.command))
        if handler is None:
            known = any(application == header.application for application, _ in self._handlers)
            is_ours = known or header.application == Application.BASE
            raise Unanswerable(Result.COMMAND_UNSUPPORTED if is_ours else Result.APPLICATION_UNSUPPORTED)
        return handler(message)


#: of the base protocol alone: 3GPP's 3xxx do not exist
ELSEWHERE_RESULTS = tuple(ResultOf(result) for result in ELSEWHERE)
_KNOWN = frozenset(map(int, Result))
_KNOWN_3GPP = frozenset(map(int, codes.Experimental))


def _name_result(result: ResultOf) -> str:
    """Few words, so that a peer can not fill the metric with its own."""
    if result.is_experimental:
        return f"3gpp_{result.code}" if result.code in _KNOWN_3GPP else "3gpp_other"
    return str(result.code) if result.code in _KNOWN else "other"


def build_node(config: Config, metrics: Metrics) -> Node | None:
    """As section `diameter` says, None where it names no peer. ConfigError; reads disk."""
    section = config.diameter
    if not section.peers:
        return None
    peers = read_peers(section)
    tls = read_tls(section)
    origin_state = int(time.time())  # §8.16: rises with each start
    return Node(
        [
            PeerSettings(
                name=peer.name,
                host=peer.host,
                port=peer.port,
                tls=tls if peer.is_tls else None,
                origin_host=section.origin_host,
                origin_realm=section.origin_realm,
                origin_state=origin_state,
                connect_s=section.connect_s,
                watchdog_s=section.watchdog_s,
                reconnect_s=section.reconnect_s,
                reconnect_max_s=section.reconnect_max_s,
                most_bytes=section.max_message_bytes,
            )
            for peer in peers
        ],
        metrics,
        destination_realm=section.destination_realm or section.origin_realm,
        answer_s=section.answer_s,
        most_outstanding=section.max_outstanding,
    )
