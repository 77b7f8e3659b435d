"""What is asked of the NATS servers before a node enters the fleet; must never let one in that could lose what was
accepted, unless it was told to.
"""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import structlog

from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError

_log = structlog.get_logger(__name__)
_TIMEOUT_S = 5.0
_FIX = "set sync_interval: always in its jetstream section (cluster.allow_unsynced = true starts all the same)"


class _Config(msgspec.Struct):
    sync_always: bool = False


class _Jsz(msgspec.Struct):
    config: _Config = msgspec.field(default_factory=_Config)
    disabled: bool = False


async def check_nats(settings: Cluster) -> None:
    """ConfigError names the server and the fix."""
    monitors = [text.strip() for text in settings.monitors.split(",") if text.strip()]
    if not monitors:
        _object("names no server, so it is not known whether they sync every write", settings)
        return
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        found = await asyncio.gather(*(_ask(client, monitor) for monitor in monitors))
    for monitor, answer in zip(monitors, found, strict=True):
        if isinstance(answer, str):
            _object(f"{monitor} {answer}", settings)
        elif not answer.config.sync_always:
            _object(f"{monitor} does not sync every write: {_FIX}", settings)


async def _ask(client: httpx.AsyncClient, monitor: str) -> _Jsz | str:
    try:
        answer = await client.get(f"{monitor.rstrip('/')}/jsz", params={"config": "true"})
        found = msgspec.json.decode(answer.content, type=_Jsz)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return f"can not be asked: {type(exc).__name__}"
    except msgspec.DecodeError:
        return "answers with something else than /jsz"
    return "has no JetStream" if found.disabled else found


def _object(what: str, settings: Cluster) -> None:
    if not settings.allow_unsynced:
        raise ConfigError(what, field="cluster.monitors")
    _log.warning("nats_may_lose_writes", reason=what)
