"""One CAT_TP link as a state machine, either side of it; must never read a clock, touch a socket or reorder its events.

Source: ETSI TS 102 127 §4 (states, variables, events), which is RFC 908 with other names. What goes in is a datagram,
an SDU or the time; what comes out is a list of outputs in the order in which they happened, and `due_ms`: when `tick`
wants to be called at the latest.

```
CLOSE --connect--> SYN-SENT --SYN/ACK--> OPEN        (the card)
LISTEN ---SYN----> SYN-RCVD ---ACK-----> OPEN        (the server)
OPEN --close, all sent is there--> RST out --> CLOSE-WAIT --time--> CLOSE
any --RST, in its window--> CLOSE-WAIT
```

A RST is not acknowledged (§4). So that a lost one ends the other side too, whoever sent it answers all that still comes
with it while in CLOSE-WAIT; after that the endpoint does, with `build_refusal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from gateway.ota.cattp_pdu import (
    ACK,
    EACK,
    HEAD_BYTES,
    MOST_EACKS,
    MOST_PDU_BYTES,
    RST,
    SYN,
    Opening,
    Pdu,
    Reason,
    build_pdu,
    build_refusal,
    parse_pdu,
)
from gateway.ota.cattp_receiving import Receiving, TooLarge, Verdict
from gateway.ota.cattp_sending import Clock, Sending, Sent
from gateway.ota.malformed import Malformed
from gateway.ota.sequence import distance


class State(Enum):
    CLOSE = "CLOSE"
    LISTEN = "LISTEN"
    SYN_SENT = "SYN-SENT"
    SYN_RCVD = "SYN-RCVD"
    OPEN = "OPEN"
    CLOSE_WAIT = "CLOSE-WAIT"


class Cause(Enum):
    """Why a link is closed."""

    ASKED = "asked"
    PEER = "peer"
    RETRIES = "retries"
    IDLE = "idle"
    ZERO_WINDOW = "zero_window"
    ILLEGAL = "illegal"


@dataclass(frozen=True, slots=True)
class Limits:
    #: largest PDU and SDU taken, bytes, header included; the peer is told, and a larger one ends the link
    max_pdu: int = 1_400
    max_sdu: int = 4_096
    #: PDUs taken past the last one in order, 1 to 118; the peer is told. Past it a PDU is dropped and acknowledged
    window: int = 10
    #: PDUs on their way at a time, whatever the peer's window, 1 to 118
    flight: int = 10
    #: bytes that wait for the window; `send` refuses more
    queued_bytes: int = 262_144
    #: wait for an acknowledgement: before a round trip was measured, at least, at most
    rto_first_ms: int = 3_000
    rto_least_ms: int = 2_000
    rto_most_ms: int = 60_000
    #: tries of one PDU without progress, after which the link ends with RST "retries"
    retries: int = 10
    #: the same for SYN and SYN/ACK
    opening_retries: int = 5
    #: ask the peer for a sign of life after so long without one; 0: never
    keep_alive_ms: int = 1_200_000
    #: close after so long without an SDU either way; 0: never
    idle_ms: int = 120_000
    #: a window of 0 that holds something up for so long ends the link with RST "temporary"
    zero_window_ms: int = 120_000
    #: how long CLOSE-WAIT answers what is late
    close_wait_ms: int = 10_000

    def __post_init__(self) -> None:
        """ValueError."""
        for name, least, most in (
            ("max_pdu", HEAD_BYTES + 1, MOST_PDU_BYTES),
            ("max_sdu", 1, 0xFFFF),
            ("window", 1, MOST_EACKS),
            ("flight", 1, MOST_EACKS),
            ("queued_bytes", 1, 1 << 30),
            ("rto_least_ms", 1, self.rto_most_ms),
            ("rto_first_ms", 1, self.rto_most_ms),
            ("retries", 1, 255),
            ("opening_retries", 1, 255),
            ("keep_alive_ms", 0, 1 << 40),
            ("idle_ms", 0, 1 << 40),
            ("zero_window_ms", 1, 1 << 40),
            ("close_wait_ms", 0, 1 << 40),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be {least} to {most}")


@dataclass(frozen=True, slots=True, repr=False)
class Transmit:
    """A datagram for the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """SDUs may go. What the peer's SYN said."""

    opening: Opening


@dataclass(frozen=True, slots=True, repr=False)
class Received:
    """A whole SDU, the next in order."""

    sdu: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """So many further SDUs of ours are there, the oldest first."""

    sdus: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The last event of a link. `reason` is that of the RST, `undelivered` our SDUs not known to be there."""

    cause: Cause
    reason: int
    undelivered: int


Output = Transmit | Opened | Received | Delivered | Closed


class Refused(Exception):
    """The link does not take this SDU now: it is not open, is closing, has too much queued, or the SDU is too large for
    the peer. Nothing of it was sent."""


class Link:
    """`first` is the first number of our side, best a random one. `identification` is what our SYN says (the card's);
    an `admit` of the server says whose SYN is taken: who is not admitted gets no answer."""

    def __init__(
        self,
        limits: Limits,
        local_port: int,
        first: int,
        *,
        remote_port: int = 0,
        identification: bytes = b"",
        admit: Callable[[bytes], bool] = lambda _identification: True,
    ) -> None:
        self.state = State.CLOSE
        self.local_port, self.remote_port = local_port, remote_port
        self.limits = limits
        #: what happened, by name: resent, duplicate, outside, malformed, ...
        self.counts: Counter[str] = Counter()
        self._first = first
        self._identification = identification
        self._admit = admit
        self._window = limits.window
        self._sending = Sending(
            first, limits.flight, Clock(limits.rto_first_ms, limits.rto_least_ms, limits.rto_most_ms)
        )
        self._receiving: Receiving | None = None
        self._peer: Opening | None = None
        self._closing: Cause | None = None
        #: the RST that CLOSE-WAIT answers with; none where the peer sent one
        self._farewell: Reason | None = None
        self._out: list[Output] = []
        self._now_ms = 0
        # opening: sent when, how often
        self._opening_ms, self._opening_tries = 0, 0
        self._heard_ms = self._active_ms = self._until_ms = 0

    # --- what the application does ---------------------------------------------------------------------------------

    def connect(self, now_ms: int) -> list[Output]:
        """Active open (the card)."""
        self._expect(State.CLOSE)
        self._now_ms = now_ms
        self.state = State.SYN_SENT
        self._send_opening()
        return self._take()

    def listen(self) -> None:
        """Passive open (the server)."""
        self._expect(State.CLOSE)
        self.state = State.LISTEN

    def _expect(self, state: State) -> None:
        if self.state is not state or self._farewell is not None or self._peer is not None:
            raise Refused(f"the link is in {self.state.value}, or was used before")

    @property
    def most_sdu_bytes(self) -> int:
        """What the peer takes as one SDU; 0 before it said so."""
        return self._peer.max_sdu if self._peer is not None else 0

    def send(self, sdu: bytes, now_ms: int) -> list[Output]:
        """Refused."""
        if self.state is not State.OPEN or self._closing is not None:
            raise Refused("the link is not open")
        if not 0 < len(sdu) <= self.most_sdu_bytes:
            raise Refused(f"an SDU has 1 to {self.most_sdu_bytes} bytes for this peer")
        if self._sending.queued_bytes + len(sdu) > self.limits.queued_bytes:
            raise Refused("too much waits for the peer's window")
        self._now_ms = self._active_ms = now_ms
        self._sending.offer(sdu, now_ms)
        self._advance()
        return self._take()

    def set_window(self, pdus: int, now_ms: int) -> list[Output]:
        """Take so many PDUs past the last one in order from now on, 0 to the limit; the peer is told at once."""
        if not 0 <= pdus <= self.limits.window:
            raise ValueError(f"a window is 0 to {self.limits.window}")
        self._now_ms = now_ms
        changed = pdus != self._window
        self._window = pdus
        if self._receiving is not None:
            self._receiving.window = pdus
            if changed and self.state is State.OPEN:
                self._acknowledge()
        return self._take()

    def close(self, now_ms: int) -> list[Output]:
        """Close once all that was given to `send` is there; at once where the link is not open."""
        self._now_ms = now_ms
        if self.state is State.OPEN:
            self._close_when_done(Cause.ASKED)
        elif self.state in (State.SYN_SENT, State.SYN_RCVD):
            self._end(Cause.ASKED, Reason.NORMAL)
        elif self.state is State.LISTEN:
            self.state = State.CLOSE
        return self._take()

    def abort(self, reason: Reason, now_ms: int) -> list[Output]:
        """Close at once, whatever is on its way."""
        self._now_ms = now_ms
        if self.state in (State.SYN_SENT, State.SYN_RCVD, State.OPEN):
            self._end(Cause.ASKED, reason)
        elif self.state is State.LISTEN:
            self.state = State.CLOSE
        return self._take()

    # --- time ------------------------------------------------------------------------------------------------------

    @property
    def due_ms(self) -> int | None:
        """When `tick` has something to do; None: never."""
        if self.state in (State.SYN_SENT, State.SYN_RCVD):
            return self._opening_ms + self._sending.clock.wait_ms(self._opening_tries)
        if self.state is State.CLOSE_WAIT:
            return self._until_ms
        if self.state is not State.OPEN:
            return None
        waits = (self._sending.due_ms(self._now_ms), self._probe_ms(), self._zero_ms())
        times = [time for time in waits if time is not None]
        if self.limits.keep_alive_ms and self._sending.is_silent:
            times.append(self._heard_ms + self.limits.keep_alive_ms)
        if self.limits.idle_ms and self._closing is None:
            times.append(self._active_ms + self.limits.idle_ms)
        return min(times) if times else None

    def _probe_ms(self) -> int | None:
        if not self._sending.waits_for_window:
            return None
        return (self._sending.closed_since_ms or 0) + self._sending.clock.rto_ms

    def _zero_ms(self) -> int | None:
        since = self._sending.closed_since_ms
        return None if since is None or self._sending.is_idle else since + self.limits.zero_window_ms

    def tick(self, now_ms: int) -> list[Output]:
        """Do what is due. Harmless where nothing is."""
        self._now_ms = now_ms
        if self.state in (State.SYN_SENT, State.SYN_RCVD):
            if now_ms >= (self.due_ms or 0):
                if self._opening_tries > self.limits.opening_retries:
                    self._end(Cause.RETRIES, Reason.RETRIES)
                else:
                    self.counts["resent"] += 1
                    self._send_opening()
        elif self.state is State.CLOSE_WAIT:
            if now_ms >= self._until_ms:
                self.state = State.CLOSE
        elif self.state is State.OPEN:
            self._tick_open(now_ms)
        return self._take()

    def _tick_open(self, now_ms: int) -> None:
        zero, probe = self._zero_ms(), self._probe_ms()
        if zero is not None and now_ms >= zero:
            return self._end(Cause.ZERO_WINDOW, Reason.TEMPORARY)
        if self.limits.idle_ms and self._closing is None and now_ms >= self._active_ms + self.limits.idle_ms:
            self._close_when_done(Cause.IDLE)
            if self.state is not State.OPEN:
                return None
        if not self._resend():
            return None
        asks = self.limits.keep_alive_ms and now_ms >= self._heard_ms + self.limits.keep_alive_ms
        if (probe is not None and now_ms >= probe) or (asks and self._sending.is_silent):
            self.counts["probes"] += 1
            self._transmit_sent(self._sending.probe())
        return None

    # --- what the peer says ----------------------------------------------------------------------------------------

    def handle(self, datagram: bytes, now_ms: int) -> list[Output]:
        """A datagram of the peer. What is no PDU is dropped and counted."""
        try:
            pdu = parse_pdu(datagram)
        except Malformed:
            self.counts["malformed"] += 1
            return []
        return self.handle_pdu(pdu, now_ms)

    def handle_pdu(self, pdu: Pdu, now_ms: int) -> list[Output]:
        self._now_ms = now_ms
        if pdu.destination != self.local_port or (self.state is not State.LISTEN and pdu.source != self.remote_port):
            self.counts["foreign"] += 1
            if self.state is State.LISTEN:
                self._refuse(pdu, Reason.PORT)
        elif pdu.version:
            self.counts["version"] += 1
            if self.state is State.LISTEN:
                self._refuse(pdu, Reason.VERSION)
        else:
            on_pdu = {
                State.LISTEN: self._on_listen,
                State.SYN_SENT: self._on_syn_sent,
                State.SYN_RCVD: self._on_syn_rcvd,
                State.OPEN: self._on_open,
                State.CLOSE_WAIT: self._on_close_wait,
            }.get(self.state)
            if on_pdu is not None:
                on_pdu(pdu)
        return self._take()

    def _on_listen(self, pdu: Pdu) -> None:
        if pdu.opening is None or pdu.flags & ACK:
            self._refuse(pdu, Reason.UNEXPECTED_PDU)
        elif not self._admit(pdu.opening.identification):
            self.counts["not_admitted"] += 1
        elif self._meet(pdu, pdu.opening):
            self.remote_port = pdu.source
            self.state = State.SYN_RCVD
            self._send_opening()

    def _on_syn_sent(self, pdu: Pdu) -> None:
        is_ours = bool(pdu.flags & ACK) and pdu.acknowledgement == self._first
        if pdu.flags & RST:
            if is_ours:
                self._end_by_peer(pdu.reason)
        elif pdu.flags & ACK and not is_ours:
            self._refuse(pdu, Reason.UNEXPECTED_PDU)  # an answer to an older SYN of this port
        elif pdu.opening is None:
            self.counts["unexpected"] += 1
        elif self._meet(pdu, pdu.opening):
            if is_ours:
                self._open(pdu)
                self._acknowledge()
            else:  # both called at a time
                self.state = State.SYN_RCVD
                self._opening_tries = 0
                self._send_opening()

    def _on_syn_rcvd(self, pdu: Pdu) -> None:
        receiving = self._receiving
        assert receiving is not None
        if pdu.flags & RST:
            self._on_rst(pdu, receiving)
        elif pdu.opening is not None and not pdu.flags & ACK:
            self.counts["duplicate"] += 1
            # the same again: our answer was lost. Another number: the peer started again
            if pdu.sequence == receiving.current or (
                self._admit(pdu.opening.identification) and self._meet(pdu, pdu.opening)
            ):
                self._answer_opening()
        elif pdu.acknowledgement != self._first:
            self._refuse(pdu, Reason.UNEXPECTED_PDU)
        elif pdu.opening is None or pdu.sequence == receiving.current:
            self._open(pdu)
            self._on_open(pdu)

    def _on_open(self, pdu: Pdu) -> None:
        receiving, sending = self._receiving, self._sending
        assert receiving is not None
        if pdu.flags & RST:
            return self._on_rst(pdu, receiving)
        if pdu.flags & SYN:
            # a late copy, or our ACK was lost, or a forged one, or the peer started again: an acknowledgement is right
            # for all, for who started again answers it with a RST (as RFC 5961 §4 does for TCP)
            self.counts["duplicate"] += 1
            return self._acknowledge()
        if not sending.is_possible(pdu.acknowledgement):
            self.counts["impossible"] += 1
            return self._acknowledge()
        self._heard_ms = self._now_ms
        done = sending.settle(pdu, self._now_ms)
        if done:
            self._active_ms = self._now_ms
            self._out.append(Delivered(done))
        owes = False
        if pdu.consumes:
            owes = True
            try:
                verdict, sdus = receiving.take(pdu)
            except TooLarge:
                return self._end(Cause.ILLEGAL, Reason.ILLEGAL_PARAMETERS)
            if verdict is not Verdict.TAKEN:
                self.counts[verdict.name.lower()] += 1
            for sdu in sdus:
                self._active_ms = self._now_ms
                self._out.append(Received(sdu))
        if not self._resend():
            return None
        if self._advance() and not receiving.gaps:
            owes = False  # data said it along the way
        if owes:
            self._acknowledge()
        self._close_if_done()
        return None

    def _on_close_wait(self, pdu: Pdu) -> None:
        if pdu.flags & RST:
            self.state = State.CLOSE  # both know
        elif self._farewell is not None:
            self.counts["late"] += 1
            self._send_rst(self._farewell)

    def _on_rst(self, pdu: Pdu, receiving: Receiving) -> None:
        # a forged one would have to guess the number (§4: it is checked as that of any other)
        # past the window there may be a NUL, and the RST is the next
        if distance(receiving.current, pdu.sequence) > self.limits.window + 2:
            self.counts["outside"] += 1
            return
        self._end_by_peer(pdu.reason)

    def _meet(self, pdu: Pdu, opening: Opening) -> bool:
        """Note what a SYN says; False: it makes no sense, and the peer was told so."""
        if opening.max_pdu <= HEAD_BYTES or opening.max_sdu == 0:
            self.counts["illegal"] += 1
            if self.state is State.LISTEN:
                self._refuse(pdu, Reason.ILLEGAL_PARAMETERS)
            else:
                self._end(Cause.ILLEGAL, Reason.ILLEGAL_PARAMETERS)
            return False
        self._peer = opening
        self._receiving = Receiving(pdu.sequence, self._window, self.limits.max_pdu, self.limits.max_sdu)
        # a peer may say that it takes more than a datagram holds
        self._sending.max_data = min(opening.max_pdu, MOST_PDU_BYTES) - HEAD_BYTES
        return True

    def _open(self, pdu: Pdu) -> None:
        assert self._peer is not None
        self.state = State.OPEN
        self._heard_ms = self._active_ms = self._now_ms
        if self._opening_tries == 1:
            self._sending.clock.sample(self._now_ms - self._opening_ms)
        self._sending.settle(pdu, self._now_ms)
        self._out.append(Opened(self._peer))

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _resend(self) -> bool:
        """Send again what is due. False: there were too many tries, the link is closed."""
        for sent in self._sending.again(self._now_ms):
            if sent.unanswered > self.limits.retries:
                self._end(Cause.RETRIES, Reason.RETRIES)
                return False
            self.counts["resent"] += 1
            self._transmit_sent(sent)
        return True

    def _advance(self) -> bool:
        """Send what the window lets out. Whether something went."""
        ready = self._sending.advance()
        for sent in ready:
            self._transmit_sent(sent)
        return bool(ready)

    def _transmit_sent(self, sent: Sent) -> None:
        self._sending.mark(sent, self._now_ms)
        self._transmit(ACK | sent.flags, sent.sequence, data=sent.data)

    def _acknowledge(self) -> None:
        assert self._receiving is not None
        gaps = self._receiving.gaps
        self._transmit(ACK | (EACK if gaps else 0), self._sending.next, eacks=gaps)

    def _send_opening(self) -> None:
        self._opening_ms = self._now_ms
        self._opening_tries += 1
        self._answer_opening()

    def _answer_opening(self) -> None:
        opening = Opening(self.limits.max_pdu, self.limits.max_sdu, self._identification)
        flags = SYN if self.state is State.SYN_SENT else SYN | ACK
        self._transmit(flags, self._first, opening=opening)

    def _send_rst(self, reason: Reason) -> None:
        self._transmit(RST | (ACK if self._receiving is not None else 0), self._sending.next, reason=reason)

    def _transmit(
        self,
        flags: int,
        sequence: int,
        *,
        data: bytes = b"",
        opening: Opening | None = None,
        eacks: tuple[int, ...] = (),
        reason: int = 0,
    ) -> None:
        current = self._receiving.current if self._receiving is not None else 0
        pdu = Pdu(
            flags, self.local_port, self.remote_port, sequence, current, self._window, data, opening, eacks, reason
        )
        self._out.append(Transmit(build_pdu(pdu)))

    def _refuse(self, pdu: Pdu, reason: Reason) -> None:
        self.counts["refused"] += 1
        refusal = build_refusal(pdu, reason)
        if refusal is not None:
            self._out.append(Transmit(refusal))

    # --- the end ---------------------------------------------------------------------------------------------------

    def _close_when_done(self, cause: Cause) -> None:
        self._closing = self._closing or cause
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closing is not None and self.state is State.OPEN and self._sending.is_idle:
            self._end(self._closing, Reason.NORMAL)

    def _end(self, cause: Cause, reason: Reason) -> None:
        self._farewell = reason
        self._send_rst(reason)
        self._finish(cause, reason)

    def _end_by_peer(self, reason: int) -> None:
        self._finish(Cause.PEER, reason)

    def _finish(self, cause: Cause, reason: int) -> None:
        self.state = State.CLOSE_WAIT
        self._until_ms = self._now_ms + self.limits.close_wait_ms
        self._out.append(Closed(cause, int(reason), self._sending.unsettled))

    def _take(self) -> list[Output]:
        out, self._out = self._out, []
        return out
