"""Every setting of the gateway, one dataclass a section; `docs/config.md` and `heliograph default-config` come from here.

The comment line above a field is its documentation (unit included). A field's name ends with its unit: _s _ms _bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Edge:
    """The device door: links, logins, heartbeats, outboxes."""

    # address the device listener binds
    host: str = "127.0.0.1"
    # TCP port; 0 takes a free one (see serve --ready-file)
    port: int = 7400
    # reactor threads; 0 = one per two cores, at least one
    reactors: int = 1
    # listen backlog of each reactor
    backlog: int = 4096
    # most links of each reactor; past it a connection is closed at once and counted
    max_links: int = 4_000_000
    # a link that sent no HELLO by then is closed (login_timeout)
    login_timeout_s: float = 10.0
    # largest frame body before login
    login_frame_bytes: int = 4096
    # largest frame body after login
    max_frame_bytes: int = 65_536
    # heartbeat interval offered first, and the bounds inside which a device may ask for another
    heartbeat_s: int = 60
    heartbeat_min_s: int = 30
    heartbeat_max_s: int = 240
    # unacked notifications on one link; the device may ask for fewer; past it they wait in the journal
    window: int = 32
    # unsent bytes on one link; past it notifications wait in the journal (counted as spilled)
    outbox_bytes: int = 262_144
    # a link that takes nothing from a non-empty outbox for this long is closed (slow_consumer)
    slow_timeout_s: float = 15.0
    # logins a second over all reactors; past it a device gets GOAWAY overloaded; 0 = no limit
    logins_per_s: int = 0
    # logins of one device in a minute; past it GOAWAY flapping; 0 = no limit
    device_logins_per_minute: int = 30
    # resident memory past which new logins are refused (overloaded); 0 = no limit
    memory_limit_bytes: int = 0
    # each direction's mailbox between a reactor and the control thread
    mailbox_bytes: int = 8_388_608
    # on SIGTERM devices are sent away spread over this time
    drain_s: float = 10.0


@dataclass(slots=True)
class Auth:
    """Who a device is."""

    # open: any device id, for closed networks; secret: issued at first HELLO; jwt: signed by your own identity service
    device: Literal["open", "secret", "jwt"] = "secret"
    # PEM public key (ES256, RS256, EdDSA) or shared secret (HS256) that signs device tokens; a file's path
    jwt_key_file: str = ""
    jwt_algorithms: list[str] = field(default_factory=lambda: ["ES256", "RS256", "EdDSA"])
    # expected aud claim; empty = not checked
    jwt_audience: str = ""


@dataclass(slots=True)
class Store:
    """The embedded store (LMDB)."""

    # folder of the store and of the key file
    path: str = "var/heliograph"
    # largest size the store may grow to (address space, not disk taken at once)
    max_bytes: int = 68_719_476_736
    # a group commit waits this long for more rows, or until it has commit_rows
    commit_ms: float = 2.0
    commit_rows: int = 10_000
    # rows waiting for a commit; past it a push is refused (503 queue_full)
    max_uncommitted: int = 200_000
    # pending deliveries in all and for one registration; past it a push is refused (503 queue_full)
    max_pending: int = 50_000_000
    max_pending_per_registration: int = 1_000
    # live broadcasts of one app; past it a broadcast is refused (503 queue_full)
    max_broadcasts_per_app: int = 1_000
    # outcomes and receipts are kept this long
    history_days: float = 7.0
    # false gives up durability of the last moments on power loss for speed; a killed process still loses nothing
    sync: bool = True


@dataclass(slots=True)
class Delivery:
    """When and where a notification goes."""

    # no ack from the device within this time: the first notifier (B3); app and push may set their own
    ack_ms: int = 3_000
    # no ack within this time after a notifier took it: look at the channel again (B5)
    notifier_ack_ms: int = 30_000
    # unacked on a live link and no notifier left: send again after this time
    retry_ms: int = 30_000
    # time to live of a push that names none, and the longest allowed
    ttl_s: int = 86_400
    max_ttl_s: int = 2_419_200
    # message bodies up to this size go with the notification where the push says body = auto
    inline_bytes: int = 4_096
    # notifier calls under way at once, for each notifier
    notifier_concurrency: int = 64
    # notifier calls waiting, for each notifier; past it the delivery waits for its retry timer
    notifier_queue: int = 100_000
    # how long one notifier call may take
    notifier_timeout_s: float = 10.0


@dataclass(slots=True)
class Api:
    """The provider door."""

    host: str = "127.0.0.1"
    # TCP port; 0 takes a free one
    port: int = 7480
    # largest body of a single request; a batch is streamed and bounded by line
    max_body_bytes: int = 1_048_576
    # largest title + text + data of one push
    max_push_bytes: int = 32_768
    # notifications in one batch request
    max_batch: int = 10_000
    # an idempotency key is remembered this long
    idempotency_s: int = 86_400
    # a 201 waits at most this long for commit or ack
    accept_timeout_s: float = 10.0
    # receipts webhook: first and longest pause between tries
    receipts_retry_s: float = 1.0
    receipts_retry_max_s: float = 300.0


@dataclass(slots=True)
class Log:
    """Logs: one JSON object a line on stderr, never a secret, a token or a subscriber identity."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    # json or text
    format: Literal["json", "text"] = "json"


@dataclass(slots=True)
class Config:
    edge: Edge = field(default_factory=Edge)
    auth: Auth = field(default_factory=Auth)
    store: Store = field(default_factory=Store)
    delivery: Delivery = field(default_factory=Delivery)
    api: Api = field(default_factory=Api)
    log: Log = field(default_factory=Log)
