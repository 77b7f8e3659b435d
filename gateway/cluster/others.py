"""The nodes of the fleet as one of them sees them: who lives, who is heard of for how long; must never compare clocks
of two machines.

Time is counted in the beats of this node that came back to it: they are in one order with everybody's beats. Who is
silent while so many of ours got through that a lease is over is dead; where ours do not get through either (the
servers elect a leader, this node was asleep) nobody's silence grows.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.cluster.assignment import GATHERED_BEATS, GATHERING_BEATS, SETTLED_BEATS, STEADY_BEATS
from gateway.cluster.fleet_records import Beat
from gateway.model.cluster import Member

#: records of nodes that are dead for so much longer are removed
KEEP_DEAD_S = 600.0


class Seen:
    """A node's record."""

    __slots__ = ("beat", "beats", "heard_at", "is_live", "revision", "silence_s", "without_us_s")

    def __init__(self, beat: Beat, revision: int, now: float) -> None:
        self.beat = beat
        self.revision = revision
        self.beats = 1  # that were heard of without a death between
        self.heard_at = now  # on this node's clock
        self.silence_s = 0.0
        #: how long it has been beating without a beat of ours between, as it counts itself
        self.without_us_s = 0.0
        self.is_live = True


class Others:
    """All nodes by name, the own one too. `take` and `remove` return who came and who is gone."""

    def __init__(self, me: Beat, lease_s: float, beat_s: float) -> None:
        self._me = me
        self._lease_s = lease_s
        self._beat_s = beat_s
        self._seen: dict[str, Seen] = {}
        self._names: dict[int, str] = {}  # of the live ones
        #: when the last own beat that was seen was sent
        self.seen_at: float | None = None

    def take(self, beat: Beat, revision: int, now: float) -> tuple[list[Member], list[int]]:
        """A record as the watch brought it: (came, gone)."""
        came: list[Member] = []
        gone: list[int] = []
        seen = self._seen.get(beat.name)
        if seen is not None and revision <= seen.revision:
            return came, gone  # told again
        if seen is None or seen.beat.number != beat.number:
            if seen is not None and seen.is_live:
                gone.append(seen.beat.number)
                self._names.pop(seen.beat.number, None)
            self._seen[beat.name] = Seen(beat, revision, now)
            came.append(beat.member())
        else:
            passed = (beat.at_ms - seen.beat.at_ms) / 1000
            seen.without_us_s += min(max(passed, 0.0), 2 * self._beat_s)
            seen.beat, seen.revision, seen.silence_s, seen.heard_at = beat, revision, 0.0, now
            seen.beats += 1
            if not seen.is_live:
                seen.is_live, seen.beats = True, 1
                came.append(beat.member())
        self._names[beat.number] = beat.name
        if beat.number == self._me.number:
            came = []
            gone += self._age(beat.at_ms / 1000)
        return came, gone

    def renewed(self) -> None:
        """A beat of this node got through."""
        for seen in self._seen.values():
            seen.without_us_s = 0.0

    def without_us_s(self) -> float:
        """The longest that another one has been beating without us: at a lease it takes us for dead."""
        return max(
            (self._seen[name].without_us_s for name in self._names.values() if name != self._me.name), default=0.0
        )

    def remove(self, name: str, revision: int) -> list[int]:
        """The record was deleted: the node left."""
        seen = self._seen.get(name)
        if seen is None or revision <= seen.revision:
            return []
        del self._seen[name]
        self._names.pop(seen.beat.number, None)
        return [seen.beat.number] if seen.is_live else []

    def _age(self, at: float) -> list[int]:
        """An own beat was seen: the silence of the others grows."""
        last, self.seen_at = self.seen_at, at
        if last is None:
            return []
        gone = []
        for seen in self._seen.values():
            if seen.beat.number == self._me.number:
                continue
            passed = at - max(last, seen.heard_at)
            seen.silence_s += min(max(passed, 0.0), 2 * self._beat_s)
            if seen.is_live and seen.silence_s >= self._lease_s:
                seen.is_live = False
                self._names.pop(seen.beat.number, None)
                gone.append(seen.beat.number)
        return gone

    def live(self) -> dict[int, str]:
        return self._names

    def members(self) -> Iterator[Member]:
        return (self._seen[name].beat.member() for name in self._names.values())

    def member(self, number: int) -> Member | None:
        name = self._names.get(number)
        return None if name is None else self._seen[name].beat.member()

    def eligible(self) -> tuple[str, ...]:
        """Names of those that may be given what nobody has, sorted."""
        return tuple(
            sorted(
                name
                for name in self._names.values()
                if self._seen[name].beats >= SETTLED_BEATS and not self._seen[name].beat.draining
            )
        )

    def are_coming(self) -> bool:
        """Was one that lives not heard of for long enough to share what nobody has with it?"""
        seen = [self._seen[name] for name in self._names.values() if not self._seen[name].beat.draining]
        own = max((one.beats for one in seen if one.beat.number == self._me.number), default=0)
        return own < GATHERING_BEATS and any(one.beats < GATHERED_BEATS for one in seen)

    def steady(self) -> set[str]:
        return {name for name in self._names.values() if self._seen[name].beats >= STEADY_BEATS}

    def long_dead(self) -> list[tuple[str, int]]:
        """(name, revision) of records to remove."""
        limit = self._lease_s + KEEP_DEAD_S
        return [(name, seen.revision) for name, seen in self._seen.items() if seen.silence_s >= limit]
