"""What the doors of a node ask of the cores of partitions that live on it; must never ask more of one than this."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from starlette.types import ASGIApp

from gateway.api.once import Once
from gateway.api.ports import Backend
from gateway.delivery.batch_gathering import BatchGathering
from gateway.model.registration import App


class AppRecords(Protocol):
    """Apps of one partition; store.directory.Directory. Exported, their secrets are sealed under keys that all nodes
    share."""

    def app(self, name: str) -> App | None: ...

    def app_names(self) -> list[str]: ...

    def put_app(self, app: App) -> asyncio.Future[App]:
        """Durable when it resolves."""
        ...

    def export_app(self, name: str) -> bytes | None: ...

    def import_app(self, raw: bytes) -> asyncio.Future[App]:
        """Durable when it resolves. ValueError where it is no record."""
        ...


class Core(Protocol):
    """One partition in the process of its owner."""

    @property
    def partition(self) -> int: ...

    @property
    def asgi(self) -> ASGIApp:
        """Its own provider door (gateway.api.server.build_app)."""
        ...

    @property
    def backend(self) -> Backend: ...

    @property
    def once(self) -> Once:
        """The idempotency keys that `asgi` was built with."""
        ...

    @property
    def gathering(self) -> BatchGathering:
        """The way in for parts of batches."""
        ...

    @property
    def apps(self) -> AppRecords: ...

    def receipts_watermark(self, seen: int) -> int:
        """No receipt with a cursor at or below it will ever appear after this call."""
        ...

    def deaths_watermark(self, seen: int) -> int:
        """The same for the feed of dead tokens."""
        ...


#: by partition: those adopted to the end, as they are now
Cores = Mapping[int, Core]
