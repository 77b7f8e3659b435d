"""One connection to a SIP server's evapi, kept up for good; must never let a server's trouble reach anything else, nor
log what a message held.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from gateway.config.ims import SipServer
from gateway.config.operator_sections import Ims
from gateway.metrics import Metric, Metrics
from gateway.paging.ims.messages import BadMessage, Hello, Ping, Pong, Said, Told, build, parse_told
from gateway.paging.ims.netstrings import BadFrame, Netstrings, build_netstring

READ_BYTES = 65_536
#: a connection that was up so long starts again with the shortest pause
STEADY_S = 10.0
#: bytes a server does not take; past it the connection ends, and it is asked anew what it holds
MOST_UNSENT_BYTES = 1 << 20

_log = structlog.get_logger(__name__)


class CscfLink:
    """Keeps itself connected from `start` to `close`. On the loop."""

    def __init__(
        self, server: SipServer, settings: Ims, metrics: Metrics, on_message: Callable[[CscfLink, Told], None]
    ) -> None:
        self.name = server.name
        self.is_up = False
        self._server = server
        self._settings = settings
        self._metrics = metrics
        self._on_message = on_message
        self._writer: asyncio.StreamWriter | None = None
        self._up_at_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="cscf-link")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, message: Said) -> None:
        """Lost where the link is down: the server asks again, or its hold ends."""
        writer = self._writer
        if writer is None:
            return
        if writer.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ims unsent")
            writer.transport.abort()
            return
        writer.write(build_netstring(build(message)))

    async def _keep(self) -> None:
        pause_s = self._settings.reconnect_s
        loop = asyncio.get_running_loop()
        while True:
            self._up_at_s = 0.0
            try:
                await self._session()
                reason = "closed"
            except TimeoutError:
                reason = "timeout"
            except BadFrame:
                reason = "malformed"
            except OSError:
                reason = "connection"
            except Exception as error:
                # ours; its text may hold what a message held
                reason = "internal"
                _log.warning("cscf_session_failed", server=self.name, error=type(error).__name__)
            self._metrics.count(Metric.IMS_LINKS_ENDED, label=reason)
            if self._up_at_s and loop.time() - self._up_at_s >= STEADY_S:
                pause_s = self._settings.reconnect_s
            wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads gateways, hides nothing
            _log.warning("cscf_down", server=self.name, reason=reason, again_in_s=round(wait_s, 1))
            pause_s = min(pause_s * 2, self._settings.reconnect_max_s)
            await asyncio.sleep(wait_s)

    async def _session(self) -> None:
        async with asyncio.timeout(self._settings.answer_s):
            reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
        self._writer = writer
        try:
            self.send(Hello())
            self.send(Ping())  # up is who answers, not who accepts
            await self._serve(reader)
        finally:
            if self.is_up:
                self.is_up = False
                self._metrics.set(Metric.IMS_LINKS, 0, label=self.name)
            self._writer = None
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        frames = Netstrings(self._settings.message_bytes)
        asked = True
        while True:
            try:
                async with asyncio.timeout(self._settings.answer_s if asked else self._settings.ping_s):
                    data = await reader.read(READ_BYTES)
            except TimeoutError:
                if asked:
                    raise
                asked = True
                self.send(Ping())
                continue
            if not data:
                return
            for frame in frames.feed(data):
                try:
                    message = parse_told(frame)
                except BadMessage:
                    # the frame was whole, so what is behind it can be read
                    self._metrics.count(Metric.IMS_EVENTS, label="malformed")
                    continue
                asked = False
                self._mark_up()
                if not isinstance(message, Pong):
                    self._on_message(self, message)

    def _mark_up(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._up_at_s = asyncio.get_running_loop().time()
            self._metrics.set(Metric.IMS_LINKS, 1, label=self.name)
            _log.info("cscf_up", server=self.name)
