"""Every setting of the gateway, one dataclass a section; must hold no logic.

`docs/config.md` and `heliograph default-config` come from here. The comment above a field is its
documentation (unit included); a field's name ends with its unit: _s _ms _bytes. A number is 0 or more unless `within`
says otherwise; a `Literal` or the metadata entry `words` names the allowed words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway.config.bounds import within
from gateway.config.cluster_section import Cluster
from gateway.config.im_section import Im
from gateway.config.operator_sections import Diameter, Ims, Ip, Paging, Radius, Service, Trigger, Wap
from gateway.config.ota_section import Ota

#: jwt_algorithms that may be named
JWT_ALGORITHMS = ("ES256", "RS256", "EdDSA", "HS256")


@dataclass(slots=True)
class Edge:
    """The device door: links, logins, heartbeats, outboxes."""

    # address the device listener binds
    host: str = "127.0.0.1"
    # TCP port of plain connections; 0 takes a free one (see serve --ready-file); -1: none, TLS alone
    port: int = within(7400, -1, 65_535)
    # TCP port of TLS connections; 0 takes a free one; -1: none
    tls_port: int = within(-1, -1, 65_535)
    # PEM file of the TLS port's certificate and, behind it, those that lead to its root
    tls_cert: str = ""
    # PEM file of its private key, without a password
    tls_key: str = ""
    # further certificates by the host name a device asks for (SNI), each host=certificate file:key file; a host may
    # begin with *. for all names one level below; any other name gets tls_cert
    tls_sni: list[str] = field(default_factory=list)
    # must a device show a certificate of its own (mutual TLS); optional checks one that is shown
    tls_client_auth: Literal["none", "optional", "required"] = "none"
    # PEM file of the authorities that sign the devices' certificates
    tls_client_ca: str = ""
    # oldest version of TLS that is spoken
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    # handshakes under way at once in each reactor, 15 to 55 kB each; past it a connection is closed and counted (busy)
    tls_handshakes: int = within(10_000, 1, 16_000_000)
    # certificate files are looked at this often; changed ones are used for new connections (SIGHUP does it at once)
    tls_reload_s: float = within(60.0, 0.01, 86_400)
    # required: on the plain port each connection begins with a PROXY protocol v2 header, from peers in proxy_trusted
    # alone
    proxy_protocol: Literal["off", "required"] = "off"
    # addresses and networks (CIDR) of the load balancers that may send PROXY headers
    proxy_trusted: list[str] = field(default_factory=list)
    # reactor threads; 0 = one per two cores, at least one
    reactors: int = within(1, 0, 255)
    # listen backlog of each reactor
    backlog: int = within(4096, 1, 65_535)
    # most links of each reactor; past it a connection is closed at once and counted
    max_links: int = within(4_000_000, 1, 16_000_000)
    # a link that sent no HELLO by then is closed (login_timeout)
    login_timeout_s: float = within(10.0, 0.1, 600)
    # largest frame body before login
    login_frame_bytes: int = within(4096, 256, 268_435_455)
    # largest frame body after login
    max_frame_bytes: int = within(65_536, 1024, 268_435_455)
    # largest frame body of a provider stream; a batch of pushes is one frame
    provider_frame_bytes: int = within(262_144, 4096, 16_777_216)
    # pushes in one batch of a provider stream
    provider_batch: int = within(1_000, 1, 4096)
    # pushes of one provider stream that have no result yet; past it they are refused (queue_full)
    provider_window: int = within(10_000, 1, 65_535)
    # receipts on their way to a provider stream that were not confirmed; more wait for RECEIVED
    provider_receipts_window: int = within(1_000, 1, 65_535)
    # provider streams at once; past it a login is refused (overloaded)
    max_providers: int = within(1_000, 0, 1_000_000)
    # heartbeat interval offered first
    heartbeat_s: int = within(60, 1, 86_400)
    # shortest heartbeat interval a device may ask for
    heartbeat_min_s: int = within(30, 1, 86_400)
    # longest heartbeat interval a device may ask for
    heartbeat_max_s: int = within(240, 1, 86_400)
    # unacked notifications on one link; the device may ask for fewer; past it they wait in the journal
    window: int = within(32, 1, 4096)
    # unsent bytes on one link; past it notifications wait in the journal (counted as spilled)
    outbox_bytes: int = within(262_144, 1024, 1_073_741_824)
    # a link that takes nothing from a non-empty outbox for this long is closed (slow_consumer)
    slow_timeout_s: float = within(15.0, 0.1, 3600)
    # logins a second over all reactors; past it a device gets GOAWAY overloaded; 0 = no limit
    logins_per_s: int = within(0, 0, 1_000_000_000)
    # logins of one device in a minute; past it GOAWAY flapping; 0 = no limit
    device_logins_per_minute: int = within(30, 0, 65_535)
    # REGISTERs of one device in a minute that had to be stored; past it REGISTER is refused; 0 = no limit
    device_changes_per_minute: int = within(600, 0, 65_535)
    # resident memory past which new logins are refused (overloaded); 0 = no limit
    memory_limit_bytes: int = 0
    # each direction's mailbox between a reactor and the control thread
    mailbox_bytes: int = within(4_194_304, 65_536, 1_073_741_824)
    # on SIGTERM devices are sent away spread over this time
    drain_s: float = within(10.0, 0, 3600)


@dataclass(slots=True)
class Auth:
    """Who a device is."""

    # open: any device id, for closed networks; secret: issued at first HELLO; jwt: signed by your own identity service
    device: Literal["open", "secret", "jwt"] = "secret"
    # PEM public key (ES256, RS256, EdDSA) or shared secret (HS256) that signs device tokens; a file's path
    jwt_key_file: str = ""
    # signature algorithms taken; public-key ones and HS256 can not be mixed
    jwt_algorithms: list[str] = field(
        default_factory=lambda: ["ES256", "RS256", "EdDSA"], metadata={"words": JWT_ALGORITHMS}
    )
    # expected aud claim; empty = not checked
    jwt_audience: str = ""


@dataclass(slots=True)
class Store:
    """The embedded store (LMDB)."""

    # folder of the store and of the key file
    path: str = "var/heliograph"
    # largest size the store may grow to (address space, not disk taken at once)
    max_bytes: int = within(68_719_476_736, 1_048_576, 1 << 46)
    # a group commit waits at most this long for more rows
    commit_ms: float = within(2.0, 0, 1000)
    # a group commit with this many rows waits no longer
    commit_rows: int = within(10_000, 1, 1_000_000)
    # rows waiting for a commit; past it a push is refused (503 queue_full)
    max_uncommitted: int = within(200_000, 1)
    # pending deliveries in all; past it a push is refused (503 queue_full)
    max_pending: int = within(50_000_000, 1, 1 << 31)
    # pending deliveries for one registration; past it a push to it is refused (503 queue_full)
    max_pending_per_registration: int = within(1_000, 1)
    # live broadcasts of one app; past it a broadcast is refused (503 queue_full)
    max_broadcasts_per_app: int = within(1_000, 1)
    # pushes of one app that wait for their time; past it a scheduled push is refused (503 queue_full)
    max_scheduled_per_app: int = within(10_000, 1, 1_000_000)
    # outcomes and receipts are kept this long
    history_days: float = within(7.0, 0, 3650)
    # a revoked token is remembered this long, so that providers hear that it is gone, not that it never was
    dead_tokens_days: float = within(90.0, 0, 3650)
    # false gives up durability of the last moments on power loss for speed; a killed process still loses nothing
    sync: bool = True


@dataclass(slots=True)
class Delivery:
    """When and where a notification goes."""

    # no ack from the device within this time: the first notifier (B3); app and push may set their own
    ack_ms: int = within(3_000, 100, 3_600_000)
    # no ack within this time after a notifier took it: look at the channel again (B5)
    notifier_ack_ms: int = within(30_000, 100, 86_400_000)
    # unacked on a live link and no notifier left: send again after this time
    retry_ms: int = within(30_000, 100, 86_400_000)
    # time to live of a push that names none
    ttl_s: int = within(86_400, 0, 31_536_000)
    # longest time to live a push may ask for
    max_ttl_s: int = within(2_419_200, 1, 31_536_000)
    # how far ahead a push may be scheduled
    max_schedule_s: int = within(31_536_000, 0, 315_360_000)
    # message bodies up to this size go with the notification where the push says body = auto
    inline_bytes: int = 4_096
    # notifier calls under way at once, for each notifier; of the last quarter a lane takes while it has less than
    # is left
    notifier_concurrency: int = within(256, 1, 10_000)
    # notifier calls waiting, for each notifier; past it the delivery waits until there is room. Of this, of lanes and
    # of calls at once one app leaves a quarter to others
    notifier_queue: int = within(100_000, 1)
    # how long one notifier call may take
    notifier_timeout_s: float = within(10.0, 0.1, 600)
    # lanes (an upstream and the credential it is asked with) busy at once, for each notifier; past it a call for a new
    # one waits until there is room
    notifier_lanes: int = within(1_024, 1, 1_000_000)
    # calls of one lane under way at once
    notifier_lane_concurrency: int = within(64, 1, 10_000)
    # calls of one lane waiting; past it the delivery waits until half of it is free
    notifier_lane_queue: int = within(10_000, 1)
    # a lane that has to rest for at most this long keeps its calls; for longer they wait for their retry timers
    notifier_hold_s: float = within(5.0, 0, 3600)
    # failures in a row after which a lane is left alone
    notifier_failures: int = within(5, 1, 1_000)
    # a lane is left alone for this long at first; the time doubles while it goes on failing
    notifier_open_s: float = within(1.0, 0.05, 3600)
    # longest time a lane is left alone for its failures
    notifier_open_max_s: float = within(60.0, 0.05, 86_400)
    # longest time a lane rests because its upstream said Retry-After
    notifier_pause_max_s: float = within(3_600.0, 1, 86_400)
    # calls a second of one lane, a second's worth at once; 0 = no limit
    notifier_rate: float = within(2_000.0, 0, 1_000_000)
    # Web Push: may subscriptions lead to private addresses (loopback, LAN)? Devices name them, so keep it false
    webpush_private: bool = False


@dataclass(slots=True)
class Api:
    """The provider door."""

    # address the provider API binds; port is plain HTTP, so set tls_cert or put TLS in front of anything but loopback
    host: str = "127.0.0.1"
    # TCP port of plain HTTP/1.1 and HTTP/2; 0 takes a free one; -1: none, TLS alone
    port: int = within(7480, -1, 65_535)
    # TCP port of HTTPS (HTTP/1.1 and HTTP/2), open where tls_cert is set; 0 takes a free one
    tls_port: int = within(7481, 0, 65_535)
    # PEM certificate chain for tls_port; read again when it changes, and on SIGHUP
    tls_cert: str = ""
    # PEM private key of tls_cert, without a passphrase
    tls_key: str = ""
    # further certificates by host name: host=chain.pem:key.pem; *.example.com stands for one label
    tls_sni: list[str] = field(default_factory=list)
    # PEM certificates that may sign client certificates
    tls_client_ca: str = ""
    # client certificates: not asked for, taken where there is one, or needed
    tls_client_auth: Literal["none", "optional", "required"] = "none"
    # oldest TLS version taken
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    # certificate files are looked at this often
    tls_reload_s: float = within(60.0, 0.01, 86_400)
    # origins providers know this gateway by, with the port where it is not 443 (https://push.example.com): the audience
    # of VAPID tokens and the beginning of URLs in answers, the first one; empty: what the request says in Host, as an
    # audience only where that is loopback, the address connected to, or in a certificate
    public_urls: list[str] = field(default_factory=list)
    # largest body of a single request; a batch is streamed and bounded by line
    max_body_bytes: int = within(1_048_576, 1024, 1_073_741_824)
    # largest title + text + data of one push
    max_push_bytes: int = within(32_768, 64, 268_435_455)
    # notifications in one batch request
    max_batch: int = within(10_000, 1, 1_000_000)
    # an idempotency key is remembered this long, after `deliver_at` where its push has one; in a fleet at least until
    # 90 minutes after its push's time to live, for so long a spool may ask for it
    idempotency_s: int = within(86_400, 0, 31_536_000)
    # open connections; past it a new one is closed at once and counted
    max_connections: int = 4_096
    # receipt streams and waiting receipt requests in all; past it 429. One app leaves a quarter of them to others
    max_watchers: int = 1_024
    # a 201 waits at most this long for commit or ack
    accept_timeout_s: float = within(10.0, 0.1, 600)
    # T8 door: a delivery report is tried so often, with the pauses of the receipts webhook; then it is given up
    t8_report_tries: int = within(8, 1, 1_000)
    # T8 door: may a transaction name a destination in a private network? true: an app's server can make the gateway
    # post to hosts of your network
    t8_private: bool = False
    # receipts webhook: first pause between tries
    receipts_retry_s: float = within(1.0, 0.05, 3600)
    # receipts webhook: longest pause between tries
    receipts_retry_max_s: float = within(300.0, 0.05, 86_400)


@dataclass(slots=True)
class Identity:
    """Opaque ids that stand for subscribers of an operator's network (docs/identity.md)."""

    # host in every id that is made here: how a provider finds the gateway from the id alone (C6)
    host: str = "localhost"
    # hosts of other gateways that ids may name: such an id is answered with where it belongs; any other is unknown
    domains: list[str] = field(default_factory=list)
    # classes of apps, each class=app, as in apn:internet=chat; a class begins with service:, provider: or apn:
    classes: list[str] = field(default_factory=list)
    # further hosts of this gateway for ids of a class, each class=host
    class_hosts: list[str] = field(default_factory=list)
    # apps that may ask for an id with a NAI (C15)
    ask_apps: list[str] = field(default_factory=list)
    # an id is good for this long, less a random part of up to a tenth; 0 = permanent (C3)
    validity_s: int = within(86_400, 0, 315_360_000)
    # overlap: a new id is drawn renew_s before the old one lapses, and both are good until then; replace: it is drawn
    # when the old one has lapsed
    renewal: Literal["overlap", "replace"] = "overlap"
    # how long before its end an id is renewed
    renew_s: int = within(3_600, 0, 31_536_000)
    # ids that an app is told of and that lapse within renew_s are looked for this often, and renewed without a trigger
    # (with renewal = overlap); 0: never, the next trigger or question does it
    renewal_sweep_s: float = within(60.0, 0, 86_400)
    # live ids of one subscriber; past it none is drawn (429)
    ids_per_subscriber: int = within(64, 1, 1_024)
    # network ids of one subscriber (several cards and numbers may share ids)
    network_ids_per_subscriber: int = within(32, 1, 256)
    # ids drawn for one subscriber in an hour, over all apps; past it none is drawn (429)
    draws_per_hour: int = within(120, 1, 100_000)
    # requests of one app with a NAI in a minute; past it 429
    asks_per_minute: int = within(600, 1, 10_000_000)
    # who knows whom an id stands for: local, the gateway's own table; hss, the HSS, asked over S6m by the id as its
    # External Identifier (section diameter), while scope, end and opt-outs that are known here hold as well (C7)
    mapping: Literal["local", "hss"] = "local"
    # what the HSS said is used again for so long, for the app that asked; 0 = not at all
    mapping_cache_s: float = within(30.0, 0, 3_600)
    # that the HSS knows no such id is remembered for so long, and its word of one that is refused here; 0 = not at all
    mapping_unknown_s: float = within(1.0, 0, 10)
    # answers of the HSS that are remembered; past it the oldest is forgotten
    mapping_cache_entries: int = within(10_000, 1, 10_000_000)
    # paging-only registrations whose id (the last that a provider used) has ended are removed, looked for this often
    paging_only_sweep_s: float = within(60.0, 0.05, 86_400)
    # an app's feed of new ids goes back this long
    news_days: float = within(7.0, 0, 3650)
    # what an id stood for, and when, is kept this long after its end (encrypted)
    history_days: float = within(180.0, 0, 3650)


@dataclass(slots=True)
class Log:
    """Logs: one line each on stderr, never a secret, a token or a subscriber identity."""

    # least severe level that is written
    level: Literal["debug", "info", "warning", "error"] = "info"
    # json for machines, text for people
    format: Literal["json", "text"] = "json"


@dataclass(slots=True)
class Config:
    """All sections."""

    edge: Edge = field(default_factory=Edge)
    auth: Auth = field(default_factory=Auth)
    store: Store = field(default_factory=Store)
    delivery: Delivery = field(default_factory=Delivery)
    paging: Paging = field(default_factory=Paging)
    service: Service = field(default_factory=Service)
    wap: Wap = field(default_factory=Wap)
    trigger: Trigger = field(default_factory=Trigger)
    radius: Radius = field(default_factory=Radius)
    ip: Ip = field(default_factory=Ip)
    ims: Ims = field(default_factory=Ims)
    diameter: Diameter = field(default_factory=Diameter)
    ota: Ota = field(default_factory=Ota)
    im: Im = field(default_factory=Im)
    cluster: Cluster = field(default_factory=Cluster)
    api: Api = field(default_factory=Api)
    identity: Identity = field(default_factory=Identity)
    log: Log = field(default_factory=Log)
