"""Certificates of the TLS port while the gateway runs: made into a context, watched, changed under live links.

What can not be used at a reload leaves what there is: the old certificate goes on beside others that are renewed, the
log says why, a counter counts it. Files are read and contexts built on another thread; the loop only hands them over.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable

import structlog

from gateway._native.tls_context import TlsContext
from gateway.config.certificates import TlsFiles, read_tls_files, reread_tls_files, tls_paths
from gateway.config.sections import Edge
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError

_log = structlog.get_logger(__name__)

#: from here on the log warns of the end
WARN_S = 14 * 86_400
#: how often it says so
WARN_EVERY_S = 86_400
#: contexts are made again after this, and with them the keys of tickets: who learns one reads no older ones
ROTATE_S = 86_400

Stamp = tuple[tuple[str, int, int, int], ...]


def build_context(edge: Edge, files: TlsFiles) -> TlsContext:
    """ConfigError where OpenSSL does not take what the files hold."""
    try:
        return TlsContext(
            files.server.chain,
            files.server.key,
            names=[(host, pair.chain, pair.key) for host, pair in files.names.items()],
            client_ca=files.client_ca,
            client_auth=edge.tls_client_auth,
            min_version=edge.tls_min_version,
        )
    except ValueError as exc:
        raise ConfigError(str(exc), field="edge.tls_cert") from exc


class Certificates:
    """`start` gives the first context; `use` hands every later one to the reactors."""

    def __init__(
        self,
        config: Edge,
        metrics: Metrics,
        use: Callable[[TlsContext], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._use = use
        self._clock = clock
        self._stamp: Stamp = ()
        self._made_at = 0.0
        self._warned_at = 0.0
        self._files: TlsFiles | None = None  # what the context was made of
        self._ends: dict[str, float] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._remove_source: Callable[[], None] = lambda: None

    @property
    def is_on(self) -> bool:
        return self._config.tls_port >= 0

    def start(self) -> TlsContext | None:
        """None where there is no TLS port; ConfigError where it can not be served. Before the reactors start."""
        if not self.is_on:
            return None
        self._stamp = self._look()
        context = self._make(read_tls_files(self._config, self._clock))
        self._remove_source = self._metrics.add_source(self._figures)
        self._warn()
        return context

    def watch(self) -> None:
        if self.is_on:
            self._watcher = asyncio.get_running_loop().create_task(self._keep_watch(), name="certificates")

    async def close(self) -> None:
        self._remove_source()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None

    def reload(self) -> None:
        """Read the files now, changed or not (SIGHUP); what becomes of it is in log and metrics."""
        if self.is_on:
            self._asked.set()
        else:
            _log.info("nothing_to_reload", hint="edge.tls_port = -1: there are no certificates")

    def _look(self) -> Stamp:
        """What tells one state of the files from another. Certificate tools replace files, so the inode counts too."""
        found = []
        for path in tls_paths(self._config):
            try:
                about = os.stat(path)
                found.append((path, about.st_mtime_ns, about.st_size, about.st_ino))
            except OSError:
                found.append((path, 0, 0, 0))  # away for a moment, while it is replaced
        return tuple(found)

    def _make(self, files: TlsFiles) -> TlsContext:
        context = build_context(self._config, files)
        self._files = files
        self._ends = files.ends()
        self._made_at = self._clock()
        return context

    async def _keep_watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._config.tls_reload_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self._check(asked)
            except Exception:
                _log.exception("certificates_watch_failed")  # and look again the next time

    async def _check(self, asked: bool) -> None:
        stamp = await asyncio.to_thread(self._look)
        changed = stamp != self._stamp
        if asked or changed:
            self._stamp = stamp
            await self._reload()
        elif self._clock() - self._made_at >= ROTATE_S:
            assert self._files is not None
            self._use(await asyncio.to_thread(self._make, self._files))
            self._metrics.count(Metric.TLS_RELOADS, label="ok")
        self._warn()

    async def _reload(self) -> None:
        assert self._files is not None
        try:
            files, refused = await asyncio.to_thread(reread_tls_files, self._config, self._clock, self._files)
            for name, exc in refused:
                self._say_refused(name, exc)
            context = await asyncio.to_thread(self._make, files)
        except ConfigError as exc:  # a kind of key that OpenSSL does not serve
            self._say_refused("all", exc)
            return
        self._use(context)
        if not refused:
            self._metrics.count(Metric.TLS_RELOADS, label="ok")
        _log.info("certificates_reloaded", days_left=self._days_left())
        self._warned_at = 0.0

    def _say_refused(self, name: str, exc: ConfigError) -> None:
        self._metrics.count(Metric.TLS_RELOADS, label="failed")
        _log.error(
            "certificate_reload_failed",
            certificate=name,
            field=exc.field,
            problem=exc.message,
            hint="the certificate from before stays in use",
        )

    def _days_left(self) -> int:
        return int((min(self._ends.values()) - self._clock()) // 86_400)

    def _warn(self) -> None:
        now = self._clock()
        if now - self._warned_at < WARN_EVERY_S:
            return
        for name, end in self._ends.items():
            if end <= now:
                _log.error("certificate_expired", certificate=name, hint="devices refuse it: renew it, then SIGHUP")
                self._warned_at = now
            elif end - now < WARN_S:
                _log.warning("certificate_expires_soon", certificate=name, days_left=int((end - now) // 86_400))
                self._warned_at = now

    def _figures(self) -> Iterable[tuple[Metric, str, float]]:
        now = self._clock()
        for name, end in self._ends.items():
            yield Metric.TLS_CERTIFICATE_SECONDS, name, end - now
