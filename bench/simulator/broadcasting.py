"""One broadcast to everyone: stored once, sent by all nodes at the same time, and a cursor written for each device that
acked. What takes longest is the time; the three go on beside each other. Must not count devices that are away.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.curves import Chart, Line
from bench.simulator.growth import nats_costs, nodes_for, partitions_for, size
from bench.simulator.parameters import Parameters
from bench.simulator.result import Result

SIZES = (1e6, 1e7, 1e8, 1e9)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Seconds of each part, and of all."""

    nodes: int
    send_s: float
    ack_s: float
    cursors_s: float
    whole_s: float
    rows: float
    journal_bytes: float
    node_gbit_per_s: float
    commands: float


def broadcast(p: Parameters, devices: float, clusters: int | None = None) -> Broadcast:
    nodes = nodes_for(p, devices)
    each = devices * p.online / nodes
    send = each / (p.fanout_per_s * p.reactors)
    # acks of devices elsewhere go back in batches, and both ends read each
    ack = each * (p.ack_us + p.item_us * (1 - 1 / nodes)) / 1e6
    rows = devices * p.online / p.cursor_page * p.cursor_writes
    _, a_row = nats_costs(p)
    # a row of a page is as large as five of the measured ones, of a hundred bytes each
    page_bytes = p.cursor_page * p.cursor_bytes
    many = size(p, devices).nats_clusters if clusters is None else clusters
    cursors = rows * a_row * max(1.0, page_bytes / 100) / (many * p.utilisation)
    return Broadcast(
        nodes=nodes,
        send_s=send,
        ack_s=ack,
        cursors_s=cursors,
        whole_s=p.publish_ms / 1e3 + max(send, ack, cursors),
        rows=1 + rows,
        journal_bytes=rows * page_bytes,
        node_gbit_per_s=each * p.broadcast_bytes * 8 / max(send, ack) / 1e9,
        commands=partitions_for(p, devices) * nodes,
    )


def run(p: Parameters) -> Result:
    sizes = [devices for devices in SIZES if devices < p.devices] + [p.devices]
    all_of = [broadcast(p, devices) for devices in sizes]
    rows = [
        (
            devices,
            one.nodes,
            one.send_s,
            one.ack_s,
            one.cursors_s,
            one.whole_s,
            one.commands,
            one.journal_bytes / 1e9,
            one.node_gbit_per_s,
        )
        for devices, one in zip(sizes, all_of, strict=True)
    ]
    last = all_of[-1]

    def line(name: str, take: str) -> Line:
        return Line(name, [(devices, getattr(one, take)) for devices, one in zip(sizes, all_of, strict=True)])

    return Result(
        "broadcast",
        "A broadcast to everyone on line, acked by all",
        (
            "devices",
            "nodes",
            "sends, s",
            "acks, s",
            "cursors, s",
            "all of it, s",
            "commands between nodes",
            "GB of cursors",
            "Gbit/s a node",
        ),
        rows,
        {
            "whole_s": last.whole_s,
            "send_s": last.send_s,
            "ack_s": last.ack_s,
            "cursors_s": last.cursors_s,
            "with one NATS cluster, s": broadcast(p, p.devices, 1).whole_s,
            "commands": last.commands,
        },
        Chart(
            "A broadcast to everyone, acked by all",
            "devices on line",
            "seconds",
            [line("cursors durable", "cursors_s"), line("acks read", "ack_s"), line("sent", "send_s")],
            log_y=True,
        ),
    )
