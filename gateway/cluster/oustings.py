"""Why a node has to leave the fleet by itself, in words for its log and its readiness; must name what to do."""

from __future__ import annotations

from typing import NamedTuple

from gateway.cluster.kv_leases import bucket_of
from gateway.model.errors import ConfigError

#: while the servers say that there is no bucket
BUCKET_MISSING = "the NATS servers do not have the fleet's records"
_AGAIN = (
    "Nothing that this node knew of owners holds any more, so it leaves. Start it again with the same store.path: it"
    " tells of the partitions it has, and `heliograph cluster status` says which go on by themselves and which need"
    " `heliograph cluster recover` (docs/cluster.md, All of NATS with empty disks)"
)


class Ousting(NamedTuple):
    #: while it leaves
    readiness: str
    error: ConfigError


def name_taken(name: str) -> Ousting:
    return Ousting(
        "another node has this one's name",
        ConfigError(
            f"another node {name!r} came into the fleet and has this one's record; each needs a name of its own",
            field="cluster.node",
        ),
    )


def bucket_lost(fleet: str, *, is_gone: bool) -> Ousting:
    """`is_gone`: there is none; else another was made."""
    what = "are gone from the NATS servers" if is_gone else "were made anew on the NATS servers"
    return Ousting(
        f"the fleet's records {what}: this node leaves, and has to be started again",
        ConfigError(
            f"the fleet's records (bucket {bucket_of(fleet)}) {what} while this node ran: the servers came up with"
            f" empty disks or are others, or somebody removed the bucket. {_AGAIN}",
            field="cluster.url",
        ),
    )
