"""Settings of a fleet (docs/cluster.md): the section `cluster`; must hold no logic."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.bounds import within


@dataclass(slots=True)
class Cluster:
    """A fleet of gateways on NATS (docs/cluster.md); without `url` this gateway is alone."""

    # NATS servers, comma separated (nats://host:4222 or tls://…); empty: one machine, in-process and LMDB
    url: str = ""
    # name of the fleet: streams, buckets and subjects begin with it, so several fleets may share NATS servers
    name: str = "heliograph"
    # name of this node, the same at each start and unlike any other's; empty: the host's name
    node: str = ""
    # file with the fleet's secret, 32 bytes or more, the same on each node: it seals the keys that all nodes share
    secret_file: str = ""
    # NATS credentials file (.creds); empty: none
    credentials_file: str = ""
    # PEM file of the authority of the NATS servers' certificates; empty: the system's
    tls_ca: str = ""
    # where devices find this node, told to devices that others send away: host:port, host:port,tls_port or
    # host:,tls_port; empty: edge.host with edge.port and edge.tls_port, where that is an address of one host
    advertise: str = ""
    # parts that all registrations are spread over, a power of two; fixed when the fleet's first node starts
    partitions: int = within(16, 1, 1024)
    # copies of everything that is durable, each on its own NATS server
    replicas: int = within(3, 1, 5)
    # nodes that follow each partition's journal besides its owner, so that they can take over at once
    standbys: int = within(1, 0, 8)
    # monitoring addresses of the NATS servers (http://host:8222), comma separated: each is asked at the start whether
    # it syncs every write (sync_interval: always)
    monitors: str = ""
    # start although it is not known whether the NATS servers sync every write: what was accepted can be lost when
    # several lose power
    allow_unsynced: bool = False
    # a node that was not heard of for so long is dead, and others take its partitions
    lease_s: float = within(3.0, 0.5, 300)
    # how often a node says that it lives
    beat_s: float = within(0.75, 0.05, 100)
    # a partition that is taken over and does not get on for so long is given back, and another node tries
    adopt_timeout_s: float = within(60.0, 1, 3_600)
    # no answer of another node after so long: 503
    ask_timeout_s: float = within(5.0, 0.1, 300)
    # a commit in doubt for so long refuses new pushes (503) until it is settled
    stall_s: float = within(1.0, 0.05, 60)
    # largest message of a commit; must not be above the NATS servers' max_payload
    message_bytes: int = within(786_432, 65_536, 67_108_864)
    # journal of one partition; NATS reserves as much for each partition and copy. Past it nothing is accepted for the
    # partition (503) until a snapshot made room
    journal_bytes: int = within(268_435_456, 1_048_576, 1 << 44)
    # a snapshot of a partition is taken when its journal has grown by this much, or by the last snapshot's size where
    # that is more
    snapshot_bytes: int = within(67_108_864, 65_536, 1 << 44)
    # messages for one other node that wait for the connection; past it they are dropped, counted, and asked for again
    outbox_bytes: int = within(67_108_864, 65_536, 1 << 36)
    # folder where pushes are kept while NATS can not be reached, and taken in later (answered 202); empty: 503
    spool: str = ""
    # largest size of the spool; past it 503
    spool_bytes: int = within(1_073_741_824, 1_048_576, 1 << 44)
    # handing partitions over when a node drains or joins: so many at once
    handovers: int = within(2, 1, 1024)
