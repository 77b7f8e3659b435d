from collections.abc import Callable, Mapping
from typing import Any, Final, final

from gateway._native.batches import Batches
from gateway._native.far_records import HomeTable
from gateway._native.tls_context import TlsContext

REASONS: Final[tuple[str, ...]]
COUNTERS: Final[tuple[str, ...]]
EVENT_FRAME: Final[int]
EVENT_TIMEOUT: Final[int]
EVENT_LOST: Final[int]
EVENT_READY: Final[int]
EVENT_DOWN: Final[int]
EVENT_DRAINED: Final[int]
EVENT_LATE: Final[int]
EVENT_FANNED: Final[int]
EVENT_ECHO: Final[int]
LINK_BYTES: Final[int]

@final
class Reactor:
    """One reactor. `open` and `run` belong to its own thread, everything else to the control thread.

    Commands return False when the mailbox is full: nothing was queued then.
    """
    @property
    def index(self) -> int: ...
    @property
    def event_fd(self) -> int:
        """Readable when `drain` has something."""
    def __init__(
        self,
        index: int,
        event_fd: int,
        command_fd: int,
        last_words: Mapping[str, bytes],
        *,
        mailbox_bytes: int,
        max_links: int,
        login_ms: int,
        login_frame_bytes: int,
        max_frame_bytes: int,
        outbox_bytes: int,
        slow_ms: int,
        provider_frame_bytes: int = 0,
        linger_ms: int = 2000,
        logins_per_s: int = 0,
        window: int = 4096,
        uptime_ms: int = 0,
        tls: TlsContext | None = None,
        proxies: list[tuple[bytes, int]] | None = None,
        handshakes: int = 10_000,
    ) -> None:
        """Two eventfds made by the control thread; `last_words`: reason name → frame sent before the close;
        `uptime_ms`: as if it ran for so long already. `tls`: what handshakes on the TLS port begin with, so
        many (`handshakes`) at once. `proxies`: on
        the plain port a PROXY header comes first, from peers in these networks alone, (16 bytes, bits), IPv4 as
        ::ffff:a.b.c.d. The mailbox up is at least as large as its largest step needs."""
    def open(self, listen: Callable[[], int] | None, listen_tls: Callable[[], int] | None = None) -> None:
        """Take a descriptor table of one's own, then `listen()` and `listen_tls()` → listening, non-blocking sockets'
        descriptors; None: that door stays shut."""
    def run(self) -> None:
        """Serve until `stop`; without the GIL."""
    def send(self, link: int, frame: bytes) -> bool: ...
    def welcome(
        self, link: int, device: int, silence_ms: int, window: int, frame: bytes, is_provider: bool = False
    ) -> bool:
        """The login was accepted: the link is live, and `silence_ms` without a byte ends it. A provider's may send
        frames of `provider_frame_bytes`, and no acks."""
    def notify(
        self, link: int, frame: bytes, seq: int, registration: int, ack_ms: int, again: bool = False
    ) -> bool: ...
    def fanout(self, groups: list[int], frame: bytes, seq: int, ack_ms: int, urgency: int = 3) -> bool:
        """To every link in these groups whose floor is not above the urgency; ack_ms 0: a recall, which cancels `seq`
        and sends the frame unacked."""
    def bind(self, link: int, group: int, registration: int) -> bool: ...
    def unbind(self, link: int, registration: int) -> bool:
        """Leave its group; what is unacked for it comes back as lost."""
    def cancel(self, link: int, seq: int, registration: int, frame: bytes | None = None) -> bool:
        """Forget an unacked notification (no event follows) and send `frame`."""
    def hold(self, link: int) -> bool:
        """More waits for this link, and nothing but what is in flight is sent to it until EVENT_READY says there is
        room."""
    def echo(self, link: int) -> bool:
        """EVENT_ECHO comes when all commands before this one were carried out, after all that came of them."""
    def close(self, link: int, frame: bytes | None = None) -> bool: ...
    def set_silence(self, link: int, silence_ms: int) -> bool: ...
    def set_floor(self, link: int, urgency: int) -> bool:
        """Broadcasts below this urgency (0..3) are not sent on this link."""
    def drain_links(self, frames: list[bytes], over_ms: int, turns: bytes = b"\0") -> bool:
        """Stop accepting; send every link away, spread over the time; EVENT_DRAINED at the end. The frames take turns
        as `turns` says, places in `frames`, over and over."""
    def send_elsewhere(self, frames: list[bytes], turns: bytes = b"\0") -> bool:
        """What logins are told that are too many (`logins_per_s`, `refuse_logins`), in turn; no frames: the last words
        of `overloaded`."""
    def refuse_logins(self, refuse: bool) -> bool: ...
    def use_tls(self, context: TlsContext) -> bool:
        """Handshakes from now on are made with this; links that are there keep what they have."""
    def stop(self) -> bool: ...
    def drain(
        self,
        limit: int = 4096,
        batches: Batches | None = None,
        runs: list[tuple[int, bytes, int]] | None = None,
        homes: HomeTable | None = None,
    ) -> tuple[list[tuple[int, int, int, int, int, int]], list[tuple[int, int, Any, Any, Any]], bool]:
        """(acks, others, more): acks that `batches` could not settle as (seq, registration, sent_ms, acked_ms, flags,
        link); others as (kind, link, a, b, c): FRAME a=type b=body c=device (0 with HELLO); TIMEOUT a=seq
        b=registration; LOST a=seq b=registration c=spilled; LATE a=seq b=device c=flags; READY a=device b=room
        c=[(seq in flight, its registration)]; FANNED link=group a=seq b=links; DOWN a=device b=reason.
        more: call again; when False, event_fd will tell.
        `runs` gets acks in time of what is no pending delivery, a broadcast's: (seq, packed registrations, acked_ms)
        for those of one seq that follow each other. `homes` takes all acks, and is told before this returns."""
    @property
    def mailbox_bytes(self) -> int:
        """Size of the mailbox up."""
    @property
    def step_bytes(self) -> int:
        """Room in it without which no step is begun."""
    def counters(self) -> dict[str, int]:
        """Counters by name, ended links as `ended:<reason>`."""
    @property
    def memory_bytes(self) -> int:
        """Bytes taken for links, in-flight entries, outbox nodes and groups; exact only while the thread rests."""
