"""Which subscriber has which address now, as accounting tells it (C11, C15); must never give an address to who had it
before, nor show a number or an address by being printed.

Addresses are used again and reports come late, twice and out of order. So what counts is when a thing happened, not
when it was told: a Stop ends its own session and no other, and of two sessions at one address the one that claimed it
later has it.

Kept in RAM, and nowhere else: where somebody was at which hour is not for a disk, and thousands of rows a second would
wait in the journal beside the pushes. After a restart sessions are known again with their next interim update (TS
29.061 §16.3); until then the subscriber counts as off line, is tried again, and nothing that waits is lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from gateway.config.operator_sections import Radius
from gateway.metrics import Metric, Metrics
from gateway.model.subscriber import NetworkId, NetworkIdKind
from gateway.paging.ip.accounting import INTERIM, OFF, ON, START, STOP, Accounting

#: sessions of one name (contexts to several APNs); past it the oldest is no more found by this name
MOST_OF_ONE = 16
#: sessions that ended, and NASes that started again, to know what comes late; past it the oldest goes, and of a session
#: that ended so long ago nothing comes any more
MOST_ENDED, MOST_FLUSHED = 100_000, 4_096
#: a clock that is so far off is not believed
MOST_AHEAD_MS = 300_000
#: sessions looked at with each report, to see which are over
SLICE = 4

_Key = tuple[bytes, bytes]
_Name = tuple[NetworkIdKind, str]


class Session:
    """One session; equal to itself alone."""

    __slots__ = ("apn", "event_ms", "ipv4", "ipv6", "key", "names", "prefix", "seen_ms", "serial")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.names: tuple[_Name, ...] = ()
        self.apn = ""
        self.ipv4 = ""
        self.ipv6 = ""
        self.prefix: tuple[int, int] | None = None  # network, bits
        self.event_ms = 0  # when what was heard last happened
        self.seen_ms = 0  # when it was heard
        self.serial = 0

    def __repr__(self) -> str:
        return "Session(…)"


class _Flush(NamedTuple):
    event_ms: int
    serial: int


class Sessions:
    """model.subscribers.Addresses. `clock`: Unix ms."""

    def __init__(self, radius: Radius, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._most = radius.sessions
        self._max_ms = int(radius.session_max_s * 1000)
        #: may the trigger source_ip make a subscriber of who has a session
        self.creates_subscribers = radius.creates_subscribers
        self._metrics = metrics
        self._clock = clock
        self._serial = 0
        #: not heard of for longest first
        self._sessions: OrderedDict[_Key, Session] = OrderedDict()
        metrics.add_source(lambda: [(Metric.RADIUS_SESSIONS, "", len(self._sessions))])
        self._by_ipv4: dict[str, Session] = {}
        self._by_prefix: dict[tuple[int, int], Session] = {}
        self._prefix_bits: dict[int, int] = {}  # bits → how many prefixes are so long
        self._by_name: dict[_Name, list[Session]] = {}
        self._by_nas: dict[bytes, set[Session]] = {}
        self._ended: OrderedDict[_Key, int] = OrderedDict()
        self._flushed: OrderedDict[bytes, _Flush] = OrderedDict()

    def __len__(self) -> int:
        """Those that are over and not looked at since are among them."""
        return len(self._sessions)

    # --- told

    def apply(self, told: Accounting, nas: bytes) -> str:
        """Returns what came of it, the metric's label: on_line, interim, off_line, flushed, late, nobody, unknown.

        `nas`: who reports; the same identifier from another client is another NAS."""
        self._sweep()
        now_ms = self._clock()
        event_ms = self._event_ms(told, now_ms)
        self._serial += 1
        if told.status in (ON, OFF):
            return self._flush(nas, event_ms)
        flushed = self._flushed.get(nas)
        if flushed is not None and event_ms < flushed.event_ms:
            return "late"
        if told.status not in (START, STOP, INTERIM):
            return "unknown"
        if not told.session:
            return "nobody"  # RFC 2866 §5.5: it has to be there, and nothing could ever end what has none
        key = (nas, told.session)
        known = self._sessions.get(key)
        if known is not None and not self._is_live(known, now_ms):
            self._drop(known)
            known = None
        if told.status == STOP:
            return self._stop(key, known, event_ms)
        ended_ms = self._ended.get(key, -1)
        if event_ms <= ended_ms or (known is not None and event_ms < known.event_ms):
            return "late"
        if not told.ipv4 and not told.ipv6_prefix and not told.ipv6:
            return "nobody"  # the address comes with an interim update
        return self._claim(key, known, told, event_ms, now_ms)

    def _event_ms(self, told: Accounting, now_ms: int) -> int:
        """When it happened: as the NAS says, else so long ago as it tried (RFC 2866 §5.2)."""
        # in whole seconds, as an Event-Timestamp is: a NAS may have one in some of its reports alone
        by_delay_ms = (now_ms - min(told.delay_s * 1000, self._max_ms)) // 1000 * 1000
        said_ms = told.event_s * 1000
        if now_ms - self._max_ms <= said_ms <= now_ms + MOST_AHEAD_MS:
            return said_ms
        return by_delay_ms

    def _flush(self, nas: bytes, event_ms: int) -> str:
        """Accounting-On or -Off: all sessions of this NAS are over. They go by and by, and count no more at once."""
        earlier = self._flushed.pop(nas, None)
        if earlier is not None and event_ms < earlier.event_ms:
            self._flushed[nas] = earlier
            return "late"
        if len(self._flushed) >= MOST_FLUSHED:
            # whose sessions were flushed longest ago: they have to go now, for nothing will tell it any more
            oldest, flush = self._flushed.popitem(last=False)
            for session in [s for s in self._by_nas.get(oldest, ()) if _is_before(s, flush)]:
                self._drop(session)
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ip nases")
        self._flushed[nas] = _Flush(event_ms, self._serial)
        return "flushed"

    def _stop(self, key: _Key, known: Session | None, event_ms: int) -> str:
        if known is not None and event_ms < known.event_ms:
            return "late"  # the id was used again since
        if known is not None:
            self._drop(known)
        self._ended.pop(key, None)
        if len(self._ended) >= MOST_ENDED:
            self._ended.popitem(last=False)
        self._ended[key] = event_ms  # a Start that comes after its Stop changes nothing
        return "off_line"

    def _claim(self, key: _Key, known: Session | None, told: Accounting, event_ms: int, now_ms: int) -> str:
        names = tuple(
            (kind, value)
            for kind, value in (
                (NetworkIdKind.IMSI, told.imsi),
                (NetworkIdKind.MSISDN, told.msisdn),
                (NetworkIdKind.NAI, told.nai),
            )
            if value
        )
        if known is not None and not names:
            names = known.names  # an interim update need not say all again
        if not names:
            return "nobody"
        if known is not None:
            self._drop(known)
        session = Session(key)
        session.names, session.apn = names, told.apn or (known.apn if known is not None else "")
        session.event_ms, session.seen_ms, session.serial = event_ms, now_ms, self._serial
        is_start = told.status == START
        session.ipv4 = told.ipv4 if self._wins(self._by_ipv4.get(told.ipv4), event_ms, now_ms, is_start) else ""
        if told.ipv6_prefix or told.ipv6:
            network = IPv6Network(told.ipv6_prefix or told.ipv6)
            prefix = (int(network.network_address), network.prefixlen)
            if self._wins(self._by_prefix.get(prefix), event_ms, now_ms, is_start):
                session.prefix, session.ipv6 = prefix, told.ipv6
        if not session.ipv4 and session.prefix is None:
            return "late"  # another has had the address since
        self._put(session)
        return "on_line" if is_start else "interim"

    def _wins(self, holder: Session | None, event_ms: int, now_ms: int, is_start: bool) -> bool:
        if holder is None or not self._is_live(holder, now_ms):
            return True
        return event_ms > holder.event_ms or (is_start and event_ms == holder.event_ms)

    def _put(self, session: Session) -> None:
        if session.ipv4:
            self._take_address(self._by_ipv4.get(session.ipv4), ipv4=True)
            self._by_ipv4[session.ipv4] = session
        if session.prefix is not None:
            self._take_address(self._by_prefix.get(session.prefix), ipv4=False)
            self._by_prefix[session.prefix] = session
            bits = session.prefix[1]
            self._prefix_bits[bits] = self._prefix_bits.get(bits, 0) + 1
        while len(self._sessions) >= self._most:
            self._drop(next(iter(self._sessions.values())))
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ip sessions")
        self._sessions[session.key] = session
        self._by_nas.setdefault(session.key[0], set()).add(session)
        for name in session.names:
            of_name = self._by_name.setdefault(name, [])
            if len(of_name) >= MOST_OF_ONE:
                self._forget_name(of_name.pop(0), name)
            of_name.append(session)

    def _forget_name(self, session: Session, name: _Name) -> None:
        """Many have it, so it is no name: a user name that an operator gives to all, as some do. The session stays for
        its other names."""
        self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ip sessions of one")
        session.names = tuple(each for each in session.names if each != name)
        if not session.names:
            self._drop(session)

    def _take_address(self, holder: Session | None, *, ipv4: bool) -> None:
        """Its Stop was lost. A session that has no address left is over."""
        if holder is None:
            return
        has_other = holder.prefix is not None if ipv4 else bool(holder.ipv4)
        if not has_other:
            self._drop(holder)
        elif ipv4:
            del self._by_ipv4[holder.ipv4]
            holder.ipv4 = ""
        else:
            self._forget_prefix(holder)

    def _forget_prefix(self, session: Session) -> None:
        if session.prefix is None:
            return
        del self._by_prefix[session.prefix]
        bits = session.prefix[1]
        self._prefix_bits[bits] -= 1
        if not self._prefix_bits[bits]:
            del self._prefix_bits[bits]
        session.prefix, session.ipv6 = None, ""

    def _drop(self, session: Session) -> None:
        del self._sessions[session.key]
        of_nas = self._by_nas[session.key[0]]
        of_nas.discard(session)
        if not of_nas:
            del self._by_nas[session.key[0]]
        if session.ipv4:
            del self._by_ipv4[session.ipv4]
        self._forget_prefix(session)
        for name in session.names:
            of_name = self._by_name[name]
            of_name.remove(session)
            if not of_name:
                del self._by_name[name]

    def _is_live(self, session: Session, now_ms: int) -> bool:
        if now_ms - session.seen_ms > self._max_ms:
            return False
        flush = self._flushed.get(session.key[0])
        return flush is None or not _is_before(session, flush)

    def _sweep(self) -> None:
        now_ms = self._clock()
        for _ in range(SLICE):
            oldest = next(iter(self._sessions.values()), None)
            if oldest is None or self._is_live(oldest, now_ms):
                return
            self._drop(oldest)

    # --- asked

    def of(self, names: Iterator[_Name]) -> Iterator[Session]:
        """Live sessions of who has one of these, the newest first."""
        now_ms = self._clock()
        found = {
            session: None for name in names for session in self._by_name.get(name, ()) if self._is_live(session, now_ms)
        }
        return iter(sorted(found, key=lambda session: -session.serial))

    def at(self, address: IPv4Address | IPv6Address) -> Session | None:
        """The live session that has this address."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if isinstance(address, IPv4Address):
            found = self._by_ipv4.get(str(address))
        else:
            number, found = int(address), None
            for bits in sorted(self._prefix_bits, reverse=True):  # the narrowest first
                found = self._by_prefix.get((number >> (128 - bits) << (128 - bits), bits))
                if found is not None:
                    break
        return found if found is not None and self._is_live(found, self._clock()) else None

    def whose(self, ip: str) -> tuple[NetworkId, ...] | None:
        """Network ids of who has this address (C15), not in their normal form; None: nobody that is known of."""
        session = self.at(ip_address(ip))
        if session is None:
            return None
        return tuple(NetworkId(kind, value) for kind, value in session.names)


def _is_before(session: Session, flush: _Flush) -> bool:
    return session.event_ms < flush.event_ms or (session.event_ms == flush.event_ms and session.serial < flush.serial)
