"""The accounting listener: hears from the operator's gateways who is on line (C11, C15); must never answer what is not
stored, nor answer or log anything of who does not know the secret.

RFC 2866 §2: UDP, a shared secret for each client; what is not right is dropped in silence, and counted. A request that
is sent again gets the same answer again (RFC 5080 §2.2.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from gateway.config.operator_sections import Radius
from gateway.config.radius import Client
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError
from gateway.paging.ip.accounting import (
    MOST_BYTES,
    Accounting,
    Malformed,
    build_response,
    check_authenticator,
    check_message_authenticator,
    parse_request,
)
from gateway.paging.ip.sessions import Sessions

#: datagrams read before others on the loop have their turn
BATCH = 64
#: asked of the kernel, which keeps what comes in bursts
RECEIVE_BYTES = 4 << 20
#: source addresses whose client was looked up
MOST_SOURCES = 4_096

#: (host, port, identifier, authenticator)
_Seen = tuple[str, int, int, bytes]


class AccountingListener:
    """On the loop. `clock`: Unix ms."""

    def __init__(
        self,
        radius: Radius,
        clients: Sequence[Client],
        sessions: Sessions,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._radius = radius
        self._clients = clients
        self._sessions = sessions
        self._metrics = metrics
        #: each request that puts somebody on line, once it is stored
        self.on_told: Callable[[Accounting], None] = lambda _told: None
        self._clock = clock
        self._socket: socket.socket | None = None
        self._sources: OrderedDict[str, tuple[int, Client] | None] = OrderedDict()
        #: oldest first: (until, answer)
        self._answered: OrderedDict[_Seen, tuple[int, bytes]] = OrderedDict()
        self.port = 0

    def start(self) -> None:
        """ConfigError where the address can not be bound."""
        if self._socket is not None:
            return
        radius = self._radius
        family = socket.AF_INET6 if ip_address(radius.host).version == 6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        try:
            opened.bind((radius.host, radius.port))
        except OSError as exc:
            opened.close()
            raise ConfigError(
                f"can not bind UDP {radius.host}:{radius.port}: {exc.strerror or exc}", field="radius.port"
            ) from exc
        self.port = opened.getsockname()[1]
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened, self._read)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                packet, source = self._socket.recvfrom(MOST_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error of an earlier answer
                continue
            result, answer = self.handle(packet, source[0], source[1])
            self._metrics.count(Metric.RADIUS_REQUESTS, label=result)
            if answer:
                try:
                    self._socket.sendto(answer, source)
                except OSError:  # it asks again, and is answered then
                    self._metrics.count(Metric.RADIUS_REQUESTS, label="unanswered")

    def handle(self, packet: bytes, host: str, port: int) -> tuple[str, bytes]:
        """(what came of it, the answer; empty: none). Raises nothing."""
        found = self._client(host)
        if found is None:
            return "stranger", b""
        place, client = found
        try:
            packet, told = parse_request(packet)
            if not check_authenticator(packet, client.secret):
                return "bad_authenticator", b""
            if told.has_message_authenticator:
                if not check_message_authenticator(packet, client.secret):
                    return "bad_message_authenticator", b""
            elif self._radius.require_message_authenticator:
                return "no_message_authenticator", b""
        except Malformed:
            return "malformed", b""
        now_ms = self._clock()
        seen = (host, port, told.identifier, told.authenticator)
        known = self._answered.get(seen)
        if known is not None and now_ms < known[0]:
            return "repeated", known[1]
        # of this client, for another must not be able to end its sessions; without a name it is its address
        result = self._sessions.apply(told, bytes((place,)) + (told.nas or host.encode()))
        answer = build_response(told, client.secret)
        self._remember(seen, now_ms, answer)
        if result in ("on_line", "interim"):
            self.on_told(told)
        return result, answer

    def _client(self, host: str) -> tuple[int, Client] | None:
        """The narrowest network counts (they are sorted so)."""
        if host in self._sources:
            return self._sources[host]
        address = ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        found = next(
            (
                (place, client)
                for place, client in enumerate(self._clients)
                if client.network.version == address.version and address in client.network
            ),
            None,
        )
        if len(self._sources) >= MOST_SOURCES:
            self._sources.popitem(last=False)
        self._sources[host] = found
        return found

    def _remember(self, seen: _Seen, now_ms: int, answer: bytes) -> None:
        answered = self._answered
        answered.pop(seen, None)
        while answered:
            oldest, (until_ms, _) = next(iter(answered.items()))
            if len(answered) < self._radius.retransmissions and now_ms < until_ms:
                break
            if now_ms < until_ms:
                self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ip retransmissions")
            del answered[oldest]
        answered[seen] = (now_ms + int(self._radius.retransmission_s * 1000), answer)
