"""Is the link alive: when to PING, when a PONG is overdue, and whether silence killed the link (A6); reads no clock.

A PING goes out when nothing was sent for the agreed interval (the gateway closes after 1.5 of them). While one is
unanswered, PONG_S without any byte, or a sixth of the interval where that is more, means a dead link.
"""

from __future__ import annotations

from enum import Enum

from gateway.client.heartbeat import AdaptiveHeartbeat

PONG_S = 10.0
PONG_PART = 1 / 6
#: an interval counts as idle, and so says something about the NAT, from this part of it in silence
IDLE_PART = 0.9


class Due(Enum):
    NOTHING = 0
    PING = 1
    DEAD = 2


class Liveness:
    """One link. All times are seconds of the caller's monotonic clock."""

    def __init__(self, heartbeat: AdaptiveHeartbeat, now: float) -> None:
        self._heartbeat = heartbeat
        self.last_sent = self.last_received = now
        self._ping_at: float | None = None  # oldest PING without its PONG
        self._pong_by = 0.0
        self._silence = 0.0  # without a byte either way, before that PING
        self.paused = False

    def on_received(self, now: float) -> None:
        self.last_received = now
        self._pong_by = now + self._pong_wait()

    def on_ping(self, now: float) -> None:
        if self._ping_at is None:
            self._ping_at = now
            self._silence = now - max(self.last_sent, self.last_received)
            self._pong_by = now + self._pong_wait()

    def on_pong(self) -> bool:
        """True where an idle interval held."""
        answered, self._ping_at = self._ping_at is not None, None
        return answered and self._silence >= self._heartbeat.agreed * IDLE_PART

    def on_cut(self, now: float) -> None:
        """The link went without a reason given."""
        idle = self._ping_at is None
        self._heartbeat.on_cut(now - max(self.last_sent, self.last_received) if idle else self._silence)

    def on_unheard(self, now: float) -> None:
        """The gateway heard nothing for 1.5 intervals. Where we did send, silence killed the way up; where we did not
        (the process was stopped), it says nothing about the network."""
        if now - self.last_sent <= self._heartbeat.agreed:
            self._heartbeat.on_cut(self._heartbeat.agreed)

    def pause(self, paused: bool, now: float) -> None:
        """Nobody reads: a PONG can not be seen, so its lack says nothing until reading goes on."""
        self.paused = paused
        if not paused:
            self._pong_by = now + self._pong_wait()

    def deadline(self) -> float:
        due = self.last_sent + self._heartbeat.agreed
        return min(due, self._pong_by) if self._awaits_pong else due

    def due(self, now: float) -> Due:
        if self._awaits_pong and now >= self._pong_by:
            return Due.DEAD
        return Due.PING if now >= self.last_sent + self._heartbeat.agreed else Due.NOTHING

    @property
    def _awaits_pong(self) -> bool:
        return self._ping_at is not None and not self.paused

    def _pong_wait(self) -> float:
        return max(PONG_S, self._heartbeat.agreed * PONG_PART)
