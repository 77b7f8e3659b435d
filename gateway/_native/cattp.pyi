from typing import Any, Final, final

#: why a link is closed, as CLOSED says it: those of gateway.ota.cattp.Cause, `replaced` by a newer link of the same
#: identification, `stopped` with the server
CAUSES: Final[tuple[str, ...]]
#: why an SDU was refused: `gone` (no such link, or it is closing), `size` (empty, or larger than the peer takes),
#: `queue` (queued_bytes wait for the peer's window), `memory` (busy_bytes are held for all links together)
REFUSALS: Final[tuple[str, ...]]
#: every datagram that came is one of linked, malformed, foreign, version, stray, not_admitted, illegal, half_open_full,
#: full; links, half_open, open, expected, busy and busy_bytes are gauges
COUNTERS: Final[tuple[str, ...]]
EVENT_OPENED: Final[int]
EVENT_RECEIVED: Final[int]
EVENT_DELIVERED: Final[int]
EVENT_CLOSED: Final[int]
EVENT_REFUSED: Final[int]
EVENT_UNEXPECTED: Final[int]
#: bytes of one link's struct, and of the identification it came with
LINK_BYTES: Final[int]
EXPECTED_BYTES: Final[int]

@final
class CattpServer:
    """The CAT_TP server: one UDP socket, one thread. `run` belongs to its own thread, everything else to the control
    thread.

    Commands return False when the mailbox is full: nothing was queued then. A link is known by a number that is never
    given again soon; the cookie is the control thread's own name for who is expected.
    """
    @property
    def event_fd(self) -> int:
        """Readable when `drain` has something."""
    def __init__(
        self,
        fd: int,
        event_fd: int,
        command_fd: int,
        *,
        local_port: int,
        max_links: int,
        max_half_open: int,
        max_pdu: int = 1400,
        max_sdu: int = 4096,
        window: int = 10,
        flight: int = 10,
        queued_bytes: int = 262_144,
        rto_first_ms: int = 3000,
        rto_least_ms: int = 2000,
        rto_most_ms: int = 60_000,
        retries: int = 10,
        opening_retries: int = 5,
        keep_alive_ms: int = 1_200_000,
        idle_ms: int = 120_000,
        zero_window_ms: int = 120_000,
        close_wait_ms: int = 10_000,
        max_expected: int = 0,
        busy_bytes: int = 1 << 28,
        refusals_per_s: int = 1000,
        amplification: int = 3,
        mailbox_bytes: int = 1 << 22,
        seed: int = 0,
        first: int = -1,
        uptime_ms: int = 0,
    ) -> None:
        """`fd`: a bound, non-blocking UDP socket (IPv4, or IPv6 that takes both), which stays the caller's; two
        eventfds of the control thread. `local_port`: the CAT_TP port. From `max_pdu` to `close_wait_ms` as in
        gateway.ota.cattp.Limits. `max_expected` 0: as many as links. `busy_bytes`: most that is held for all links
        together (SDUs that wait, PDUs out of order, SDUs in parts). `amplification`: a half-open link is sent at most
        so many times what came from it. `seed`: 64 random bits. For tests: `first`, every link's first number, and
        `uptime_ms`, as if it ran for so long. ValueError names what is out of range."""
    def run(self) -> None:
        """Serve until `stop`; without the GIL. Every open link is then closed as `stopped`, and its peer told."""
    def step(self, datagrams: list[tuple[bytes, bytes, int]], now_ms: int) -> list[tuple[bytes, bytes, int]]:
        """Without socket and thread (fd -1), for tests: carry out the commands, take these datagrams (bytes, 16 bytes
        of address, IPv4 as ::ffff:a.b.c.d, and UDP port), do what is due at now_ms. What goes out, in the same form."""
    def expect(self, identification: bytes, cookie: int, valid_ms: int) -> bool:
        """From now on, for so long, a SYN with this identification (1 to 16 bytes) is taken, and its link's events
        carry the cookie. Again with the same cookie: the time begins anew."""
    def forget(self, identification: bytes) -> bool:
        """No SYN with it is taken any more, and none of its half-open links opens; one that is open stays."""
    def send(self, link: int, sdu: bytes, cookie: int = 0) -> bool:
        """An SDU; DELIVERED says when it is there, REFUSED (with this cookie) that nothing of it was sent."""
    def close(self, link: int) -> bool:
        """Once all that was given to `send` is there."""
    def abort(self, link: int, reason: int) -> bool:
        """At once, with this reason in the RST."""
    def stop(self) -> bool: ...
    def drain(self, limit: int = 4096) -> tuple[list[tuple[int, int, int, Any, Any, Any]], bool]:
        """(events, more): events as (kind, link, cookie, a, b, c), those of one link in order. OPENED a=largest PDU and
        b=largest SDU of the peer; RECEIVED a=SDU; DELIVERED a=so many further SDUs are there, oldest first; CLOSED
        a=cause b=reason of the RST c=SDUs not known to be there, the last event of a link; REFUSED a=why; UNEXPECTED
        (link 0): the cookie's identification could not be expected, there are max_expected already.
        more: call again; when False, event_fd will tell."""
    def counters(self) -> dict[str, int]:
        """COUNTERS by name, closed links as `closed:<cause>`."""
    @property
    def link_bytes(self) -> int:
        """Bytes allocated for links and expected identifications, tables included; exact only while the thread rests.
        What links hold while something is under way is the counter `busy_bytes`."""
    @property
    def mailbox_bytes(self) -> int:
        """Size of the mailbox up."""
    @property
    def step_bytes(self) -> int:
        """Room in it without which no datagram is read."""
