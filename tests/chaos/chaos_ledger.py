"""The tester's own record of what was promised, sent, received and acked, and the rules it must obey.

Pure bookkeeping: no socket, no clock. Every call is one thing seen, in the order seen; a broken rule becomes a line of
`violations`. Nothing here may know how the gateway works inside.

When is an ack *certain*? Handing its bytes to the kernel proves nothing. It is
- **processed** when a later request on the same connection was answered: frames of one connection are taken in order.
  From then on the same process must never send that notification again on any link of the device.
- **durable** when it was processed and after that two pushes, one after the other, were answered by the same process
  that are only answered after their commit (rows are committed in order; two, because what is derived may go with the
  commit that follows); or when its receipt was read from the feed, which shows what is committed. From then on no
  process may send it again on a link opened later, however often it was killed meanwhile.
An ack that was processed and not yet durable at a kill was in flight: the notification may come again, with its id.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

#: devices are known by their place in the crowd
Device = int
Pair = tuple[Device, int]  # device, notification id


class LinkMark(NamedTuple):
    """One connection of a device."""

    device: Device
    generation: int  # of the gateway process
    opened: int  # place in the order of everything that was seen


@dataclass
class Push:
    """One push, written down before it is sent."""

    mark: str  # its title, by which a device's notification is told to be its
    kind: str
    expected: frozenset[Device]
    broadcast: bool
    key: str = ""
    #: answered 201, or 200 as a repetition; the id it was given
    answered: str = ""
    answered_at: int = 0
    #: place in the order of the answer that nothing was accepted, 0: none
    refused_at: int = 0
    #: a recall was asked for: it may be gone
    recall_asked: bool = False
    #: place in the order of the answer to the recall, 0: none
    recalled_at: int = 0
    #: it waits for its time, or its audience is looked for: its deliveries are not known when it is answered, and there
    #: are none where it is recalled before
    kept: bool = False
    #: devices that got it whole
    received: set[Device] = field(default_factory=set)


@dataclass
class _Acked:
    link: LinkMark  # on which it was processed
    durable_at: int = 0


class Ledger:
    """What one run saw."""

    def __init__(self) -> None:
        self.pushes: dict[str, Push] = {}
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._order = 0
        self._mark_of: dict[int, str] = {}  # notification id → push
        self._device_of: dict[int, Device] = {}  # notification id → device; not of a broadcast
        self._id_of: dict[tuple[str, Device], int] = {}
        self._push_ids: dict[str, str] = {}  # push id → mark
        self._ack_sent: set[Pair] = set()
        self._acked: dict[Pair, _Acked] = {}
        self._unproved: dict[int, set[Pair]] = {}  # generation → processed, not durable
        self._tokens: dict[Device, str] = {}
        self._holders: dict[str, Device] = {}  # token → device
        self._feed: list[tuple[int, str, int]] = []  # cursor, push id, delivery
        self._fed: dict[tuple[str, int], int] = {}  # (push id, delivery) → cursor

    def _tick(self) -> int:
        self._order += 1
        return self._order

    def violate(self, text: str) -> None:
        self.violations.append(text)

    # --- the provider's side

    def intend(self, push: Push) -> Push:
        """Before it is sent."""
        assert push.mark not in self.pushes
        self.pushes[push.mark] = push
        self.counts[f"pushed {push.kind}"] += 1
        return push

    def accepted(self, push: Push, push_id: str, *, replay: bool, targeted: int | None) -> None:
        """Answered 201, or 200 where its idempotency key was known."""
        if replay and not push.key:
            self.violate(f"{push.mark}: answered as a repetition, without a key")
        if push.answered and not replay:
            self.violate(f"{push.mark}: the key made a second push")
        if push.answered and push_id != push.answered:
            self.violate(f"{push.mark}: the key stands for another push now")
        other = self._push_ids.setdefault(push_id, push.mark)
        if other != push.mark:
            self.violate(f"push id of {other} was given to {push.mark} too")
        wanted = None if push.broadcast else len(push.expected)
        if targeted != wanted and not ((replay or push.kept) and targeted is None):
            self.violate(f"{push.mark} ({push.kind}): {targeted} deliveries, expected {wanted}")
        if not push.answered:
            push.answered, push.answered_at = push_id, self._tick()
            self.counts["answered"] += 1

    def refused(self, push: Push) -> None:
        """Answered that nothing was accepted."""
        push.refused_at = self._tick()
        self.counts["refused"] += 1

    def recall_asked(self, push: Push) -> None:
        push.recall_asked = True

    def recalled(self, push: Push) -> None:
        """The recall was answered 200."""
        if not push.recalled_at:
            push.recalled_at = self._tick()
            self.counts["recalled"] += 1

    # --- the devices' side

    def opened(self, device: Device, generation: int) -> LinkMark:
        return LinkMark(device, generation, self._tick())

    def token(self, device: Device, token: str, *, created: bool) -> None:
        """TOKEN was answered."""
        known = self._tokens.get(device)
        if known is None:
            self._tokens[device] = token
            self._holders[token] = device
        elif known != token:
            self.violate(f"device {device}: another token after a restart")
        elif created:
            self.violate(f"device {device}: its registration was forgotten")

    def notified(self, link: LinkMark, note_id: int, mark: str, *, whole: bool) -> None:
        """A NOTIFY came; `whole` False: its light form."""
        self.counts["notified"] += 1
        device = link.device
        push = self.pushes.get(mark)
        if push is None:
            self.violate(f"device {device} got {mark!r}, which nobody sent")
            return
        if device not in push.expected:
            self.violate(f"device {device} got {mark}, which is not for it")
        self._check_identity(push, device, note_id)
        self._check_ends(push, link, note_id)
        if whole:
            self.counts["repeated"] += device in push.received
            push.received.add(device)

    def _check_identity(self, push: Push, device: Device, note_id: int) -> None:
        """A redelivery has the same id, and an id never means anything else."""
        known = self._mark_of.setdefault(note_id, push.mark)
        if known != push.mark:
            self.violate(f"id {note_id} was {known} and is {push.mark} now")
        first = self._id_of.setdefault((push.mark, device), note_id)
        if first != note_id:
            self.violate(f"device {device} got {push.mark} ({push.kind}) as {first} and again as {note_id}")
        if not push.broadcast and self._device_of.setdefault(note_id, device) != device:
            self.violate(f"id {note_id} ({push.mark}) was for another device")

    def _check_ends(self, push: Push, link: LinkMark, note_id: int) -> None:
        acked = self._acked.get((link.device, note_id))
        if acked is not None:
            if link.generation == acked.link.generation:
                self.violate(f"device {link.device} got {push.mark} ({push.kind}) again though its ack was processed")
            elif acked.durable_at and link.opened > acked.durable_at:
                self.violate(f"device {link.device} got {push.mark} ({push.kind}) again though its ack was durable")
            else:
                self.counts["repeated, ack in flight at a kill"] += 1
        if push.refused_at and link.opened > push.refused_at:
            self.violate(f"device {link.device} got {push.mark} ({push.kind}), which was refused before")
        if push.recalled_at and link.opened > push.recalled_at:
            self.violate(f"device {link.device} got {push.mark} ({push.kind}) though it was recalled before")

    def ack_sent(self, link: LinkMark, note_id: int) -> None:
        self._ack_sent.add((link.device, note_id))
        self.counts["acks sent"] += 1

    def processed(self, link: LinkMark, ids: Iterable[int]) -> None:
        """These acks were sent on the link, and something sent after them was answered on it."""
        for note_id in ids:
            pair = (link.device, note_id)
            known = self._acked.get(pair)
            if known is None or not known.durable_at:
                self._acked[pair] = _Acked(link)
                self._unproved.setdefault(link.generation, set()).add(pair)
                self.counts["acks processed"] += known is None

    def unproved(self, generation: int) -> Collection[Pair]:
        """What two commits from now on prove durable, if this process answers both."""
        return frozenset(self._unproved.get(generation, ()))

    def durable(self, pairs: Iterable[Pair]) -> None:
        now = self._tick()
        for pair in pairs:
            acked = self._acked[pair]
            if not acked.durable_at:
                acked.durable_at = now
                self.counts["acks durable"] += 1
            self._unproved[acked.link.generation].discard(pair)

    # --- the receipts feed

    @property
    def cursor(self) -> int:
        return self._feed[-1][0] if self._feed else 0

    def receipt(self, cursor: int, push_id: str, delivery: int, state: str, token: str) -> None:
        """One line of the feed, read with `cursor` of the line before. `delivery`: its place in the push; empty token:
        nobody's."""
        if cursor <= self.cursor:
            self.violate(f"receipt {cursor} came after {self.cursor}")
        first = self._fed.setdefault((push_id, delivery), cursor)
        if first != cursor:
            self.violate(f"delivery {delivery} has receipts {first} and {cursor}")
        self._feed.append((cursor, push_id, delivery))
        self.counts[f"receipts {state}"] += 1
        push = self.pushes.get(self._push_ids.get(push_id, ""))
        if state == "recalled":
            if push is not None and not push.recall_asked:
                self.violate(f"{push.mark}: a receipt says recalled, and nobody asked for it")
        elif state != "acked":
            self.violate(f"delivery {delivery} ended as {state}")
        elif push is None or token not in self._holders:
            pass  # which push it was, or whose, is not known
        elif (note_id := self._id_of.get((push.mark, self._holders[token]))) is not None:
            pair = (self._holders[token], note_id)
            # The link is not known: only that it must not come on a later one.
            self._acked.setdefault(pair, _Acked(LinkMark(pair[0], -1, 0)))
            if not self._acked[pair].durable_at:
                self._acked[pair].durable_at = self._tick()
                self.counts["acks durable"] += 1
        else:
            self.violate(f"delivery {delivery} was acked, and no device got it")

    def compare_feed(self, whole: list[tuple[int, str, int]]) -> None:
        """The feed read from its beginning must be what was followed over all restarts."""
        missed = set(whole) - set(self._feed)
        gone = set(self._feed) - set(whole)
        if missed:
            self.violate(f"{len(missed)} receipts were passed over, first {min(missed)}")
        if gone:
            self.violate(f"{len(gone)} receipts are gone, first {min(gone)}")

    # --- at the end

    def missing(self) -> dict[Device, list[str]]:
        """Answered 201, not recalled, and not received whole by now."""
        wanting: dict[Device, list[str]] = {}
        for push in self.pushes.values():
            if push.answered and not push.recall_asked:
                for device in push.expected - push.received:
                    wanting.setdefault(device, []).append(f"{push.mark} ({push.kind})")
        return wanting

    def unfed(self) -> list[Push]:
        """Answered pushes of whose deliveries the feed does not tell. Only this explains it: the push was for one
        device, without a key, and answered because the device's ack was there before the commit, which a kill cut; or
        it was recalled before its time."""
        fed = Counter(push_id for _, push_id, _ in self._feed)
        wanting = []
        for push in self.pushes.values():
            if not push.answered or push.broadcast or fed[push.answered] == len(push.expected):
                continue
            if push.kept and push.recall_asked and not fed[push.answered]:
                continue
            wanting.append(push)
            acked = {
                device
                for device in push.expected
                if (device, self._id_of.get((push.mark, device), 0)) in self._ack_sent
            }
            if push.key or len(push.expected) != 1 or not acked:
                self.violate(f"{push.mark} ({push.kind}): {fed[push.answered]} receipts, expected {len(push.expected)}")
        return wanting

    def verdict(self) -> str:
        """The broken rules, each kind with how often and its first case."""
        kinds: dict[str, list[str]] = {}
        for text in self.violations:
            kinds.setdefault(re.sub(r"\d+", "#", text), []).append(text)
        return "\n".join(f"{len(texts)} x {texts[0]}" for texts in kinds.values())

    def summary(self) -> str:
        return ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()))
