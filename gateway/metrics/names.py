"""Every metric the gateway exports; must never name a label that could hold a token, a device or an address.

`docs/metrics.md` is generated from it.
"""

from __future__ import annotations

from enum import Enum

from gateway.metrics.spec import SECONDS as SECONDS
from gateway.metrics.spec import Spec as Spec


class Metric(Enum):
    __hash__ = object.__hash__  # each count looks one up, and Enum's own is a function of Python
    # --- cluster: devices on any node
    FAR_DROPPED = Spec(
        "heliograph_far_dropped_total",
        "counter",
        "What nodes said to each other about devices and was not heard, by reason: malformed, stale, homeless; "
        "REGISTERs that nobody waited for any more: late",
        "reason",
    )
    FAR_LOST = Spec(
        "heliograph_far_lost_total",
        "counter",
        "Notifications for other nodes' links: nothing heard in time (asked, lost), or too many to watch (unwatched)",
        "fate",
    )
    FAR_ROUNDS = Spec(
        "heliograph_far_rounds_total",
        "counter",
        "Times a node told an owner once more of all devices it has for it, by reason: owner, gap, asked",
        "reason",
    )
    # --- edge: links and frames (read from the reactors when scraped)
    LINKS = Spec("heliograph_links", "gauge", "Live device connections")
    LINKS_ACCEPTED = Spec("heliograph_links_accepted_total", "counter", "Device connections accepted")
    LINKS_REJECTED = Spec("heliograph_links_rejected_total", "counter", "Links closed at accept, by reason", "reason")
    LINKS_CLOSED = Spec("heliograph_links_closed_total", "counter", "Device connections closed, by reason", "reason")
    LOGINS = Spec("heliograph_logins_total", "counter", "Logins, by result", "result")
    FRAMES_IN = Spec("heliograph_frames_received_total", "counter", "Frames received from devices")
    FRAMES_OUT = Spec("heliograph_frames_sent_total", "counter", "Frames handed to the kernel for devices")
    BYTES_IN = Spec("heliograph_received_bytes_total", "counter", "Bytes received from devices")
    BYTES_OUT = Spec("heliograph_sent_bytes_total", "counter", "Bytes sent to devices")
    HEARTBEATS = Spec("heliograph_heartbeats_total", "counter", "Heartbeats answered")
    FRAMES_MALFORMED = Spec("heliograph_frames_malformed_total", "counter", "Frames refused, by error name", "error")
    ACKS = Spec("heliograph_acks_total", "counter", "Acks that came inside their ack time")
    ACK_TIMEOUTS = Spec("heliograph_ack_timeouts_total", "counter", "Notifications unacked inside their ack time (B3)")
    ACKS_LATE = Spec("heliograph_acks_late_total", "counter", "Acks of notifications no longer in flight on the link")
    SPILLED = Spec("heliograph_spilled_total", "counter", "Notifications left in the journal for now", "reason")
    INFLIGHT = Spec("heliograph_inflight", "gauge", "Notifications on links that are not acked yet")
    STALLED = Spec("heliograph_links_stalled_total", "counter", "Times a device's socket took no more for now")
    ACCEPT_ERRORS = Spec(
        "heliograph_accept_errors_total", "counter", "Failed accepts (descriptors or memory short), tried again"
    )
    MAILBOX_FULL = Spec("heliograph_mailbox_full_total", "counter", "Times a mailbox was full", "direction")
    TLS_LINKS = Spec("heliograph_tls_links", "gauge", "Live device connections over TLS, handshakes under way included")
    TLS_HANDSHAKES = Spec(
        "heliograph_tls_handshakes_total", "counter", "TLS handshakes done, full ones and those with a ticket", "kind"
    )
    TLS_FAILURES = Spec(
        "heliograph_tls_failures_total", "counter", "TLS handshakes and connections that failed, by reason", "reason"
    )
    TLS_CERTIFICATE_SECONDS = Spec(
        "heliograph_tls_certificate_seconds",
        "gauge",
        "Time until the certificate ends, below 0 once it has, by configured host name",
        "certificate",
    )
    TLS_RELOADS = Spec(
        "heliograph_tls_reloads_total",
        "counter",
        "Certificates read again, by result (failed: the old ones stay)",
        "result",
    )
    PROXIED = Spec("heliograph_proxy_headers_total", "counter", "PROXY headers taken, by kind of address", "kind")
    PROXY_REFUSED = Spec(
        "heliograph_proxy_refused_total", "counter", "Connections closed for their PROXY header, by reason", "reason"
    )
    # --- spool: pushes kept on this node while the fleet can not take them
    SPOOL_WAITING = Spec("heliograph_spool_waiting", "gauge", "Pushes in the spool that wait to be taken in")
    SPOOL_BYTES = Spec("heliograph_spool_bytes", "gauge", "Bytes of pushes in the spool that wait to be taken in")
    SPOOLED = Spec("heliograph_spooled_total", "counter", "Pushes offered to the spool, by result", "result")
    SPOOL_TAKEN = Spec("heliograph_spool_taken_total", "counter", "Pushes that left the spool, by fate", "fate")
    SPOOL_RETRIES = Spec("heliograph_spool_retries_total", "counter", "Pushes that could not leave it yet", "error")
    # --- cards: links of the CAT_TP server (read from it when scraped)
    OTA_LINKS = Spec("heliograph_ota_links", "gauge", "CAT_TP links of cards, by state", "state")
    OTA_EXPECTED = Spec("heliograph_ota_expected", "gauge", "Identifications whose SYN would be taken")
    OTA_BUSY_BYTES = Spec(
        "heliograph_ota_busy_bytes", "gauge", "SDUs that wait, PDUs out of order and SDUs in parts, all links together"
    )
    OTA_LINKS_OPENED = Spec("heliograph_ota_links_opened_total", "counter", "CAT_TP links whose final ACK came (E4)")
    OTA_LINKS_CLOSED = Spec(
        "heliograph_ota_links_closed_total", "counter", "CAT_TP links that were open and ended, by cause", "cause"
    )
    OTA_DATAGRAMS = Spec(
        "heliograph_ota_datagrams_total", "counter", "Datagrams to the CAT_TP server, by what became of them", "result"
    )
    OTA_DATAGRAMS_SENT = Spec("heliograph_ota_datagrams_sent_total", "counter", "Datagrams of the CAT_TP server")
    OTA_LINK_STEPS = Spec(
        "heliograph_ota_link_steps_total", "counter", "Unusual steps of CAT_TP links, by step", "step"
    )
    OTA_SDUS = Spec("heliograph_ota_sdus_total", "counter", "SDUs received, taken for sending, and delivered", "way")
    OTA_BYTES = Spec("heliograph_ota_bytes_total", "counter", "Bytes of CAT_TP PDUs, by direction", "direction")
    # --- delivery
    PUSHES = Spec("heliograph_pushes_total", "counter", "Pushes accepted, by kind of target", "target")
    PUSHES_REFUSED = Spec("heliograph_pushes_refused_total", "counter", "Pushes refused, by error name", "error")
    DELIVERIES = Spec("heliograph_deliveries_total", "counter", "Deliveries settled, by final state", "state")
    DELIVERY_STEPS = Spec("heliograph_delivery_steps_total", "counter", "Unusual steps of deliveries, by step", "step")
    EVENTS_IGNORED = Spec(
        "heliograph_events_ignored_total",
        "counter",
        "Events that came too late or make no sense now, by event",
        "event",
    )
    ACKS_FOREIGN = Spec("heliograph_acks_foreign_total", "counter", "Acks by a registration the message is not for")
    DELIVERY_MEMORY_EVICTED = Spec(
        "heliograph_delivery_memory_evicted_total",
        "counter",
        "Notes on deliveries dropped from bounded memory (back-off starts again, a body is asked for again), by kind",
        "kind",
    )
    BROADCASTS_ADOPTED = Spec(
        "heliograph_broadcasts_adopted_total", "counter", "Broadcasts turned into single deliveries for a fallback"
    )
    FLEET_BROADCASTS = Spec(
        "heliograph_fleet_broadcasts_total",
        "counter",
        "Messages of the fleet's broadcast stream: told, taken_back, dropped (published twice, or recalled before it "
        "came), malformed, failed (a partition could not take it in)",
        "what",
    )
    FLEET_SPREADS = Spec(
        "heliograph_fleet_spreads_total",
        "counter",
        "Pushes to many asked of a partition: taken, recalled, refused (tried again), unreachable (tried again)",
        "result",
    )
    RECEIPTS_POSTED = Spec("heliograph_receipts_posted_total", "counter", "Receipts taken by a provider's endpoint")
    RECEIPTS_FAILED = Spec(
        "heliograph_receipts_failed_total",
        "counter",
        "Receipt posts that failed and are tried again, by reason",
        "reason",
    )
    # --- store
    STORE_COMMITS = Spec("heliograph_store_commits_total", "counter", "Group commits")
    STORE_COMMIT_ROWS = Spec("heliograph_store_commit_rows_total", "counter", "Rows written by group commits")
    STORE_COMMIT_SECONDS = Spec(
        "heliograph_store_commit_seconds", "histogram", "Time of a group commit, disk sync included", "", SECONDS
    )
    STORE_COMMIT_FAILURES = Spec(
        "heliograph_store_commit_failures_total", "counter", "Group commits that failed, by error", "error"
    )
    STORE_REFUSED = Spec(
        "heliograph_store_refused_total", "counter", "Writes refused at a bound of the store, by reason", "reason"
    )
    STORE_ROWS_DROPPED = Spec(
        "heliograph_store_rows_dropped_total",
        "counter",
        "Settled rows given up while the store could not be written (their deliveries may come again after a restart)",
    )
    STORE_HISTORY_DROPPED = Spec(
        "heliograph_store_history_dropped_total", "counter", "Lines left out of a delivery's history, for it was full"
    )
    STORE_COUNTERS_SKIPPED = Spec(
        "heliograph_store_counters_skipped_total",
        "counter",
        "Packet counters of cards never given out, for their card had to leave RAM",
    )
    IM_KEPT = Spec("heliograph_im_kept", "gauge", "Rows of IM in the store, by what they are", "what")
    IM_DUPLICATES = Spec(
        "heliograph_im_duplicates_total", "counter", "Messages and results that a user's log had already: left out"
    )
    IM_LINES_DROPPED = Spec(
        "heliograph_im_lines_dropped_total", "counter", "Lines for logs of users who are gone", "reason"
    )
    IM_SESSION_KEYS_ENDED = Spec(
        "heliograph_im_session_keys_ended_total", "counter", "REST keys that ended early: their user had too many"
    )
    IM_LINES_SWEPT = Spec(
        "heliograph_im_lines_swept_total", "counter", "Lines of logs that went: too old, or too many", "reason"
    )
    STORE_PENDING = Spec("heliograph_store_pending", "gauge", "Deliveries not settled yet")
    STORE_WRITABLE = Spec("heliograph_store_writable", "gauge", "1 while the store can be written, else 0")
    # --- api
    API_REQUESTS = Spec(
        "heliograph_api_requests_total", "counter", "Provider requests, by route template and status class", "request"
    )
    API_SECONDS = Spec(
        "heliograph_api_seconds", "histogram", "Time to answer a provider request, by route template", "route", SECONDS
    )
    API_CONNECTIONS = Spec("heliograph_api_connections", "gauge", "Open connections at the provider door")
    API_CUT = Spec(
        "heliograph_api_cut_total", "counter", "Provider connections refused or cut by a bound, by reason", "reason"
    )
    API_TLS_CERTIFICATE_SECONDS = Spec(
        "heliograph_api_tls_certificate_seconds",
        "gauge",
        "Time until a certificate of the provider door ends, below 0 once it has, by configured host name",
        "certificate",
    )
    API_WATCHERS = Spec("heliograph_api_watchers", "gauge", "Receipt streams and waiting receipt requests")
    API_REPLAYS = Spec("heliograph_api_replays_total", "counter", "Pushes answered again for their idempotency key")
    PROVIDER_STREAMS = Spec("heliograph_provider_streams", "gauge", "Open provider streams")
    PROVIDER_BATCHES = Spec("heliograph_provider_batches_total", "counter", "Batches taken from provider streams")
    # --- cluster: the engine between nodes, what they say to each other, whose the partitions are
    CLUSTER_UP = Spec("heliograph_cluster_up", "gauge", "1 while this node reaches NATS")
    CLUSTER_LOST = Spec("heliograph_cluster_lost_total", "counter", "Times the connection to NATS was lost")
    BUS_MESSAGES = Spec("heliograph_bus_messages_total", "counter", "Messages between nodes: in and out", "direction")
    BUS_DROPPED = Spec(
        "heliograph_bus_dropped_total",
        "counter",
        "What nodes had for each other and was not carried: outbox (full), down, gone, malformed, unknown, busy, late",
        "reason",
    )
    BUS_GAPS = Spec("heliograph_bus_gaps_total", "counter", "Times something that another node sent was missing")
    BUS_ASKS_FAILED = Spec(
        "heliograph_bus_asks_failed_total",
        "counter",
        "Questions to other nodes without an answer: down, full, outbox, timeout, gone",
        "reason",
    )
    BUS_TELLS_FAILED = Spec(
        "heliograph_bus_tells_failed_total", "counter", "What nodes told and could not be done, by error name", "error"
    )
    MEMBERS = Spec("heliograph_members", "gauge", "Live nodes of the fleet, as this one sees it")
    PARTITIONS_OWNED = Spec("heliograph_partitions_owned", "gauge", "Partitions of this node")
    PARTITIONS_UNOWNED = Spec("heliograph_partitions_unowned", "gauge", "Partitions that nobody serves now")
    PARTITIONS_STRANDED = Spec(
        "heliograph_partitions_stranded", "gauge", "Partitions that nobody has served for longer than three leases"
    )
    PARTITIONS_REFUSED = Spec(
        "heliograph_partitions_refused",
        "gauge",
        "Partitions that no node takes over because their journal is not what they had",
    )
    PARTITION_MOVES = Spec(
        "heliograph_partition_moves_total",
        "counter",
        "Partitions of this node: adopted, failed (to adopt), refused (their journal is lost), overdue, released, lost",
        "move",
    )
    LEASES_LAPSED = Spec(
        "heliograph_leases_lapsed_total", "counter", "Times this node could not renew its lease and gave up everything"
    )
    BEATS_MISSED = Spec(
        "heliograph_beats_missed_total", "counter", "Times this node's lease could not be renewed at once"
    )
    # --- notifiers
    NOTIFIER_OK = Spec("heliograph_notifier_ok_total", "counter", "Notifications a notifier took", "notifier")
    NOTIFIER_RETRY = Spec("heliograph_notifier_retry_total", "counter", "Notifier failures for now", "notifier")
    NOTIFIER_DEAD = Spec("heliograph_notifier_dead_total", "counter", "Notifier failures for good", "notifier")
    NOTIFIER_QUEUE_FULL = Spec(
        "heliograph_notifier_queue_full_total", "counter", "Times a notifier's queue was full (tried later)", "notifier"
    )
    NOTIFIER_QUEUED = Spec("heliograph_notifier_queued", "gauge", "Calls that wait for a notifier", "notifier")
    CIRCUITS_OPENED = Spec(
        "heliograph_circuits_opened_total",
        "counter",
        "Times a lane of a notifier was left alone for its failures",
        "notifier",
    )
    NOTIFIER_OUTCOMES = Spec(
        "heliograph_notifier_outcomes_total",
        "counter",
        "What upstreams answered, by notifier and reason (docs/notifiers.md)",
        "outcome",
    )
    NOTIFIER_LANES = Spec("heliograph_notifier_lanes", "gauge", "Lanes that are busy or have to rest", "notifier")
    NOTIFIER_RESTS = Spec(
        "heliograph_notifier_rests_total", "counter", "Times a lane had to rest, for any reason", "notifier"
    )
    NOTIFIER_BOUNDS = Spec(
        "heliograph_notifier_bounds_total",
        "counter",
        "Times a bound of a notifier was reached, by notifier and bound",
        "bound",
    )
    SMSC_LINKS = Spec("heliograph_smsc_links", "gauge", "SMSCs the gateway is bound to")
    SMSC_ENDED = Spec("heliograph_smsc_ended_total", "counter", "Connections to SMSCs that ended, by reason", "reason")
    SMS_PARTS = Spec("heliograph_sms_parts_total", "counter", "Short messages SMSCs took")
    SMS_PENDING = Spec("heliograph_sms_pending", "gauge", "Short messages that wait for their receipt")
    SMS_RECEIPTS = Spec("heliograph_sms_receipts_total", "counter", "Receipts of SMSCs, by what they led to", "result")
    SMS_INCOMING = Spec(
        "heliograph_sms_incoming_total", "counter", "Other messages and alerts from SMSCs, by kind", "kind"
    )
    OTA_MESSAGES = Spec(
        "heliograph_ota_messages_total",
        "counter",
        "Messages to cards: taken, unanswered, later or refused, and what became of those that were taken",
        "fate",
    )
    OTA_SMS_IN = Spec(
        "heliograph_ota_sms_in_total",
        "counter",
        "Short messages that came in, as they may be a card's: with a header, without, or of no use",
        "kind",
    )
    DIAMETER_PEERS = Spec("heliograph_diameter_peers", "gauge", "Diameter peers that can be asked", "peer")
    DIAMETER_ENDED = Spec(
        "heliograph_diameter_ended_total", "counter", "Connections to Diameter peers that ended, by reason", "reason"
    )
    DIAMETER_REQUESTS = Spec(
        "heliograph_diameter_requests_total",
        "counter",
        "Diameter requests of the gateway, by interface and result",
        "result",
    )
    DIAMETER_MALFORMED = Spec(
        "heliograph_diameter_malformed_total", "counter", "Messages of Diameter peers that could not be read"
    )
    MAPPING_CACHE = Spec(
        "heliograph_mapping_cache_total",
        "counter",
        "Look-ups in what the HSS said before, by result (hit, miss, full)",
        "result",
    )
    IMS_LINKS = Spec("heliograph_ims_links", "gauge", "SIP servers the gateway is connected to (C14)")
    IMS_LINKS_ENDED = Spec(
        "heliograph_ims_links_ended_total", "counter", "Connections to SIP servers that ended, by reason", "reason"
    )
    IMS_HELD = Spec("heliograph_ims_held", "gauge", "Requests that SIP servers hold for a page")
    IMS_CALLS = Spec(
        "heliograph_ims_calls_total",
        "counter",
        "Requests held by SIP servers, by what became of them: held, then paged, then one of the others",
        "result",
    )
    IMS_EVENTS = Spec("heliograph_ims_events_total", "counter", "Odd messages of SIP servers, by kind", "kind")
    TRIGGERS_PENDING = Spec("heliograph_triggers_pending", "gauge", "Device triggers whose report has not come")
    TRIGGER_REPORTS = Spec(
        "heliograph_trigger_reports_total", "counter", "Device triggers by what became of them", "result"
    )
    TRIGGER_CALLBACKS = Spec(
        "heliograph_trigger_callbacks_total",
        "counter",
        "What came to the listener for the network's reports, by what it led to",
        "result",
    )
    TRIGGER_WATCHES = Spec(
        "heliograph_trigger_watches_total",
        "counter",
        "Devices that the network was asked to watch until they can be reached, by what it led to",
        "result",
    )
    RADIUS_REQUESTS = Spec(
        "heliograph_radius_requests_total", "counter", "Accounting requests, by what came of them", "result"
    )
    RADIUS_SESSIONS = Spec("heliograph_radius_sessions", "gauge", "Sessions in RAM that accounting told of")
    IP_DATAGRAMS = Spec("heliograph_ip_datagrams_total", "counter", "CoAP requests sent to terminals, again or not")
    IP_REQUERIES = Spec(
        "heliograph_ip_requeries_total", "counter", "Questions for who was off line, by result", "result"
    )
    SERVICE_PAGES = Spec("heliograph_service_pages_total", "counter", "Service pages taken, by bearer", "bearer")
    SERVICE_ACCESS = Spec(
        "heliograph_service_access_total", "counter", "Service access requests looked at, by result", "result"
    )
    NOTIFIER_TOKENS = Spec(
        "heliograph_notifier_tokens_total",
        "counter",
        "Access or provider tokens made or fetched, by notifier",
        "notifier",
    )

    T8_REPORTS = Spec(
        "heliograph_t8_reports_total",
        "counter",
        "Delivery reports of the T8 door: told, given_up, or why a try failed",
        "result",
    )

    # --- identity
    SUBSCRIBER_IDS = Spec(
        "heliograph_subscriber_ids_total", "counter", "Opaque ids drawn for subscribers, by trigger (C4)", "trigger"
    )
    SUBSCRIBER_REFUSED = Spec(
        "heliograph_subscriber_refused_total", "counter", "Requests for opaque ids refused, by reason", "reason"
    )
    SUBSCRIBER_LOOKUPS = Spec(
        "heliograph_subscriber_lookups_total", "counter", "Opaque ids looked up, by result (found, none)", "result"
    )
    PAGING_ONLY = Spec(
        "heliograph_paging_only_total",
        "counter",
        "Paging-only registrations of subscribers: made, renewed, claimed, claim_refused, ended",
        "event",
    )

    # --- cards: calls, capability, downloads
    OTA_INCOMING = Spec(
        "heliograph_ota_incoming_total",
        "counter",
        "Messages from cards: answer, check_request, part, or why one was not taken",
        "kind",
    )
    OTA_CALLS = Spec("heliograph_ota_calls_total", "counter", "Calls of cards, by how they ended (E4)", "ending")
    OTA_CALL_SECONDS = Spec(
        "heliograph_ota_call_seconds",
        "histogram",
        "Time from PUSH to the open link",
        "",
        (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
    )
    OTA_COUNTER_JUMPS = Spec(
        "heliograph_ota_counter_jumps_total", "counter", "Times a card was ahead of the counters known for it"
    )
    OTA_CHECKS = Spec("heliograph_ota_checks_total", "counter", "Capability checks, by what they led to (E5)", "result")
    OTA_DOWNLOADS = Spec("heliograph_ota_downloads_total", "counter", "Downloads that are over, by state", "state")
    OTA_DOWNLOAD_EVENTS = Spec(
        "heliograph_ota_download_events_total", "counter", "What happened to downloads, by event (docs/ota.md)", "event"
    )
    OTA_PACKETS = Spec(
        "heliograph_ota_packets_total", "counter", "Packets of downloads, by what became of them", "result"
    )
    OTA_RESUMES = Spec(
        "heliograph_ota_resumes_total", "counter", "Transfers that went on where an older one ended, by how", "how"
    )
    OTA_ACTIVE = Spec("heliograph_ota_active", "gauge", "Calls and transfers under way, by kind", "kind")
    OTA_WAITING = Spec("heliograph_ota_waiting", "gauge", "Downloads in RAM that wait for their next try")
    OTA_BOUNDS = Spec(
        "heliograph_ota_bounds_total", "counter", "Times a bound of what is done for cards was reached", "bound"
    )
    OTA_CAMPAIGNS = Spec(
        "heliograph_ota_campaigns_total",
        "counter",
        "Campaigns, by what became of them: created, done, stopped, canary_failed, resumed, broken",
        "event",
    )
    OTA_CAMPAIGN_RELEASED = Spec(
        "heliograph_ota_campaign_released_total", "counter", "Participants of campaigns that were released"
    )
    OTA_CAMPAIGN_WAITS = Spec(
        "heliograph_ota_campaign_waits_total",
        "counter",
        "Times a campaign could release none for now: pace, at_once, engine, canary, out, asked, store",
        "reason",
    )
    IM_ASKED = Spec("heliograph_im_asked_total", "counter", "What users of IM asked for and got", "operation")
    IM_UNPUSHED = Spec(
        "heliograph_im_unpushed_total",
        "counter",
        "Items that could not be pushed to a device, by error: it finds them in the log",
        "reason",
    )
    IM_ASKS_REFUSED = Spec(
        "heliograph_im_asks_refused_total",
        "counter",
        "What users of IM were refused, with the error's name",
        "operation",
    )

    # --- IM aggregation: users and what is theirs
    IM_CODES = Spec(
        "heliograph_im_codes_total",
        "counter",
        "One-time codes: sent, failed, right, wrong, or the limit that was reached (address, device, total)",
        "result",
    )
    IM_USERS = Spec("heliograph_im_users_total", "counter", "Users: made, signed_in, signed_out, removed", "event")
    IM_ACCOUNTS = Spec(
        "heliograph_im_accounts_total", "counter", "Bound accounts: bound, changed, unbound, refused", "event"
    )
    IM_FRIENDS = Spec(
        "heliograph_im_friends_total",
        "counter",
        "Friend requests: asked, nobody (absent, hidden, blocked or known alike), accepted, refused, full, limit",
        "event",
    )
    IM_DISCOVERY = Spec(
        "heliograph_im_discovery_numbers_total",
        "counter",
        "Numbers asked for in address books: asked, found, unreadable, limit",
        "result",
    )

    # --- IM aggregation: who is connected, what goes in and out
    IM_SESSIONS = Spec("heliograph_im_sessions", "gauge", "Accounts with a session on their network")
    IM_LINES = Spec("heliograph_im_lines", "gauge", "Accounts that are to be connected, connected or not")
    IM_CONNECTS_WAITING = Spec(
        "heliograph_im_connects_waiting", "gauge", "Accounts that wait for their turn to connect"
    )
    IM_HOSTS_RESTING = Spec("heliograph_im_hosts_resting", "gauge", "Hosts that only one account at a time tries now")
    IM_CONNECTS = Spec(
        "heliograph_im_connects_total",
        "counter",
        "Tries to connect an account: connected, auth_failed, transient, rejected, cursor_forgotten",
        "result",
    )
    IM_ENDED = Spec(
        "heliograph_im_sessions_ended_total",
        "counter",
        "Sessions that ended: lost, auth_failed, rejected, cursor_forgotten, closed",
        "reason",
    )
    IM_FAULTS = Spec(
        "heliograph_im_faults_total", "counter", "What a connector raised and must not, by network", "network"
    )
    IM_SHED = Spec("heliograph_im_shed_total", "counter", "Times an account was not kept connected: im.max_sessions")
    IM_EVENTS = Spec("heliograph_im_events_total", "counter", "What networks brought, by kind", "kind")
    IM_STORE_WAITS = Spec(
        "heliograph_im_store_waits_total", "counter", "Times an account waited for the store to write"
    )
    IM_FILES = Spec("heliograph_im_files_total", "counter", "Incoming files: taken, refused, unreachable", "result")
    IM_ACCEPTED = Spec("heliograph_im_accepted_total", "counter", "Messages and acts accepted, by network", "network")
    IM_REFUSED = Spec("heliograph_im_refused_total", "counter", "Recipients refused at once, by error name", "error")
    IM_TRIES = Spec(
        "heliograph_im_tries_total",
        "counter",
        "Tries to send: sent, transient, in_doubt, rejected, auth_failed",
        "result",
    )
    IM_RESULTS = Spec(
        "heliograph_im_results_total",
        "counter",
        "Messages and acts that are over: sent, failed, expired, unbound",
        "result",
    )
    IM_DROPPED = Spec(
        "heliograph_im_dropped_total",
        "counter",
        "What is never kept and could not be told: typing, presence, delivered",
        "what",
    )

    # --- IM: media
    IM_MEDIA_TAKEN = Spec("heliograph_im_media_taken_total", "counter", "Files taken into the media store", "type")
    IM_MEDIA_REFUSED = Spec(
        "heliograph_im_media_refused_total", "counter", "Files that were not taken, by reason", "reason"
    )
    IM_MEDIA_REMOVED = Spec(
        "heliograph_im_media_removed_total",
        "counter",
        "Files that a user no longer has, by reason (age, user_bytes, total_bytes), and files nobody knew (orphan)",
        "reason",
    )
    IM_MEDIA_BYTES = Spec("heliograph_im_media_bytes", "gauge", "Bytes of the media store, in whole blocks")
    IM_MEDIA_SERVED = Spec(
        "heliograph_im_media_served_total", "counter", "Media asked for over HTTP, by way and result", "result"
    )
    IM_PICTURE_WORKERS_LOST = Spec(
        "heliograph_im_picture_workers_lost_total",
        "counter",
        "Processes that looked at a picture and died or were ended, by reason",
        "reason",
    )
    IM_UPLOADS = Spec("heliograph_im_uploads", "gauge", "Uploads that are not over")
    IM_UPLOADS_ENDED = Spec(
        "heliograph_im_uploads_ended_total", "counter", "Uploads that are over, by result", "result"
    )

    # --- IM aggregation: mails for the service's own domain
    IM_MAILS = Spec(
        "heliograph_im_mails_total",
        "counter",
        "Mails at the mail listener, by recipient: taken, or why not (unknown, relay, loop, large, busy, store, fault)",
        "result",
    )
    IM_MAIL_CUT = Spec(
        "heliograph_im_mail_connections_cut_total",
        "counter",
        "Connections refused or cut by the mail listener, by reason",
        "reason",
    )
    IM_RATES_FORGOTTEN = Spec(
        "heliograph_im_rates_forgotten_total",
        "counter",
        "Counts of what a user may ask for in a day that began anew because too many were kept, by what is counted",
        "what",
    )
    IM_MAIL_FILES = Spec(
        "heliograph_im_mail_files_total",
        "counter",
        "Files of mails for the own domain: taken, refused, left_out",
        "result",
    )

    # --- a fleet: providers at any node
    FLEET_UNREACHABLE = Spec(
        "heliograph_fleet_unreachable_total",
        "counter",
        "Requests to the owner of a partition that got no answer, by reason: nobody's, refused, held up, full, "
        "no answer",
        "reason",
    )
    FLEET_APPS_LATE = Spec(
        "heliograph_fleet_apps_late_total",
        "counter",
        "Nodes that could not be told of a change of an app before it was answered; they find out by themselves",
    )
    FLEET_FEED_HELD = Spec(
        "heliograph_fleet_feed_held_total",
        "counter",
        "Times a feed was held back because a partition could not be asked; it goes on where it was, without a gap",
    )

    @property
    def spec(self) -> Spec:
        return self.value
