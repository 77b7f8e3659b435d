"""The TLS port: takes connections and shakes hands; must never hold more of them than the door may have, nor wait
without a deadline for a hand that is not given.

A server of asyncio's tells of a connection when its handshake is done. This one counts it when it comes, so that peers
who only connect are bounded as at the plain port.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import structlog

from gateway.api.http_protocol import Limits
from gateway.api.negotiation import FIRST_WORDS_S, Negotiator
from gateway.metrics import Metric, Metrics

log = structlog.get_logger("gateway.api")

#: taken in one turn of the loop
_AT_ONCE = 64
#: where descriptors are used up
_PAUSE_S = 1.0


class TlsListener:
    """Loop thread only. `state` is uvicorn's: its connections and tasks."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], Negotiator],
        state: Any,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._sock = sock
        self._context = context
        self._make = make
        self._state = state
        self._limits = limits
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._resumption: asyncio.TimerHandle | None = None
        self._is_closed = False

    def start(self) -> None:
        self._resumption = None
        self._sock.listen(self._limits.backlog)
        self._loop.add_reader(self._sock, self._take)

    def close(self) -> None:
        """Take no more. Who connected just now has seen an open door, and has a moment for its handshake."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._resumption is not None:
            self._resumption.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for handshake in self._handshakes:
            self._loop.call_later(FIRST_WORDS_S, handshake.cancel)

    def _take(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                peer, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                log.warning("accept failed", port="tls", reason=exc.strerror, hint="raise the limit of open files")
                self._loop.remove_reader(self._sock)
                self._resumption = self._loop.call_later(_PAUSE_S, self.start)
                return
            if len(self._state.connections) + len(self._handshakes) >= self._limits.max_connections:
                self._metrics.count(Metric.API_CUT, label="too_many")
                peer.close()
                continue
            peer.setblocking(False)
            handshake = self._loop.create_task(self._shake_hands(peer))
            for tasks in (self._handshakes, self._state.tasks):
                tasks.add(handshake)
                handshake.add_done_callback(tasks.discard)

    async def _shake_hands(self, peer: socket.socket) -> None:
        protocol = self._make()
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                peer,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.headers_s,
                ssl_shutdown_timeout=self._limits.linger_s,
            )
        except (OSError, ssl.SSLError):  # left, or came too late, or spoke no TLS
            self._metrics.count(Metric.API_CUT, label="handshake")
            return
        if self._is_closed:
            protocol.shutdown()
