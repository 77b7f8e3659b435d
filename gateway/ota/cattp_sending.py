"""The sending half of a CAT_TP link: cutting SDUs, the peer's window, what is on its way, when to send again; must
never send past the window, but for the one PDU that asks a closed window whether it is open.

Source: ETSI TS 102 127 §4 (SND_NXT, SND_UNA, SND_WIN, SND_PDU_MAX). Timers are the implementation's own: a smoothed
round-trip time of what was sent once (Karn), times 1.3, between two bounds, doubled with each further try.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway.ota.cattp_pdu import NUL, SEG, Pdu
from gateway.ota.sequence import distance, following

#: as often must a later PDU be reported before one counts as lost: less may be reordering
PASSED = 3


@dataclass(slots=True, eq=False, repr=False)
class Sent:
    sequence: int
    flags: int
    data: bytes
    #: of the last try; None: to be sent at once
    sent_ms: int | None
    #: whether an SDU ends with it
    ends: bool = False
    tries: int = 0
    #: tries since the peer last made progress: these are what is bounded
    unanswered: int = 0
    #: the peer has it, out of order
    there: bool = False
    #: how often a later one was reported while it was not
    passed: int = 0


class Clock:
    """The round-trip time, and what follows from it for the next try. Milliseconds."""

    def __init__(self, first_ms: int, least_ms: int, most_ms: int) -> None:
        self._least, self._most = least_ms, most_ms
        self._smoothed: float | None = None
        self.rto_ms = min(max(first_ms, least_ms), most_ms)

    def sample(self, round_trip_ms: int) -> None:
        kept = self._smoothed
        self._smoothed = float(round_trip_ms) if kept is None else (7 * kept + round_trip_ms) / 8
        self.rto_ms = int(min(max(1.3 * self._smoothed, self._least), self._most))

    def doubt(self) -> None:
        """Only answers to PDUs sent more than once came: until one is measured, wait twice as long. Else a round trip
        that is longer than the first guess would never be measured (Karn's second half)."""
        self.rto_ms = self.wait_ms(2)

    def wait_ms(self, tries: int) -> int:
        """After so many tries."""
        return min(self.rto_ms << min(max(tries - 1, 0), 16), self._most)


class Sending:
    def __init__(self, first: int, flight: int, clock: Clock) -> None:
        #: SND_UNA: the last number that the peer has, with all before it
        self.acknowledged = first
        #: SND_NXT
        self.next = following(first)
        #: SND_WIN: how many past `acknowledged` the peer takes
        self.window = 0
        self.max_data = 0
        self.clock = clock
        self._flight_most = flight
        #: SDUs not sent yet, and how much of the first one is. They are cut when they go: a peer that takes a byte at a
        #: time costs no more than another
        self._queue: deque[bytes] = deque()
        self._cut = 0
        self.queued_bytes = 0
        self._flight: deque[Sent] = deque()
        #: number and acknowledgement of the PDU that the window is from: an older one does not set it
        self._window_from: tuple[int, int] | None = None
        #: since when the window is closed while something waits for it
        self.closed_since_ms: int | None = None

    @property
    def is_idle(self) -> bool:
        """All that was given is there. A NUL that a closed window does not take is nothing that was given."""
        return not self._queue and not any(sent.data for sent in self._flight)

    @property
    def unsettled(self) -> int:
        """SDUs given that are not known to be there."""
        return len(self._queue) + sum(sent.ends for sent in self._flight)

    @property
    def is_silent(self) -> bool:
        """Nothing is on its way, so nothing will be answered."""
        return not self._flight

    def offer(self, sdu: bytes, now_ms: int) -> None:
        """It goes when the window lets it."""
        if self.window == 0 and self.is_idle:
            self.closed_since_ms = now_ms
        self.queued_bytes += len(sdu)
        self._queue.append(sdu)

    def advance(self) -> list[Sent]:
        """What may go out for the first time."""
        room = min(self.window, self._flight_most)
        ready: list[Sent] = []
        while self._queue and distance(self.acknowledged, self.next) <= room:
            ready.append(self._cut_next())
        return ready

    def _cut_next(self) -> Sent:
        """What the peer's PDUs hold; SEG is on all pieces but the last (§5)."""
        sdu = self._queue[0]
        data = sdu[self._cut : self._cut + self.max_data]
        self._cut += len(data)
        self.queued_bytes -= len(data)
        ends = self._cut == len(sdu)
        if ends:
            self._queue.popleft()
            self._cut = 0
        return self._launch(0 if ends else SEG, data, ends)

    def probe(self) -> Sent:
        """A NUL: it takes a number, so the peer answers whatever its window is (§4: keep-alive)."""
        return self._launch(NUL, b"", False)

    def _launch(self, flags: int, data: bytes, ends: bool) -> Sent:
        sent = Sent(self.next, flags, data, None, ends)
        self.next = following(self.next)
        self._flight.append(sent)
        return sent

    def mark(self, sent: Sent, now_ms: int) -> None:
        """It went out."""
        sent.sent_ms = now_ms
        sent.tries += 1
        sent.unanswered += 1

    def is_possible(self, acknowledgement: int) -> bool:
        """False for a number that was never sent."""
        ahead = distance(self.acknowledged, acknowledgement)
        return ahead >= 0x8000 or ahead < distance(self.acknowledged, self.next)

    def settle(self, pdu: Pdu, now_ms: int) -> int:
        """Read acknowledgement, EACK and window of a PDU. How many SDUs are now known to be there."""
        done = 0
        progress = again = measured = False
        ahead = distance(self.acknowledged, pdu.acknowledgement)
        is_old = ahead >= 0x8000
        if not is_old and ahead:
            progress = True
            while self._flight and not distance(self._flight[0].sequence, pdu.acknowledgement) >= 0x8000:
                sent = self._flight.popleft()
                done += sent.ends
                again |= sent.tries > 1
                if sent.sequence == pdu.acknowledgement:
                    measured = self._sample(sent, now_ms)
            self.acknowledged = pdu.acknowledgement
            if again and not measured:
                self.clock.doubt()
        if pdu.eacks and not is_old:
            progress |= self._read_eacks(set(pdu.eacks), now_ms)
        if not is_old:
            self._read_window(pdu, now_ms)
        if progress or self.window == 0:
            for sent in self._flight:
                sent.unanswered = 0
        return done

    def _sample(self, sent: Sent, now_ms: int) -> bool:
        # of one sent twice nobody knows which try was answered (Karn)
        if sent.tries != 1 or sent.there or sent.sent_ms is None:
            return False
        self.clock.sample(now_ms - sent.sent_ms)
        return True

    def _read_eacks(self, numbers: set[int], now_ms: int) -> bool:
        newest = -1
        progress = False
        for place, sent in enumerate(self._flight):
            if sent.sequence in numbers:
                newest = place
                if not sent.there:
                    self._sample(sent, now_ms)
                    sent.there = progress = True
        for place, sent in enumerate(self._flight):
            if place < newest and not sent.there:
                sent.passed += 1
                if sent.passed == PASSED:
                    sent.sent_ms = None
        return progress

    def _read_window(self, pdu: Pdu, now_ms: int) -> None:
        if self._window_from is not None:
            sequence, acknowledgement = self._window_from
            # an acknowledgement never goes back, a number does where a PDU is sent again
            if distance(acknowledgement, pdu.acknowledgement) >= 0x8000 or (
                acknowledgement == pdu.acknowledgement and distance(sequence, pdu.sequence) >= 0x8000
            ):
                return
        self._window_from = (pdu.sequence, pdu.acknowledgement)
        if self.window == 0 and pdu.window:
            # what was refused in between goes out now, not when its time is up
            for sent in self._flight:
                sent.sent_ms = None
        self.window = pdu.window
        if pdu.window:
            self.closed_since_ms = None
        elif self.closed_since_ms is None:
            self.closed_since_ms = now_ms

    def _may_go(self, sent: Sent) -> bool:
        # the oldest goes even past a closed window, for its refusal says whether the window is open again, and even
        # where it was reported: a peer that has it acknowledges it, and who only says so would never be given up
        ahead = distance(self.acknowledged, sent.sequence)
        return ahead == 1 or (not sent.there and ahead <= self.window)

    def again(self, now_ms: int) -> list[Sent]:
        """What is to be sent (again) now."""
        return [sent for sent in self._flight if self._may_go(sent) and self._due_ms(sent, now_ms) <= now_ms]

    def _due_ms(self, sent: Sent, now_ms: int) -> int:
        return now_ms if sent.sent_ms is None else sent.sent_ms + self.clock.wait_ms(sent.tries)

    def due_ms(self, now_ms: int) -> int | None:
        times = [self._due_ms(sent, now_ms) for sent in self._flight if self._may_go(sent)]
        return min(times) if times else None

    @property
    def waits_for_window(self) -> bool:
        """There is something to send, the window is closed, and nothing is on its way that would be answered."""
        return self.window == 0 and bool(self._queue) and not self._flight
