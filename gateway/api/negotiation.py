"""Which protocol a connection speaks: by ALPN, else by its first bytes; must hold no more than HTTP/2's preface.

    ALPN h2          → HTTP/2            ALPN http/1.1 → HTTP/1.1
    no ALPN, or no TLS: `PRI * HTTP/2.0…` (RFC 9113 §3.3, prior knowledge) → HTTP/2, anything else → HTTP/1.1

aioapns is one that says nothing in ALPN and speaks HTTP/2. CONNECT on a plain connection begins TLS on it (tunnel.py),
and within that the same is asked again.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from gateway.api.http2_frames import PREFACE
from gateway.api.http2_protocol import Http2Protocol
from gateway.api.http_protocol import BoundedHttpProtocol, Limits, build_refusal
from gateway.api.tls import Certificates
from gateway.api.tls_peer import describe_tls
from gateway.api.tunnel import ESTABLISHED, OPENING, is_whole, parse_host
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError

#: a connection that was made when the door closed: its first request may be on its way for so long
FIRST_WORDS_S = 0.25


class Negotiator(asyncio.Protocol):
    """Stands for a connection until it is known what it speaks. Made as uvicorn makes its protocols."""

    def __init__(
        self,
        http1: type[BoundedHttpProtocol],
        limits: Limits,
        metrics: Metrics,
        certificates: Certificates | None,
        *,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._http1 = http1
        self._limits = limits
        self._metrics = metrics
        self._certificates = certificates
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._first = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._successor: Any = None  # what it became
        self._is_tls = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._state.connections.add(self)
        self._metrics.set(Metric.API_CONNECTIONS, len(self._state.connections))
        if len(self._state.connections) > self._limits.max_connections:
            self._cut("too_many")
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and self._certificates is not None and self._certificates.is_stale(tls):
            self._cut("stale_session")
            return
        spoken = tls.selected_alpn_protocol() if tls is not None else None
        if spoken is not None:
            self._become(http2=spoken == "h2")
            return
        self._is_tls = tls is not None
        self._deadline = self._loop.call_later(self._limits.headers_s, self._cut, "slow_headers")
        if self._first:
            self._look()

    def data_received(self, data: bytes) -> None:
        self._first += data
        # TLS in a tunnel is up a moment before its transport is here
        if self.transport is not None and not self.transport.is_closing():
            self._look()

    def _look(self) -> None:
        if self._first.startswith(PREFACE):
            self._become(http2=True)
        elif self._first.startswith(OPENING) and not self._is_tls:
            self._open_tunnel()
        elif not (PREFACE.startswith(self._first) or OPENING.startswith(self._first)):
            self._become(http2=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._leave()

    def shutdown(self) -> None:
        """The server drains. Who connected just now has seen an open door: the request behind is answered."""
        self._is_ending = True
        if self._successor is not None:
            self._loop.call_later(FIRST_WORDS_S, self._successor.shutdown)
            return
        self._disarm()
        self._deadline = self._loop.call_later(FIRST_WORDS_S, self.transport.close)

    def _become(self, *, http2: bool) -> None:
        self._leave()
        transport, first = self.transport, self._first
        extensions = describe_tls(transport)
        protocol: Any
        if http2:
            facts = {
                "scheme": "https" if extensions else "http",
                "server": get_local_addr(transport),
                "client": get_remote_addr(transport),
                "extensions": extensions,
            }
            protocol = Http2Protocol(self._config.loaded_app, self._state, self._limits, self._metrics, facts)
        else:
            protocol = self._http1(
                config=self._config, server_state=self._state, app_state=self._app_state, _loop=self._loop
            )
            protocol.extensions = extensions
        self._successor = protocol
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if first:
            protocol.data_received(first)
        if self._is_ending:
            protocol.shutdown()

    def _open_tunnel(self) -> None:
        try:
            if not is_whole(self._first):
                return
            parse_host(self._first, self._certificates)
        except GatewayError as error:
            self._refuse(error)
            return
        self._disarm()
        self.transport.pause_reading()  # what comes next is for TLS
        self.transport.write(ESTABLISHED)
        securing = self._loop.create_task(self._secure())
        self._state.tasks.add(securing)
        securing.add_done_callback(self._state.tasks.discard)

    async def _secure(self) -> None:
        assert self._certificates is not None
        within = Negotiator(
            self._http1,
            self._limits,
            self._metrics,
            self._certificates,
            config=self._config,
            server_state=self._state,
            app_state=self._app_state,
            _loop=self._loop,
        )
        secured = None
        try:
            secured = await self._loop.start_tls(
                self.transport,
                within,
                self._certificates.context,
                server_side=True,
                ssl_handshake_timeout=self._limits.headers_s,
                ssl_shutdown_timeout=self._limits.linger_s,
            )
        except (OSError, ssl.SSLError):  # left, or came too late, or spoke no TLS
            self._metrics.count(Metric.API_CUT, label="handshake")
        finally:
            self._leave()
            if secured is None:
                self.transport.abort()
        if secured is not None and not secured.is_closing():
            within.connection_made(secured)
            if self._is_ending:
                within.shutdown()

    def _refuse(self, error: GatewayError) -> None:
        self._metrics.count(Metric.API_CUT, label="tunnel_refused")
        self._disarm()
        self.transport.write(build_refusal(error))
        self.transport.close()
        self._deadline = self._loop.call_later(self._limits.linger_s, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _leave(self) -> None:
        self._disarm()
        self._state.connections.discard(self)
        self._metrics.set(Metric.API_CONNECTIONS, len(self._state.connections))

    def _cut(self, reason: str) -> None:
        self._metrics.count(Metric.API_CUT, label=reason)
        self.transport.abort()
