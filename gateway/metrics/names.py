"""Every metric the gateway exports; must never name a label that could hold a token, a device or an address.

`docs/metrics.md` is generated from it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Spec(NamedTuple):
    name: str
    kind: str  # counter, gauge, histogram
    help: str
    label: str = ""  # name of the one label, or none
    buckets: tuple[float, ...] = ()  # upper ends of a histogram's buckets, ascending, without +Inf


#: seconds, for everything between a memory copy and a slow network
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metric(Enum):
    # --- edge: links and frames (read from the reactors when scraped)
    LINKS = Spec("heliograph_links", "gauge", "Live device connections")
    LINKS_ACCEPTED = Spec("heliograph_links_accepted_total", "counter", "Device connections accepted")
    LINKS_REJECTED = Spec(
        "heliograph_links_rejected_total", "counter", "Device connections closed at accept, by reason", "reason"
    )
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
    SPILLED = Spec(
        "heliograph_spilled_total", "counter", "Notifications left in the journal for now, by reason", "reason"
    )
    OUTBOX_FULL = Spec("heliograph_outbox_full_total", "counter", "Times a link's outbox was full (it spills)")
    WINDOW_FULL = Spec(
        "heliograph_window_full_total", "counter", "Times a link's in-flight window was full (it spills)"
    )
    MAILBOX_FULL = Spec(
        "heliograph_mailbox_full_total", "counter", "Times a mailbox was full, by direction", "direction"
    )
    # --- delivery
    PUSHES = Spec("heliograph_pushes_total", "counter", "Pushes accepted, by kind of target", "target")
    PUSHES_REFUSED = Spec("heliograph_pushes_refused_total", "counter", "Pushes refused, by error name", "error")
    DELIVERIES = Spec("heliograph_deliveries_total", "counter", "Deliveries settled, by final state", "state")
    # --- store
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
    API_WATCHERS = Spec("heliograph_api_watchers", "gauge", "Receipt streams and waiting receipt requests")
    API_REPLAYS = Spec("heliograph_api_replays_total", "counter", "Pushes answered again for their idempotency key")
    # --- notifiers

    @property
    def spec(self) -> Spec:
        return self.value
