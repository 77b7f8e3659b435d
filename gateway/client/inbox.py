"""What to do with a notification: tip or message, confirm or not, fetch its body (B6); sans-IO, never reads a clock.

    app in the     light NOTIFY (more)             NOTIFY with everything
    background     tip, hold                       tip, hold
    foreground     hold, FETCH → message           message
    comes to the
    foreground     held ones whole → messages; held light ones → FETCH → messages

Confirmation follows the binding's AckPolicy: RECEIPT when the app's queue has it, DISPLAY when the app says shown().
Held ones are bounded; past the bound a notification is refused without an ack, so the gateway keeps it and goes to a
notifier, and a FETCH of all brings it in the foreground.
"""

from __future__ import annotations

import msgspec

from gateway.client.content import AckPolicy, Counters, Notification, Recall, Tip, build_tip
from gateway.client.events import Arrived, Binding
from gateway.client.seen import (
    ACKED_FULL,
    ACKED_LIGHT,
    CONFIRMED_FULL,
    CONFIRMED_LIGHT,
    FULL,
    LIGHT,
    SHOWN_FULL,
    SHOWN_LIGHT,
    Seen,
)
from gateway.model.errors import MalformedFrame
from gateway.model.frames import MAX_IDS, FrameType, Notify, build_frame

MAX_HELD = 256
#: confirmations waiting to be written; only off line can there be so many
MAX_CONFIRMATIONS = 4_096

_decode = msgspec.msgpack.Decoder().decode


def parse_data(raw: msgspec.Raw) -> object:
    """The message body; raises MalformedFrame."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as exc:
        raise MalformedFrame(f"the message body is not valid msgpack: {exc}") from None


class Inbox:
    def __init__(self, seen: Seen, counters: Counters) -> None:
        self._seen = seen
        self._counters = counters
        #: NOTIFYs that brought something, a body included; duplicates do not
        self.news = 0
        #: ids to confirm with the next flush
        self.acks: list[int] = []
        self.bodies: list[int] = []
        #: the gateway knows WHOLE
        self.says_whole = False
        self.shown: list[int] = []

    def take(self, binding: Binding, notify: Notify, *, asked: bool = False, of_all: bool = False) -> list[Arrived]:
        """A NOTIFY for a live binding. `asked`: a FETCH is under way there, so a body may be of what came light;
        `of_all`: one of all that waits."""
        whole = not notify.more or bool(notify.data)
        light = LIGHT if not whole or (asked and notify.data) else 0
        notification = Notification(
            id=notify.id,
            app=binding.app,
            account=binding.account,
            title=notify.title,
            text=notify.text,
            data=parse_data(notify.data) if notify.data else None,
            light=not whole,
            broadcast=not notify.token,
            urgency=notify.urgency,
            at=notify.at,
            expires=notify.expires,
            collapse=notify.collapse,
            source=notify.token or notify.app,
        )
        flags = self._seen.get(notification.source, notification.id)
        if flags is not None and (flags & FULL or (not whole and notification.id in binding.held)):
            self._counters.duplicates += 1
            if light:
                self._seen.mark(notification.source, notification.id, light)
            self._confirm_again(binding, notification)
            return []
        self.news += 1
        if whole:
            binding.asked.discard(notification.id)
        elif of_all:
            binding.asked.add(notification.id)
        if binding.foreground and whole:
            self._counters.notifications += flags is None
            binding.held.pop(notification.id, None)
            self._seen.mark(notification.source, notification.id, FULL | light)
            return [Arrived(binding, notification)]
        return self._hold(binding, notification, flags, light)

    def _hold(self, binding: Binding, notification: Notification, flags: int | None, light: int) -> list[Arrived]:
        """`flags`: None where it is the first time; else its light form was there before. `light`: LIGHT or 0."""
        held = binding.held
        if notification.collapse:
            for older in [n.id for n in held.values() if n.collapse == notification.collapse]:
                del held[older]
                binding.asked.discard(older)
        if notification.id not in held and len(held) >= MAX_HELD:
            self._counters.held_full += 1
            binding.missed = True
            binding.asked.discard(notification.id)
            return []
        self._counters.notifications += flags is None
        held[notification.id] = notification
        self._seen.mark(notification.source, notification.id, light if notification.light else FULL | light)
        if binding.foreground or flags is not None:
            # No tip: the message follows at once (foreground), or the tip was there already and this is its body.
            self.confirm(binding, notification)
            if notification.light and (flags or 0) & CONFIRMED_LIGHT:
                self._confirm_again(binding, notification)
            return []
        return [Arrived(binding, build_tip(notification))]

    def foreground(self, binding: Binding, unix_s: float) -> list[Arrived]:
        """The app came to the foreground: its whole messages, in the order they came. Light ones wait for FETCH."""
        ready = [n for n in binding.held.values() if not n.light]
        for notification in ready:
            del binding.held[notification.id]
        live = [n for n in ready if not n.expires or n.expires >= unix_s]
        self._counters.expired += len(ready) - len(live)
        return [Arrived(binding, n) for n in live]

    def recall(self, binding: Binding, ids: list[int]) -> list[Arrived]:
        """Only what this binding has had is its business."""
        gone = []
        for id in ids:
            binding.held.pop(id, None)
            binding.asked.discard(id)
            if any(self._seen.get(source, id) is not None for source in (binding.token, binding.app)):
                self._counters.recalled += 1
                gone.append(Arrived(binding, Recall(id)))
        return gone

    def confirm(self, binding: Binding, item: Notification | Tip) -> None:
        """Received: the app's queue has it. Does nothing in AckPolicy.DISPLAY, nor a second time."""
        if binding.ack is AckPolicy.DISPLAY:
            return  # B6: what was not shown is not acked
        notification = item.notification if isinstance(item, Tip) else item
        flag = ACKED_LIGHT if notification.light else ACKED_FULL
        if self._seen.mark(notification.source, notification.id, flag) and not self._is_outrun(binding, notification):
            self._put(self.bodies if self._is_body(notification) else self.acks, notification.id)

    def confirm_shown(self, binding: Binding, notification: Notification) -> None:
        flag = SHOWN_LIGHT if notification.light else SHOWN_FULL
        if self._seen.mark(notification.source, notification.id, flag) and not self._is_outrun(binding, notification):
            self._put(self.shown, notification.id)
            if self._is_body(notification):
                self._put(self.bodies, notification.id)

    def flush(self, max_body: int) -> bytes:
        """All confirmations since the last call, as few frames as fit."""
        if not self.acks and not self.bodies and not self.shown:
            return b""
        out = bytearray()
        step = min(MAX_IDS, (max_body - 5) // 9)  # msgpack: 5 bytes of array header at most, 9 an id
        # SHOWN first: where it is known to be of the body it is all there is to write.
        lists = ((FrameType.ACK, self.acks), (FrameType.SHOWN, self.shown), (FrameType.WHOLE, self.bodies))
        for kind, ids in lists:
            for at in range(0, len(ids), step):
                out += build_frame(kind, ids[at : at + step])
        self._counters.acks += len(self.acks) + len(self.bodies)
        self._counters.shown += len(self.shown)
        self.acks.clear()
        self.bodies.clear()
        self.shown.clear()
        return bytes(out)

    def _is_outrun(self, binding: Binding, notification: Notification) -> bool:
        """The light form of what is here whole by now, or was asked for: a gateway that sent the body would take the
        confirmation for the body's, which may never come."""
        if not notification.light:
            return False
        flags = self._seen.get(notification.source, notification.id) or 0
        return bool(flags & FULL) or notification.id in binding.asked

    def _is_body(self, notification: Notification) -> bool:
        """It came light and is here whole, which an ACK does not say. Of a broadcast the light form's counts."""
        flags = self._seen.get(notification.source, notification.id) or 0
        return self.says_whole and flags & (FULL | LIGHT) == FULL | LIGHT and not notification.broadcast

    def _confirm_again(self, binding: Binding, notification: Notification) -> None:
        """The gateway sent it again, so it had no confirmation: repeat what was said. Nothing was: still nothing."""
        flags = self._seen.get(notification.source, notification.id) or 0
        confirmed = flags & (CONFIRMED_FULL if flags & FULL else CONFIRMED_LIGHT)
        shown = confirmed & (SHOWN_LIGHT | SHOWN_FULL)
        if confirmed and self._is_body(notification):
            self._put(self.bodies, notification.id)
        elif notification.light and notification.id in binding.asked:
            return  # the body will be confirmed
        elif confirmed and not shown:
            self._put(self.acks, notification.id)
        if shown:
            self._put(self.shown, notification.id)

    def _put(self, ids: list[int], id: int) -> None:
        if len(ids) >= MAX_CONFIRMATIONS:
            self._counters.late_confirmations += 1
            return
        ids.append(id)
