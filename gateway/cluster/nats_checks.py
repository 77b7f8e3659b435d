"""What a fleet needs of its NATS servers, looked at before anything is kept there; must never start on servers that
answer before they have synced, unless told to.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx
import msgspec
import structlog

from gateway.cluster.jetstream import JetStream, JetStreamError
from gateway.cluster.journal_records import journal_subject
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster import split_list
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError

_log = structlog.get_logger(__name__)

#: how long a monitoring address may be silent at the start
PATIENCE_S = 10.0
_ASK_S = 2.0
_AGAIN_S = 0.5
#: what a message has beside its commit: subject, headers
OVERHEAD_BYTES = 4_096
_FIX = "set sync_interval: always in its jetstream block"


async def check_nats(settings: Cluster, link: NatsLink, *, patience_s: float = PATIENCE_S) -> list[str]:
    """ConfigError where they do not do. Returns monitoring addresses that did not answer: servers that are down, of
    which nothing is known."""
    await _check_payload(settings, link)
    monitors = split_list(settings.monitors)
    if not monitors and not settings.allow_unsynced:
        raise ConfigError(
            "is empty: it is not known whether the NATS servers sync every write", field="cluster.monitors"
        )
    silent: list[str] = []
    sizes: list[int] = []
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=settings.tls_ca) if settings.tls_ca else True
    async with httpx.AsyncClient(timeout=_ASK_S, trust_env=False, verify=verify) as client:
        answers = await asyncio.gather(*(_ask(client, monitor, patience_s) for monitor in monitors))
    for monitor, answer in zip(monitors, answers, strict=True):
        if answer is None:
            silent.append(monitor)
            continue
        sizes.append(_cluster_size(answer))
        _check_one(settings, monitor, answer)
    if monitors and not sizes:
        error = ConfigError(f"none of them answers: {', '.join(monitors)}", field="cluster.monitors")
        error.may_pass = True
        raise error
    if sizes and max(sizes) < settings.replicas:
        raise ConfigError(
            f"{settings.replicas}, and the NATS servers are {max(sizes)}: each copy needs a server of its own",
            field="cluster.replicas",
        )
    if sizes and len(sizes) >= max(sizes):
        await _check_room(settings, link, [answer for answer in answers if answer is not None])
    for monitor in silent:
        _log.warning("nats_server_unknown", monitor=monitor, why="it does not answer: nobody knows whether it syncs")
    if settings.allow_unsynced:
        _log.warning("nats_sync_unchecked", why="cluster.allow_unsynced: what was accepted can be lost")
    return silent


async def _check_payload(settings: Cluster, link: NatsLink) -> None:
    most = link.nats.max_payload
    if most < settings.message_bytes + OVERHEAD_BYTES:
        raise ConfigError(
            f"{settings.message_bytes:_} and {OVERHEAD_BYTES:_} around it is more than the NATS servers take"
            f" (max_payload: {most:_}): lower it, or raise max_payload",
            field="cluster.message_bytes",
        )
    try:
        await link.js.account_info()
    except Exception as exc:
        code = getattr(exc, "err_code", 0)
        if code in (10039, 10076) or type(exc).__name__ in ("NoRespondersError", "ServiceUnavailableError"):
            raise ConfigError(
                "JetStream is off on the NATS servers, or for this account", field="cluster.url"
            ) from None
        _log.warning("nats_account_unknown", error=type(exc).__name__)


async def _ask(client: httpx.AsyncClient, monitor: str, patience_s: float) -> dict[str, Any] | None:
    """What the server says of its JetStream; None: it does not answer."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    has_said = False
    while True:
        try:
            response = await client.get(f"{monitor}/jsz?config=1")
            answer = msgspec.json.decode(response.content)
            if response.status_code == 200 and isinstance(answer, dict):
                return answer
        except (httpx.HTTPError, ValueError):
            pass
        if loop.time() >= end:
            return None
        if not has_said:
            has_said = True
            _log.warning("nats_server_waiting", monitor=monitor, seconds=patience_s)
        await asyncio.sleep(_AGAIN_S)


def _check_one(settings: Cluster, monitor: str, answer: dict[str, Any]) -> None:
    config = answer.get("config")
    if answer.get("disabled") or not isinstance(config, dict):
        raise ConfigError(f"the NATS server at {monitor} has JetStream off", field="cluster.monitors")
    if config.get("sync_always") is not True:
        if not settings.allow_unsynced:
            raise ConfigError(
                f"the NATS server at {monitor} answers before it has synced: {_FIX}"
                " (cluster.allow_unsynced starts all the same)",
                field="cluster.monitors",
            )
        _log.warning("nats_server_unsynced", monitor=monitor, fix=_FIX)


async def _check_room(settings: Cluster, link: NatsLink, answers: list[dict[str, Any]]) -> None:
    """Room for the journals that are not there yet: a partition whose journal can not be made has no owner, and nobody
    would know before its first push."""
    try:
        # asked after the servers were: what another node makes meanwhile makes it look roomier, never fuller
        subject = journal_subject(settings.name, 0).removesuffix("0") + "*"
        there = int((await JetStream(link).api("STREAM.NAMES", {"subject": subject})).get("total", 0))
    except JetStreamError as exc:
        _log.warning("nats_room_unknown", error=type(exc).__name__)
        return
    missing = settings.partitions - there
    most = [answer["config"].get("max_storage", 0) for answer in answers]
    if missing <= 0 or not all(isinstance(size, int) and size > 0 for size in most):
        return
    free = [max(0, size - answer.get("reserved_storage", 0)) for size, answer in zip(most, answers, strict=True)]
    wanted = missing * settings.replicas
    fit = sum(min(size // settings.journal_bytes, missing) for size in free)
    if fit < wanted:
        raise ConfigError(
            f"{missing} journals of {settings.journal_bytes:_} bytes in {settings.replicas} copies do not fit on the"
            f" NATS servers, which have {sum(free):_} left to reserve: raise their max_file_store, or lower this or"
            " cluster.partitions (of a new fleet)",
            field="cluster.journal_bytes",
        )


def _cluster_size(answer: dict[str, Any]) -> int:
    meta = answer.get("meta_cluster")
    size = meta.get("cluster_size") if isinstance(meta, dict) else 1
    return size if isinstance(size, int) else 1
