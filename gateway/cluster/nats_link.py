"""One connection to NATS, kept for ever; must never let its address or credentials into a log or an error.

The client connects again by itself. Where it gives up all the same (the server closed with an error), it is replaced by
a fresh one: `life` rises, and whoever subscribed has to do it again.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from gateway.cluster.nats_transport import Hear, NatsParser, read_natively
from gateway.config.cluster import split_list
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError, NodeUnreachable

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

_log = structlog.get_logger(__name__)

#: how long a start waits for a server
PATIENCE_S = 60.0
#: of one try to connect, the name's resolution included
CONNECT_S = 2.0
#: between tries to connect again
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.05, 2.0
#: pings without an answer before a server counts as dead
_PINGS = 2
_SAY_S = 5.0


def load_client() -> Any:
    """The module of the client; ConfigError where it is not installed."""
    try:
        import nats
        import nats.js
    except ImportError as exc:
        raise ConfigError(
            f"a fleet needs the package {exc.name}: pip install 'heliograph[cluster]'", field="cluster.url"
        ) from None
    return nats


class NatsLink:
    """Belongs to the loop that `connect` ran in."""

    def __init__(self, settings: Cluster, *, purpose: str, node: str = "") -> None:
        self._settings = settings
        self._name = " ".join(filter(None, ("heliograph", node, purpose)))
        self._purpose = purpose
        self._client: Client | None = None
        self._parser: NatsParser | None = None
        self._js: JetStreamContext | None = None
        self._hearers: list[Callable[[bool], None]] = []
        self._is_closing = False
        self._replacing: asyncio.Task[None] | None = None
        self._fails = 0
        #: of the client; rises with each fresh one
        self.life = 0
        #: monotonic time since when it is down; None: it is up
        self.down_since: float | None = None

    @property
    def is_up(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def nats(self) -> Client:
        """NodeUnreachable before the first connection, and while it is replaced."""
        if self._client is None:
            raise NodeUnreachable
        return self._client

    @property
    def js(self) -> JetStreamContext:
        """Ask for it each time: a fresh client has another one."""
        if self._js is None:
            raise NodeUnreachable
        return self._js

    def watch(self, hear: Callable[[bool], None]) -> Callable[[], None]:
        """`hear` gets True after each connection but the first, False after each loss; returns what ends it."""
        self._hearers.append(hear)

        def end() -> None:
            if hear in self._hearers:
                self._hearers.remove(hear)

        return end

    def hear_directly(self, subject: str, hear: Hear) -> None:
        """Payloads of a subject come in the turn in which they are read, and not by the callback of the subscription,
        which is to be made after this; where that can not be had they come by the callback. For this `life`."""
        if self._parser is not None:
            self._parser.directly[subject.encode()] = hear

    async def connect(self, patience_s: float = PATIENCE_S) -> None:
        """ConfigError where no server answers in time, or they refuse the credentials."""
        load_client()
        saying = asyncio.get_running_loop().create_task(self._say_waiting())
        try:
            async with asyncio.timeout(patience_s):
                await self._connect()
        except TimeoutError:
            error = ConfigError(
                f"no NATS server could be connected to in {patience_s:g} s; see that they run and take this address,"
                " credentials and certificate",
                field="cluster.url",
            )
            error.may_pass = True
            raise error from None
        finally:
            saying.cancel()

    async def close(self) -> None:
        self._is_closing = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        if self._client is not None:
            with suppress(Exception):
                await self._client.close()

    async def move(self) -> None:
        """To another server: this one is connected and does not do what it should."""
        if self._client is not None and self._client.is_connected:
            await self._client.force_reconnect()

    async def _connect(self) -> None:
        from nats.aio.client import Client

        settings = self._settings
        client = Client()

        async def on_lost() -> None:
            if client is self._client:
                self._tell(up=False)

        async def on_back() -> None:
            if client is self._client:
                self._fails = 0
                self._tell(up=True)

        async def on_closed() -> None:
            if client is self._client and not self._is_closing:
                self._replace()

        options: dict[str, Any] = {}
        if settings.credentials_file:
            options["user_credentials"] = settings.credentials_file
        if settings.tls_ca or any(url.startswith("tls:") for url in split_list(settings.url)):
            options["tls"] = self._tls()
        parser = read_natively(client, needs_tls="tls" in options)
        try:
            await client.connect(
                split_list(settings.url),
                name=self._name,
                error_cb=self._on_error,
                disconnected_cb=on_lost,
                reconnected_cb=on_back,
                closed_cb=on_closed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=BACKOFF_MAX_S / 4,  # type: ignore[arg-type]
                reconnect_to_server_handler=self._choose_server,
                connect_timeout=CONNECT_S,  # type: ignore[arg-type]
                ping_interval=max(settings.lease_s / 4, 0.25),  # type: ignore[arg-type]
                max_outstanding_pings=_PINGS,
                # what can not be sent now is an error at once, and certainly not sent
                pending_size=-1,
                **options,
            )
        except asyncio.CancelledError:
            with suppress(Exception):
                await client.close()
            raise
        except ImportError as exc:  # what reads credentials is loaded when there are some
            raise ConfigError(
                f"needs the package {exc.name}: pip install 'heliograph[cluster]'", field="cluster.credentials_file"
            ) from None
        except (OSError, ValueError) as exc:
            raise ConfigError(f"can not be used: {type(exc).__name__}", field="cluster.credentials_file") from None
        self._client, self._parser = client, parser
        self._js = client.jetstream()
        self.life += 1
        self.down_since = None
        self._fails = 0

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.tls_ca or None)
        except (OSError, ssl.SSLError) as exc:
            why = exc.strerror or type(exc).__name__
            raise ConfigError(f"can not be read as certificates: {why}", field="cluster.tls_ca") from None

    def _choose_server(self, servers: list[Any], _info: dict[str, Any]) -> tuple[Any, float]:
        """The one that failed least, after a time that grows with each try."""
        pause = 0.0 if not self._fails else min(BACKOFF_MIN_S * 2.0 ** min(self._fails, 16), BACKOFF_MAX_S)
        self._fails += 1
        least = min(server.reconnects for server in servers)
        choice = random.choice([server for server in servers if server.reconnects == least])  # noqa: S311
        return choice, pause * random.uniform(0.5, 1.0)  # noqa: S311

    async def _on_error(self, error: Exception) -> None:
        # its words may have the address
        _log.debug("nats_error", purpose=self._purpose, error=type(error).__name__)

    async def _say_waiting(self) -> None:
        while True:
            await asyncio.sleep(_SAY_S)
            _log.warning("nats_waiting", purpose=self._purpose, servers=len(split_list(self._settings.url)))

    def _tell(self, *, up: bool) -> None:
        if up == (self.down_since is None):
            return
        self.down_since = None if up else asyncio.get_running_loop().time()
        if not self._is_closing:
            (_log.info if up else _log.warning)("nats_up" if up else "nats_down", purpose=self._purpose)
            for hear in list(self._hearers):
                hear(up)

    def _replace(self) -> None:
        self._tell(up=False)
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.get_running_loop().create_task(self._connect_again())

    async def _connect_again(self) -> None:
        pause = BACKOFF_MIN_S
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, BACKOFF_MAX_S)
            try:
                down_since = self.down_since
                await self._connect()
            except Exception as exc:
                _log.warning("nats_refused", purpose=self._purpose, error=type(exc).__name__)
            else:
                self.down_since = down_since
                self._tell(up=True)
                return
