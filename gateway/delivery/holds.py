"""What holds a message back although its device could have it: quiet hours, and the time over which a push is spread.

Pure functions of the message, the registration's cohort and the clock, so that a restart changes nothing.
"""

from __future__ import annotations

from gateway.model.cohort import Cohort
from gateway.model.frames import Urgency
from gateway.model.notification import Notification
from gateway.model.quiet import quiet_until

#: a spread broadcast goes out in so many portions at most, none shorter than a second
MAX_PORTIONS = 4_096
_MIX = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: neighbouring numbers fall far apart


def quiet_hold(notification: Notification, cohort: Cohort, now_ms: int) -> int:
    """Unix ms until which quiet hours hold it back, 0 where they do not: what is urgent always goes."""
    if not cohort.quiet or notification.urgency >= Urgency.HIGH:
        return 0
    return quiet_until(cohort.timezone, cohort.quiet, now_ms)


def spread_hold(notification: Notification, seq: int, now_ms: int) -> int:
    """Unix ms before which this delivery of a spread push is not sent, 0 where its turn has come."""
    if not notification.over_s or not notification.count:
        return 0
    place = seq - notification.seq - 1
    turn = notification.accepted_ms + notification.over_s * 1000 * place // notification.count
    return turn if turn > now_ms else 0


def spread_retry(pause_ms: int, seq: int) -> int:
    """What is added to a delivery's pause: up to a quarter of it, the same each time."""
    return pause_ms * (seq * _MIX % (1 << 64) >> 32) >> 34


def portions(over_s: int) -> int:
    return max(1, min(over_s, MAX_PORTIONS))


def portion_of(registration: int, seq: int, over_s: int) -> int:
    """In which portion of a spread broadcast a registration is."""
    return ((registration ^ seq) * _MIX % (1 << 64) >> 32) * portions(over_s) >> 32


def portion_at_ms(notification: Notification, portion: int) -> int:
    """When that portion is sent."""
    return notification.accepted_ms + notification.over_s * 1000 * portion // portions(notification.over_s)
