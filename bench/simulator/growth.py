"""From a million devices to a billion: how many nodes, partitions and NATS clusters it takes, and what is nearest to
its bound at each size. Everything is at its mean in the busiest minutes; must not look at how bounds are reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.curves import Chart, Line
from bench.simulator.parameters import Parameters
from bench.simulator.result import Result

SIZES = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
LEAST_NODES, LEAST_PARTITIONS, MOST_PARTITIONS = 3, 16, 1_024
#: so many registrations of a partition are read back in less than a second
PARTITION_ROWS = 1e6
MACHINE_BYTES = 64e9
SECONDS_A_DAY = 86_400
#: waits before a commit to compare the default with, ms
SLOWER_COMMITS = (20.0, 50.0)


@dataclass(frozen=True, slots=True)
class Size:
    """A fleet of so many devices. Rates are of the whole fleet where no node is named; shares are of what one node, one
    control thread or one NATS cluster takes."""

    devices: float
    nodes: int
    partitions: int
    node_devices: float
    node_bytes: float
    heartbeat_cores: float
    node_packets_per_s: float
    pushes_per_s: float
    commits_per_s: float
    nats_bytes_per_s: float
    nats_share: float
    nats_clusters: int
    bus_messages_per_s: float
    control_share: float
    membership_share: float
    memory_share: float
    idle_streams_cores: float

    def shares(self, p: Parameters) -> dict[str, float]:
        """1: all of it."""
        return {
            "memory": self.memory_share,
            "heartbeats": self.heartbeat_cores / p.reactors,
            "control thread": self.control_share,
            "one NATS cluster": self.nats_share,
            "membership": self.membership_share,
        }


def nodes_for(p: Parameters, devices: float) -> int:
    return max(LEAST_NODES, math.ceil(devices * (1 + p.spare) / p.devices_a_node - 1e-9))


def partitions_for(p: Parameters, devices: float) -> int:
    """A power of two."""
    wanted = max(LEAST_PARTITIONS, devices / PARTITION_ROWS)
    return min(MOST_PARTITIONS, int(p.partitions), 1 << math.ceil(math.log2(wanted) - 1e-9))


def nats_costs(p: Parameters) -> tuple[float, float]:
    """Seconds of a cluster for a message, and for a row in it: the line through the two measured points."""
    single, hundred = 1 / p.nats_singly_per_s, 100 / p.nats_hundreds_per_s
    row = max(0.0, (hundred - single) / 99)
    return single - row, row


def commits(rows_per_s: float, period_s: float) -> float:
    """Of one partition: a commit takes what came in a period, and there is none while nothing comes."""
    return rows_per_s / (1 + rows_per_s * period_s)


def size(p: Parameters, devices: float, commit_ms: float | None = None) -> Size:
    nodes, partitions = nodes_for(p, devices), partitions_for(p, devices)
    each = devices * p.online / nodes
    pushes = devices * p.pushes_a_day * p.peak / SECONDS_A_DAY
    # accepted is one row, settled another
    rows = 2 * pushes
    period = ((p.commit_ms if commit_ms is None else commit_ms) + p.publish_ms) / 1e3
    messages = partitions * commits(rows / partitions, period)
    a_message, a_row = nats_costs(p)
    nats = messages * a_message + rows * a_row
    # a push to a device elsewhere is a command there and an event back
    items = 2 * pushes * (1 - 1 / nodes)
    pairs = nodes * (nodes - 1)
    batches = pairs * commits(items / pairs, p.turn_s)
    bus = (batches * p.message_us + items * p.item_us) / 1e6 / nodes
    beats = nodes / p.beat_s
    memory = each * (p.kernel_bytes + p.user_bytes + p.far_bytes * (1 - 1 / nodes))
    return Size(
        devices=devices,
        nodes=nodes,
        partitions=partitions,
        node_devices=each,
        node_bytes=memory,
        heartbeat_cores=each / p.heartbeat_s * p.heartbeat_cpu_us / 1e6,
        node_packets_per_s=each / p.heartbeat_s * p.heartbeat_packets + pushes / nodes * 4,
        pushes_per_s=pushes,
        commits_per_s=messages,
        nats_bytes_per_s=pushes * p.row_bytes,
        nats_share=nats,
        nats_clusters=max(1, math.ceil(nats / p.utilisation - 1e-9)),
        bus_messages_per_s=batches,
        control_share=pushes / nodes / p.pushes_per_s + bus,
        # every node hears every beat: a put into the bucket, and as many messages as there are nodes
        membership_share=max(beats / p.nats_kv_per_s, beats * nodes * p.message_servers_us / 1e6 / p.servers),
        memory_share=memory / MACHINE_BYTES,
        idle_streams_cores=partitions * p.stream_cpu,
    )


def nodes_until_membership(p: Parameters) -> int:
    """As many nodes as fill one core of each of the three servers with nothing but who is alive."""
    return int(math.sqrt(p.beat_s * p.servers * 1e6 / p.message_servers_us))


def run(p: Parameters) -> Result:
    sizes = [size(p, devices) for devices in SIZES if devices < p.devices] + [size(p, p.devices)]
    rows = []
    for one in sizes:
        shares = one.shares(p)
        first = max(shares, key=lambda name: shares[name])
        rows.append(
            (
                one.devices,
                one.nodes,
                one.partitions,
                one.node_bytes / 1e9,
                one.heartbeat_cores,
                one.node_packets_per_s,
                one.pushes_per_s,
                one.commits_per_s,
                one.nats_share,
                one.nats_clusters,
                one.bus_messages_per_s,
                one.control_share,
                f"{first} ({shares[first]:.2f})",
            )
        )
    last = sizes[-1]
    facts: dict[str, float | str] = {
        "nodes": last.nodes,
        "partitions": last.partitions,
        "node_memory_gb": last.node_bytes / 1e9,
        "pushes_per_s": last.pushes_per_s,
        "commits_per_s": last.commits_per_s,
        "nats_gb_per_s": last.nats_bytes_per_s / 1e9,
        "nats_clusters": last.nats_clusters,
        "idle_streams_gb": last.partitions * p.stream_bytes / 1e9,
        "idle_streams_cores": last.idle_streams_cores,
        "beats_heard_per_s": last.nodes**2 / p.beat_s,
        "nodes_until_membership": nodes_until_membership(p),
    }
    for wait in SLOWER_COMMITS:
        facts[f"nats_clusters_at_{wait:g}_ms"] = size(p, p.devices, wait).nats_clusters
    for one in sizes:
        if one.nats_share > p.utilisation:
            facts["second_nats_cluster_at_devices"] = one.devices
            break

    def line(name: str) -> Line:
        return Line(name, [(one.devices, one.shares(p)[name]) for one in sizes])

    return Result(
        "growth",
        "From a million devices to a billion",
        (
            "devices",
            "nodes",
            "partitions",
            "GB a node",
            "cores for heartbeats",
            "packets/s a node",
            "pushes/s",
            "commits/s",
            "of one NATS cluster",
            "NATS clusters",
            "bus messages/s",
            "of a control thread",
            "nearest bound",
        ),
        rows,
        facts,
        Chart(
            "Shares of what a machine, a thread, a cluster takes",
            "devices",
            "share (1: all of it)",
            [line(name) for name in ("one NATS cluster", "memory", "control thread", "membership")],
            log_y=True,
            target=1,
        ),
    )
