"""What the simulator knows: each number with its unit and where it is from; must hold no number without a source.

`measured` ones cite a page of docs/ and the words there, `setting` ones the default of a setting, `derived` ones say
from which others they follow, and `assumed` ones say why this much: these are the first to replace with one's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

MEASURED, SETTING, DERIVED, ASSUMED = "measured", "setting", "derived", "assumed"
SCALE, BENCHMARKS = "docs/scale.md", "docs/benchmarks.md"


class Source(NamedTuple):
    """Where a number is from. `place`: a page, a setting, or the parameters it follows from; `words`: what stands
    there, or why."""

    kind: str
    unit: str
    place: str
    words: str


def _measured(value: float, unit: str, page: str, words: str) -> Any:
    return field(default=value, metadata={"source": Source(MEASURED, unit, page, words)})


def _setting(value: float, unit: str, name: str) -> Any:
    return field(default=value, metadata={"source": Source(SETTING, unit, name, "its default")})


def _derived(value: float, unit: str, names: str, how: str) -> Any:
    return field(default=value, metadata={"source": Source(DERIVED, unit, names, how)})


def _assumed(value: float, unit: str, why: str) -> Any:
    return field(default=value, metadata={"source": Source(ASSUMED, unit, "", why)})


@dataclass(frozen=True, slots=True)
class Parameters:
    """The table. Seconds, bytes and rates as their names and units say; `changed` gives a copy with others."""

    # --- the fleet -------------------------------------------------------------------------------------------
    devices: float = _assumed(1e9, "devices", "what the fleet is drawn up for")
    nodes: float = _assumed(120, "nodes", "a hundred of ten million devices each, and a fifth to spare")
    lost_nodes: float = _assumed(25, "nodes", "a region, about a fifth of the fleet")
    devices_a_node: float = _assumed(10e6, "devices", "43 GB of memory, so that a machine of 64 GB holds them")
    spare: float = _assumed(0.2, "of the nodes", "as many may be lost and the others still hold all devices")
    cores: float = _assumed(16, "cores", "a usual server; one of them is the control thread's")
    reactors: float = _assumed(12, "threads", "cores less the control thread's and some for NATS client and kernel")
    partitions: float = _assumed(
        1_024, "partitions", "the most that cluster.partitions takes; small ones adopt quickly"
    )
    utilisation: float = _assumed(0.5, "of what was measured", "no more is planned for, so that bursts fit")
    # --- a device --------------------------------------------------------------------------------------------
    kernel_bytes: float = _derived(
        4_184, "bytes", "docs/scale.md: kernel, slabs, both ends 8,368", "half of it: one end"
    )
    user_bytes: float = _measured(249, "bytes", SCALE, "| **249** |")
    far_bytes: float = _measured(53.2, "bytes, both ends", BENCHMARKS, "**40.5 and 12.7 bytes**")
    heartbeat_s: float = _setting(240, "s", "edge.heartbeat_max_s")
    heartbeat_cpu_us: float = _measured(15.6, "µs", SCALE, "P12: 15.6 µs each")
    heartbeat_packets: float = _assumed(3, "packets", "PING, PONG, and an ACK of TCP that does not ride along")
    online: float = _assumed(1.0, "of the devices", "the worst case: all are connected")
    # --- logins ----------------------------------------------------------------------------------------------
    logins_per_s: float = _measured(27_000, "1/s", SCALE, "returning logins 27,000/s on two shared cores")
    login_timeout_s: float = _setting(10, "s", "edge.login_timeout_s")
    hello_part: float = _assumed(0.5, "of a login", "HELLO alone, for a link that is gone; REGISTER does not follow")
    mailbox_bytes: float = _setting(4_194_304, "bytes a reactor", "edge.mailbox_bytes")
    hello_bytes: float = _assumed(160, "bytes", "a HELLO with id and secret, as a record of the mailbox")
    syn_again_s: float = _assumed(1, "s", "the kernel's first repetition of a SYN; the second comes after three")
    backoff_s: float = _measured(1, "s", "docs/frames.md", "wait 1 s, then 1.8 times as long each time up to")
    backoff_spread: float = _measured(0.3, "±", "docs/frames.md", "a random number between 0.7 and 1.3")
    refused_after_s: float = _measured(5, "s", "docs/errors.md", "| 22 | `overloaded` | 503 | after 5 s |")
    # --- pushes ----------------------------------------------------------------------------------------------
    pushes_a_day: float = _assumed(20, "a device", "directed ones; a messenger has more, a meter fewer")
    peak: float = _assumed(3, "times the mean", "the busiest minutes of a day")
    pushes_per_s: float = _measured(140_000, "1/s", SCALE, "140,000/s on two cores with devices and provider")
    commit_ms: float = _setting(2.0, "ms", "store.commit_ms")
    row_bytes: float = _assumed(300, "bytes", "a journal row of a small push with its body, and what settles it later")
    # --- broadcasts ------------------------------------------------------------------------------------------
    fanout_per_s: float = _measured(100_000, "1/s a reactor", SCALE, "10 M sends at 100,000 to 130,000/s a reactor")
    fanout_acked_us: float = _measured(
        11.2, "µs", BENCHMARKS, "an acked broadcast delivery takes 11.2, 11.4 and 11.9 µs"
    )
    ack_us: float = _derived(
        2.5,
        "µs",
        "fanout_acked_us less 1/115,000 s, the middle of 100,000 to 130,000/s",
        "what the control thread has of it",
    )
    broadcast_bytes: float = _assumed(130, "bytes", "a body of 100 bytes in its frame, TCP and IP headers shared")
    cursor_page: float = _measured(
        64, "registrations", "gateway/store/broadcasts.py", "costs one cursor, 64 of them to a row"
    )
    cursor_bytes: float = _assumed(8.5, "bytes", "8 a cursor, and the page's key and length over 64")
    cursor_writes: float = _assumed(2, "times", "a page is written again where its acks came in several commits")
    # --- NATS, three servers that sync every write -----------------------------------------------------------
    nats_singly_per_s: float = _measured(21_000, "messages/s", SCALE, "21,000 messages a second of one notification")
    nats_hundreds_per_s: float = _measured(
        712_000, "rows/s", SCALE, "712,000 notifications a second, a hundred a message"
    )
    nats_kv_per_s: float = _measured(24_000, "puts/s", SCALE, "24,000 puts a second into a key-value bucket")
    publish_ms: float = _measured(1.6, "ms", SCALE, "10 kB one after the other: p50 1.6 ms, p99 4.9 ms")
    publish_p99_ms: float = _measured(4.9, "ms", SCALE, "10 kB one after the other: p50 1.6 ms, p99 4.9 ms")
    message_us: float = _measured(6.3, "µs", SCALE, "6.3 µs of the clients at both ends")
    message_servers_us: float = _measured(2.05, "µs", SCALE, "2.05 µs of two servers")
    election_least_s: float = _measured(4.0, "s", SCALE, "each follower draws 4 to 9 s")
    election_most_s: float = _measured(9.0, "s", SCALE, "each follower draws 4 to 9 s")
    servers: float = _assumed(3, "NATS servers", "the smallest JetStream cluster that survives one")
    stream_bytes: float = _measured(414_000, "bytes of three servers", SCALE, "414 kB of three servers together")
    stream_cpu: float = _measured(0.0004, "cores of three servers", SCALE, "0.4 thousandths of a core")
    # --- between nodes ---------------------------------------------------------------------------------------
    lease_s: float = _setting(3.0, "s", "cluster.lease_s")
    beat_s: float = _setting(0.75, "s", "cluster.beat_s")
    stall_s: float = _setting(1.0, "s", "cluster.stall_s")
    drain_s: float = _setting(10.0, "s", "edge.drain_s")
    handovers: float = _setting(2, "at once", "cluster.handovers")
    turn_s: float = _assumed(0.002, "s", "a busy loop's turn: what is for one node in it is one message")
    item_us: float = _assumed(3, "µs", "packing and reading one command or event of such a message, both ends")
    attach_us: float = _assumed(
        5, "µs", "an owner takes one registration of a device elsewhere as connected, in batches"
    )
    recover_us: float = _derived(
        0.78, "µs a row", "docs/scale.md: 8.6 s for 10 M registrations and 1 M pending", "8.6 s over 11 M rows"
    )
    pending: float = _assumed(0.1, "of the registrations", "pushes that wait, as in P10")
    restart_s: float = _assumed(15, "s", "a process ends and starts, opens folders, joins; image and host stay")

    def __iter__(self) -> Iterator[tuple[str, float, Source]]:
        for one in fields(self):
            yield one.name, getattr(self, one.name), one.metadata["source"]

    def changed(self, **others: float) -> Parameters:
        """ValueError for a name that is not there, or a number below 0 or not finite."""
        check(others)
        return replace(self, **others)


NAMES = tuple(one.name for one in fields(Parameters))
#: a division by these, or a fleet without any, would mean nothing
_MAY_BE_ZERO = {
    "far_bytes",
    "spare",
    "pending",
    "pushes_a_day",
    "backoff_spread",
    "stream_bytes",
    "stream_cpu",
    "restart_s",
}


def check(others: Mapping[str, float]) -> None:
    unknown = sorted(set(others) - set(NAMES))
    if unknown:
        raise ValueError(f"there is no parameter {unknown[0]!r}; see --parameters")
    for name, number in others.items():
        if not 0 <= number < float("inf") or (number == 0 and name not in _MAY_BE_ZERO):
            raise ValueError(f"{name} can not be {number:g}")


def parse_setting(text: str) -> tuple[str, float]:
    """`logins_per_s=40_000` as a name and a number; ValueError otherwise."""
    name, equals, number = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=NUMBER")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"{name}: {number!r} is not a number") from None
    check({name: value})
    return name, value
