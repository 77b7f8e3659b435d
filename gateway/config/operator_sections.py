"""Settings of what speaks to an operator's network, one dataclass a section; must hold no logic.

The comments are the documentation, as in gateway/config/sections.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway.config.bounds import within


@dataclass(slots=True)
class Paging:
    """Waking terminals through an operator's network (docs/paging.md): for every pager; then the pager sms."""

    # pages of one subscriber, over all apps and pagers, that may go out at once
    subscriber_burst: int = within(20, 1, 1_000_000)
    # and how many more an hour; 0 = no limit
    subscriber_per_hour: float = within(60.0, 0, 1_000_000)
    # subscribers whose pages are counted in RAM; past it the one that was paged longest ago is forgotten
    subscribers_counted: int = within(100_000, 1, 100_000_000)
    # a page that only wakes an app stands for every further one to it for so long
    coalesce_s: float = within(5.0, 0, 3600)
    # each page waits a random time up to this, so that its moment says little
    jitter_s: float = within(0.2, 0, 60)
    # SMSCs in order of preference, each smpp://system_id@host:port, or smpps:// for SMPP inside TLS; behind it
    # ?password_file=FILE where one has a password of its own; empty: there is no notifier sms
    smscs: list[str] = field(default_factory=list)
    # file with the SMPP password of every SMSC that names none, at most 8 characters
    smsc_password_file: str = ""
    # system_type of the bind, where an SMSC wants one
    smsc_system_type: str = ""
    # transceiver sends and hears receipts; transmitter only sends, so no push's history says what became of its message
    smsc_bind: Literal["transceiver", "transmitter"] = "transceiver"
    # PEM file of the authorities that sign the certificates of smpps SMSCs; empty: the system's
    smsc_ca: str = ""
    # messages that one SMSC has not answered yet; others wait
    smsc_window: int = within(10, 1, 1_000)
    # messages a second of one SMSC; 0 = no limit
    smsc_rate: float = within(50.0, 0, 100_000)
    # nothing heard of an SMSC for this long: enquire_link
    smsc_enquire_s: float = within(30.0, 0.05, 3600)
    # an SMSC has to answer by then; shorter than delivery.notifier_timeout_s
    smsc_answer_s: float = within(5.0, 0.05, 600)
    # first pause before connecting again; doubles, and each is cut by up to a half at random
    smsc_reconnect_s: float = within(1.0, 0.05, 3600)
    # longest pause before connecting again
    smsc_reconnect_max_s: float = within(60.0, 0.05, 86_400)
    # an SMSC that says that it is throttling, or full, rests so long
    smsc_throttle_s: float = within(5.0, 0.05, 3600)
    # sender of the messages, where an app has none: a number, or at most 11 letters and digits; empty: the SMSC's own
    sms_source: str = ""
    # application port of binary messages, where an app has none
    sms_port: int = within(16_000, 16_000, 16_999)
    # short messages in RAM that wait for their receipt; past it the oldest is forgotten (counted)
    sms_receipts: int = within(100_000, 1, 10_000_000)
    # a receipt is waited for until the message expires and this long after it
    sms_receipt_s: float = within(3_600.0, 1, 604_800)
    # host:port of the HLR's control interface (osmo-hlr CTRL) that is asked before each message; empty: none is
    hlr: str = ""
    # the HLR has to answer by then
    hlr_timeout_s: float = within(2.0, 0.05, 60)


@dataclass(slots=True)
class Wap:
    """The pager wap: service indications and service loadings (docs/wap.md)."""

    # URL of the push proxy gateway (PAP 2.0); empty: WAP pushes go out as short messages, where there is an SMSC
    ppg: str = ""
    # user the gateway logs in to the PPG as (HTTP Basic); empty: it does not log in
    ppg_user: str = ""
    # file with the password of ppg_user
    ppg_password_file: str = ""
    # PEM file of the authorities that sign the certificate of an https PPG; empty: the system's
    ppg_ca: str = ""
    # name of the PPG behind @ in addresses; empty: the host of ppg
    ppg_name: str = ""
    # the PPG has to answer by then; shorter than delivery.notifier_timeout_s
    ppg_timeout_s: float = within(5.0, 0.05, 600)
    # connections to the PPG at once; a push that finds none free waits
    ppg_connections: int = within(16, 1, 1_000)
    # network that the PPG has to use (a token of WAP-259, as GSM); empty: it chooses
    ppg_network: str = "GSM"
    # bearer that the PPG has to use (a token of WAP-259, as SMS); empty: it chooses
    ppg_bearer: str = "SMS"
    # pushes with a collapse key that are remembered, so that the PPG is asked to drop the one before where it still
    # holds it (replace-push-id of PAP 2.0; Kannel refuses it); past it the oldest is forgotten; 0: it is not asked
    ppg_replaces: int = within(0, 0, 10_000_000)
    # longest link; past it the push is dead for this pager (bad_link)
    href_bytes: int = within(512, 16, 4_096)


@dataclass(slots=True)
class Trigger:
    """The pager trigger: device triggering through the network's exposure function (docs/trigger.md)."""

    # root URL of the T8 API of the SCEF or NEF, the part before /3gpp-device-triggering; empty: it is not used
    t8: str = ""
    # how triggers go out: T8 (REST, `trigger.t8`) or Tsp (Diameter, `diameter.peers`)
    way: Literal["t8", "tsp"] = "t8"
    # what the network knows this gateway by: scsAsId in every T8 URL
    scs_as_id: str = ""
    # what the network knows a device by: its MSISDN; its NAI, which is its External Identifier; or the opaque id
    # itself, where the network was told the gateway's ids as External Identifiers
    identify: Literal["msisdn", "external_id", "opaque_id"] = "msisdn"
    # how the gateway shows who it is: none, a fixed bearer token, or OAuth2 client credentials (RFC 6749 §4.4)
    auth: Literal["none", "bearer", "oauth2"] = "none"
    # file with the bearer token
    token_file: str = ""
    # URL of the OAuth2 token endpoint
    token_url: str = ""
    # OAuth2 client id
    client_id: str = ""
    # file with the OAuth2 client secret
    client_secret_file: str = ""
    # OAuth2 scope, where the network wants one, as in 3gpp#aef1:3gpp-device-triggering
    scope: str = ""
    # PEM file of the authorities that sign the network's certificate; empty: the system's
    ca: str = ""
    # PEM file of the gateway's own certificate, where the network asks for one
    certificate: str = ""
    # PEM file of its key
    certificate_key: str = ""
    # address on which the network's reports are heard
    callback_host: str = "127.0.0.1"
    # and its port; 0 takes a free one
    callback_port: int = within(0, 0, 65_535)
    # URL by which the network reaches that listener, without a path of its own or with one that a proxy takes away;
    # empty: as callback_host and callback_port say
    callback_url: str = ""
    # PEM file of the listener's certificate; empty: plain HTTP, for behind a proxy
    callback_certificate: str = ""
    # PEM file of its key
    callback_certificate_key: str = ""
    # connections of the network at a time; a further one is closed at once (counted)
    callback_connections: int = within(64, 1, 10_000)
    # largest report; a larger one gets 413 (counted)
    callback_body_bytes: int = within(16_384, 256, 1_048_576)
    # a report has to be read by then, and a quiet connection is closed
    callback_timeout_s: float = within(10.0, 0.05, 600)
    # a port that is taken is tried again after this time, which doubles; a trigger waits as long for it to open
    callback_retry_s: float = within(1.0, 0.05, 60)
    # longest pause before trying it again
    callback_retry_max_s: float = within(30.0, 0.05, 3600)
    # ask the network for a test notification, until one came; it shows that callback_url leads here
    test_notification: bool = False
    # application port on the device, where an app has none
    port: int = within(16_000, 16_000, 16_999)
    # most bytes of a trigger's payload that the network takes; title and text are cut to it
    payload_bytes: int = within(133, 39, 65_535)
    # shortest time for which the network tries; up to validity_max_s it is what is left of the push's own
    validity_min_s: int = within(30, 1, 604_800)
    # longest time for which the network tries
    validity_max_s: int = within(86_400, 1, 31_536_000)
    # a trigger that is not delivered yet is replaced by a newer one to the same app of the same device
    replace: bool = True
    # triggers in RAM whose report has not come; past it the oldest is forgotten (counted)
    outstanding: int = within(100_000, 1, 10_000_000)
    # a report is waited for until the validity ends and this long after it
    report_s: float = within(600.0, 1, 604_800)
    # when a trigger was not delivered, have the network (MonitoringEvent, UE_REACHABILITY) tell when the device is back
    watch_reachability: bool = False
    # whether it has to be reachable for data or for short messages
    watch_for: Literal["data", "sms"] = "data"
    # for how long the network is to watch one device
    watch_s: int = within(86_400, 60, 31_536_000)
    # devices watched at a time; past it a further one is not (counted)
    watches: int = within(10_000, 1, 1_000_000)


@dataclass(slots=True)
class Radius:
    """The accounting listener that knows which subscriber has which IP address, and the pager ip (docs/ip.md)."""

    # UDP port of the listener; 0 takes a free one; -1: there is none
    port: int = within(-1, -1, 65_535)
    # address it listens on; of several that the machine has the one that is sent to, for answers come from it
    host: str = "127.0.0.1"
    # who may report, each an address or a network, as in "10.0.0.0/8?secret_file=FILE"; of several the narrowest counts
    clients: list[str] = field(default_factory=list)
    # file with the shared secret of every client that names none
    secret_file: str = ""
    # refuse requests without a Message-Authenticator (RFC 3579); one that is there has to be right in any case
    require_message_authenticator: bool = False
    # sessions kept in RAM; past it the one not heard of for longest goes (counted)
    sessions: int = within(1_000_000, 1, 100_000_000)
    # a session that is not heard of for so long has ended; longer than the network's interim interval
    session_max_s: float = within(86_400.0, 1, 31_536_000)
    # answers kept so that a request that is sent again is answered alike; past it the oldest goes
    retransmissions: int = within(20_000, 1, 10_000_000)
    # and each so long
    retransmission_s: float = within(30.0, 0.1, 3600)
    # the trigger source_ip makes a subscriber of who has a session and is not known yet
    creates_subscribers: bool = False


@dataclass(slots=True)
class Ip:
    """The pager ip: a terminal that is on line is sent a datagram (CoAP), one that is not is asked for again
    (docs/ip.md)."""

    # the operator's subscriber pools, as in "10.45.0.0/16": no other address is ever sent to; empty: none is
    networks: list[str] = field(default_factory=list)
    # may networks name this machine itself; for tests and trials
    loopback: bool = False
    # APNs whose sessions are sent to, as Called-Station-Id has them; empty: all
    apns: list[str] = field(default_factory=list)
    # port on the terminal, where an app has none
    port: int = within(16_000, 16_000, 16_999)
    # Uri-Path of the CoAP request, at most 255 bytes; empty: none
    path: str = "push"
    # first wait for the terminal's acknowledgement; up to a half more at random, doubled with each retransmission
    ack_s: float = within(1.5, 0.05, 60)
    # how often it is sent again; all waits together are shorter than delivery.notifier_timeout_s
    retransmits: int = within(1, 0, 8)
    # datagrams under way at once, each on a port of its own; past it a push is tried later
    at_once: int = within(256, 1, 20_000)
    # host:port of the GGSN's VTY (osmo-ggsn) that is asked who is on line; empty: none is
    ggsn: str = ""
    # the GGSN's own name in it
    ggsn_name: str = "ggsn0"
    # it has to answer by then
    ggsn_timeout_s: float = within(2.0, 0.05, 60)
    # its answer holds so long, and so does that a subscriber is off line
    online_cache_s: float = within(5.0, 0, 3600)
    # who is off line is asked for again in about this time, spread evenly; until the push expires
    requery_s: float = within(30.0, 0.05, 86_400)
    # such questions a second; with many who are off line each is asked for less often
    requery_rate: float = within(20.0, 0.01, 10_000)
    # subscribers who are asked for again; past it the one that waits longest is forgotten (counted), and its pushes go
    # by delivery.retry_ms alone
    watched: int = within(10_000, 1, 10_000_000)


@dataclass(slots=True)
class Ims:
    """IMS paging: a SIP server that holds calls until the called terminal registers again (docs/ims.md)."""

    # host:port of the SIP servers' evapi (docs/kamailio.cfg), each with its own calls; empty: there is no IMS paging
    servers: list[str] = field(default_factory=list)
    # app in whose name terminals are paged: its settings of the pagers, its opt-outs; has to be created
    app: str = "ims"
    # pagers that are asked in turn, by their names in a fallback chain
    pagers: list[str] = field(default_factory=lambda: ["sms"])
    # the push service's name in a Contact (RFC 8599 pn-provider), as the SIP servers have it
    provider: str = "heliograph"
    # a request is paged for as long as its server holds it, and never longer
    hold_max_s: float = within(30.0, 0.5, 300)
    # requests that are held at one time, over all servers; a further one is refused
    calls: int = within(10_000, 1, 1_000_000)
    # what can not be paged is refused no sooner, so that the moment does not say why
    refuse_ms: int = within(500, 0, 10_000)
    # pagers that failed for now are asked again after this pause
    retry_ms: int = within(1_000, 10, 60_000)
    # the HSS has to say within this time whom an IMPU belongs to
    home_timeout_s: float = within(2.0, 0.05, 60)
    # a connection has to be made, and a ping answered, by then
    answer_s: float = within(5.0, 0.05, 600)
    # nothing heard of a server for this long: ping
    ping_s: float = within(10.0, 0.05, 3600)
    # first pause before connecting again; doubles, and each is cut by up to a half at random
    reconnect_s: float = within(1.0, 0.05, 3600)
    # longest pause before connecting again
    reconnect_max_s: float = within(30.0, 0.05, 86_400)
    # longest message of a server; a longer one ends the connection
    message_bytes: int = within(4_096, 256, 65_536)


@dataclass(slots=True)
class Diameter:
    """The Diameter node: asks the HSS (Sh, S6m) and triggers devices (Tsp) (docs/diameter.md)."""

    # peers in order of preference, each host:port of a relay, an HSS or an MTC-IWF, or aaa://host[:port], or
    # aaas://host[:port] for TLS; empty: no Diameter is spoken
    peers: list[str] = field(default_factory=list)
    # this gateway's DiameterIdentity, as in pushgw.example.net
    origin_host: str = ""
    # the realm it is in, as in example.net
    origin_realm: str = ""
    # realm that is asked; empty: origin_realm
    destination_realm: str = ""
    # DiameterIdentity of the HSS that Sh, S6m and S6c ask; empty: relays find one by the realm
    hss_host: str = ""
    # true: the HSS is asked by S6c for the IMSI before each short message, where paging.hlr is empty (C8)
    s6c: bool = False
    # number of the SMSC that S6c requests are made for, digits with the country code; empty: it is not said
    sc_address: str = ""
    # DiameterIdentity of the MTC-IWF that Tsp asks (`trigger.way` = tsp, C10); empty: relays find one by the realm
    mtc_iwf_host: str = ""
    # what the network knows this gateway by as a Services Capability Server (S6m, Tsp); empty: it is not said
    scs_identity: str = ""
    # PEM file of the authorities that sign the certificates of aaas peers; empty: the system's
    tls_ca: str = ""
    # PEM file of the gateway's own certificate, where aaas peers ask for one
    tls_cert: str = ""
    # and of its key
    tls_key: str = ""
    # a request has to be answered by then, all peers that were asked for it together; shorter than
    # delivery.notifier_timeout_s
    answer_s: float = within(3.0, 0.05, 60)
    # connecting, TLS and the exchange of capabilities take at most this long each; so does a peer that does not read
    connect_s: float = within(5.0, 0.05, 60)
    # a peer is silent for this long: Device-Watchdog-Request; twice: others are asked; three times: it is closed
    watchdog_s: float = within(30.0, 0.05, 3600)
    # first pause before connecting again; doubles, and each is cut by up to a half at random
    reconnect_s: float = within(1.0, 0.05, 3600)
    # longest pause before connecting again, and that after a peer that said that it is busy or does not want to talk
    reconnect_max_s: float = within(60.0, 0.05, 86_400)
    # requests without an answer; past it a further one fails at once, and is tried again later
    max_outstanding: int = within(256, 1, 100_000)
    # largest message of a peer; a longer one ends the connection
    max_message_bytes: int = within(65_536, 1_024, 16_777_212)


@dataclass(slots=True)
class Service:
    """The pager service: invites a terminal to start an app that does not run (docs/service-pages.md)."""

    # a device with an open link has to say by then that it has started the app; without it a short message is sent
    link_answer_s: float = within(2.0, 0.05, 60)
    # application port that terminals take pages on, where an app has none
    port: int = within(16_000, 16_000, 16_999)
