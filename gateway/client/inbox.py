"""What to do with a notification: tip or message, confirm or not, fetch its body (B6); sans-IO, never reads a clock.

    app in the     light NOTIFY (more)             NOTIFY with everything
    background     tip, hold                       tip, hold
    foreground     hold, FETCH → message           message
    comes to the
    foreground     held ones whole → messages; held light ones → FETCH → messages
    leaves it      tips of held ones that have none

Confirmation follows the binding's AckPolicy: RECEIPT when the app's queue has it, DISPLAY when the app says shown().
Held ones are bounded; past the bound a notification is refused without an ack, so the gateway keeps it and goes to a
notifier, and a FETCH of all brings it in the foreground.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.client.content import AckPolicy, Counters, Notification, Recall, Tip, build_tip
from gateway.client.events import Arrived, Binding
from gateway.client.seen import (
    ACKED_FULL,
    ACKED_LIGHT,
    ASKED,
    CONFIRMED_FULL,
    CONFIRMED_LIGHT,
    FULL,
    LIGHT,
    SHOWN_FULL,
    SHOWN_LIGHT,
    TIPPED,
    Seen,
)
from gateway.model.errors import MalformedFrame
from gateway.model.frames import MAX_IDS, FrameType, Notify, build_frame

MAX_HELD = 256
#: confirmations waiting to be written; only off line can there be so many
MAX_CONFIRMATIONS = 4_096

#: registrations on a link (frames.md, REGISTER)
MAX_ON_LINK = 256

_Confirmation = tuple[Binding, int]

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
        #: NOTIFYs for bindings of this device, and those that brought something: a body does, duplicates and refused
        #: ones do not
        self.frames = 0
        self.news = 0
        #: the gateway knows WHOLE
        self.says_whole = False
        #: who confirms which id with the next flush
        self._acks: list[_Confirmation] = []
        self._bodies: list[_Confirmation] = []
        self._shown: list[_Confirmation] = []
        #: NOTIFYs of a broadcast on this link that want a confirmation besides the first, which was not given yet: one
        #: comes for each registration of its app
        self._owed: dict[tuple[str, int], int] = {}

    def take(
        self, binding: Binding, notify: Notify, *, asked: bool = False, of_all: bool = False, unix_s: float = 0.0
    ) -> list[Arrived]:
        """A NOTIFY for a live binding. `asked`: a FETCH is under way there, so a body may be of what came light;
        `of_all`: one of all that waits. `unix_s`: now, by the gateway's clock."""
        self.frames += 1
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
        if whole:
            light |= FULL
        elif of_all:
            light |= ASKED
        if binding.foreground and whole:
            self.news += 1
            self._counters.notifications += flags is None
            binding.held.pop(notification.id, None)
            self._seen.mark(notification.source, notification.id, light)
            return [Arrived(binding, notification)]
        if len(binding.held) >= MAX_HELD:
            self._drop_expired(binding, unix_s)
        return self._hold(binding, notification, flags, light)

    def _drop_expired(self, binding: Binding, unix_s: float) -> None:
        for notification in list(binding.held.values()):
            if 0 < notification.expires < unix_s:
                del binding.held[notification.id]
                self._counters.expired += 1

    def _hold(self, binding: Binding, notification: Notification, flags: int | None, marks: int) -> list[Arrived]:
        """`flags`: None where it is the first time; else its light form was there before. `marks`: its flags by now."""
        held = binding.held
        if not self._takes_place(binding, notification):
            return []
        if notification.id not in held and len(held) >= MAX_HELD:
            self._counters.held_full += 1
            binding.missed = True
            return []
        self.news += 1
        self._counters.notifications += flags is None
        held[notification.id] = notification
        self._seen.mark(notification.source, notification.id, marks)
        if not binding.foreground and not (flags or 0) & TIPPED:
            return [self._tip(binding, notification)]
        # No tip: the message follows at once (foreground), or the tip was there already and this is its body.
        self.confirm(binding, notification)
        if notification.light and (flags or 0) & CONFIRMED_LIGHT:
            self._confirm_again(binding, notification)
        return []

    def _takes_place(self, binding: Binding, notification: Notification) -> bool:
        """Of those with its collapse key. False: a newer one is here. Then one for the token is not confirmed: the
        gateway has replaced it, or sends it again where the newer one does not last."""
        if not notification.collapse:
            return True
        where = notification.source, notification.collapse
        others = [n for n in binding.held.values() if (n.source, n.collapse) == where and n.id != notification.id]
        if any(n.id > notification.id for n in others):
            if notification.broadcast:
                self._seen.mark(notification.source, notification.id, FULL)
                self.confirm(binding, notification)
            return False
        for older in others:
            del binding.held[older.id]
            flags = self._seen.get(older.source, older.id) or 0
            # Of a broadcast the gateway replaces none: it would come behind the newer one.
            if not older.broadcast and not flags & (CONFIRMED_LIGHT | CONFIRMED_FULL):
                self._seen.forget(older.source, older.id)
        return True

    def _tip(self, binding: Binding, notification: Notification) -> Arrived:
        self._seen.mark(notification.source, notification.id, TIPPED)
        return Arrived(binding, build_tip(notification))

    def foreground(self, binding: Binding, unix_s: float) -> list[Arrived]:
        """The app came to the foreground: its whole messages, in the order they came. Light ones wait for FETCH."""
        ready = [n for n in binding.held.values() if not n.light]
        for notification in ready:
            del binding.held[notification.id]
        live = [n for n in ready if not n.expires or n.expires >= unix_s]
        self._counters.expired += len(ready) - len(live)
        return [Arrived(binding, n) for n in live]

    def background(self, binding: Binding, unix_s: float) -> list[Arrived]:
        """The app left the foreground: tips of those whose bodies did not come in time for it."""
        untold = [n for n in binding.held.values() if not (self._seen.get(n.source, n.id) or 0) & TIPPED]
        return [self._tip(binding, n) for n in untold if not n.expires or n.expires >= unix_s]

    def ask(self, binding: Binding, ids: Iterable[int]) -> None:
        """A FETCH for these is sent; no ids: for all."""
        for id in ids or list(binding.held):
            if (notification := binding.held.get(id)) is not None and notification.light:
                self._seen.mark(notification.source, id, ASKED)

    def wanted(self, binding: Binding) -> list[int]:
        """Ids of light ones whose bodies are to be fetched: in the background those that were asked for before."""
        return [n.id for n in binding.held.values() if n.light and (binding.foreground or self._is_asked(n))]

    def forget(self, notification: Notification) -> None:
        """It is not handed out (A5): where it comes again it is new, to another account too."""
        self._seen.forget(notification.source, notification.id)

    def forget_all(self, bindings: Iterable[Binding]) -> None:
        """The gateway is another, which counts from the start: what is held would be taken for its own, and so would
        confirmations."""
        self._seen.clear()
        for waiting in (self._acks, self._bodies, self._shown, self._owed):
            waiting.clear()
        for binding in bindings:
            self._counters.discarded += len(binding.held)
            binding.held.clear()
            binding.missed = False

    def drop(self, binding: Binding) -> None:
        """What is held is not handed out, and its bodies neither."""
        for notification in binding.held.values():
            if notification.light:
                self._seen.mark(notification.source, notification.id, FULL | ACKED_FULL)
        self._counters.discarded += len(binding.held)
        binding.held.clear()

    def link_lost(self) -> None:
        """What was not confirmed comes again on the next."""
        self._owed.clear()

    def end(self, binding: Binding) -> None:
        """What is held for it is nobody's any more."""
        for notification in binding.held.values():
            self.forget(notification)
        binding.held.clear()

    def recall(self, binding: Binding, ids: list[int]) -> list[Arrived]:
        """Only what this binding has had is its business."""
        gone = []
        for id in ids:
            binding.held.pop(id, None)
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
        if self._seen.mark(notification.source, notification.id, flag) and not self._is_outrun(notification):
            self._put_each(self._bodies if self._is_body(notification) else self._acks, binding, notification)

    def confirm_shown(self, binding: Binding, notification: Notification) -> None:
        flag = SHOWN_LIGHT if notification.light else SHOWN_FULL
        if binding.is_over and self._seen.get(notification.source, notification.id) is None:
            self._put(self._shown, binding, notification.id)  # what was forgotten with its account stays so
        elif self._seen.mark(notification.source, notification.id, flag) and not self._is_outrun(notification):
            self._put_each(self._shown, binding, notification)
            if self._is_body(notification):
                self._put(self._bodies, binding, notification.id)

    def flush(self, max_body: int) -> bytes:
        """All confirmations since the last call that are heard now, as few frames as fit. Those of a binding that this
        link does not have yet wait: a gateway takes none for what is not bound, and a fleet asks another node first."""
        if not self._acks and not self._bodies and not self._shown:
            return b""
        out = bytearray()
        step = min(MAX_IDS, (max_body - 5) // 9)  # msgpack: 5 bytes of array header at most, 9 an id
        acks, shown, bodies = _take_heard(self._acks), _take_heard(self._shown), _take_heard(self._bodies)
        if not self.says_whole:
            acks, bodies = acks + [id for id in bodies if id not in shown], []
        # SHOWN first: where it is known to be of the body it is all there is to write.
        for kind, ids in ((FrameType.ACK, acks), (FrameType.SHOWN, shown), (FrameType.WHOLE, bodies)):
            for at in range(0, len(ids), step):
                out += build_frame(kind, ids[at : at + step])
        self._counters.acks += len(acks) + len(bodies)
        self._counters.shown += len(shown)
        return bytes(out)

    def _is_asked(self, notification: Notification) -> bool:
        return bool((self._seen.get(notification.source, notification.id) or 0) & ASKED)

    def _is_outrun(self, notification: Notification) -> bool:
        """The light form of what is here whole by now, or was asked for: a gateway that sent the body would take the
        confirmation for the body's, which may never come."""
        flags = self._seen.get(notification.source, notification.id) or 0
        return notification.light and bool(flags & (FULL | ASKED))

    def _is_body(self, notification: Notification) -> bool:
        """It came light and is here whole, which an ACK does not say. Of a broadcast the light form's counts."""
        flags = self._seen.get(notification.source, notification.id) or 0
        return flags & (FULL | LIGHT) == FULL | LIGHT and not notification.broadcast

    def _confirm_again(self, binding: Binding, notification: Notification) -> None:
        """The gateway sent it again, so it had no confirmation: repeat what was said. Nothing was: still nothing, but
        of a broadcast as often as it came once it is."""
        flags = self._seen.get(notification.source, notification.id) or 0
        confirmed = flags & (CONFIRMED_FULL if flags & FULL else CONFIRMED_LIGHT)
        shown = confirmed & (SHOWN_LIGHT | SHOWN_FULL)
        if not confirmed or (notification.light and not flags & FULL and flags & ASKED):
            self._owe(notification)  # the body will be confirmed
            return
        if self._is_body(notification):
            self._put(self._bodies, binding, notification.id)
        elif not shown:
            self._put(self._acks, binding, notification.id)
        if shown:
            self._put(self._shown, binding, notification.id)

    def _owe(self, notification: Notification) -> None:
        key = notification.source, notification.id
        if not notification.broadcast or (key not in self._owed and len(self._owed) >= MAX_CONFIRMATIONS):
            return
        self._owed[key] = min(self._owed.get(key, 0) + 1, MAX_ON_LINK)

    def _put_each(self, waiting: list[_Confirmation], binding: Binding, notification: Notification) -> None:
        for _ in range(1 + self._owed.pop((notification.source, notification.id), 0)):
            self._put(waiting, binding, notification.id)

    def _put(self, waiting: list[_Confirmation], binding: Binding, id: int) -> None:
        if len(waiting) >= MAX_CONFIRMATIONS:
            self._counters.late_confirmations += 1
            return
        waiting.append((binding, id))


def _take_heard(waiting: list[_Confirmation]) -> list[int]:
    ids = [id for binding, id in waiting if binding.is_heard]
    waiting[:] = [entry for entry in waiting if not entry[0].is_heard]
    return ids
