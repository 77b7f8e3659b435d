"""Is there such a fleet? For commands, which would wait for records of one that nobody has; must never wait itself, nor
take servers that do not answer for a no.
"""

from __future__ import annotations

from difflib import SequenceMatcher

from gateway.cluster.jetstream import JetStream, JetStreamError, NatsConnection
from gateway.cluster.kv_leases import bucket_of
from gateway.model.errors import ConfigError

_MOST_NAMES = 10
_BUCKET = "KV_"


async def require_fleet(link: NatsConnection, name: str) -> None:
    """ConfigError where NATS keeps no fleet of this name. Where that is not known now it is for who reads the records
    to say."""
    js = JetStream(link)
    try:
        if await js.state(f"{_BUCKET}{bucket_of(name)}") is not None:
            return
        streams = await js.names()
    except JetStreamError:
        return
    suffix = bucket_of("")
    fleets = [each.removeprefix(_BUCKET).removesuffix(suffix) for each in streams if _is_bucket(each, suffix)]
    fleets.sort(key=lambda each: -SequenceMatcher(None, each, name).ratio())  # the one that was meant first
    there = ", ".join(map(repr, fleets[:_MOST_NAMES])) + (" and more" if len(fleets) > _MOST_NAMES else "")
    raise ConfigError(
        f"NATS keeps no fleet {name!r}"
        + (f"; it keeps {there}" if fleets else ", nor any other: see that cluster.url names its servers"),
        field="cluster.name",
    )


def _is_bucket(stream: str, suffix: str) -> bool:
    return stream.startswith(_BUCKET) and stream.endswith(suffix)
