"""What must hold of a fleet's history whatever broke meanwhile: pure functions, each a rule of docs/delivery.md that
names what broke it. Must not know how a fleet works inside.

A try that got no answer, or 503, is in doubt: its push may be in or not. With an idempotency key it is tried again
until it is answered; without one it stays in doubt, and may come once or never. A fault lasts from its begin to its
end and `GRACE_S` more: what was on its way then may be sent twice (with its id, so no app sees it twice), and
what a link took in vain goes last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fleet_history import (
    Acked,
    Answered,
    Asked,
    Became,
    Bound,
    Fault,
    Frame,
    History,
    LinkDown,
    LinkUp,
    Looked,
    RecallAsked,
    Recalled,
    Receipted,
    Shown,
    Stopped,
    Tried,
)

from gateway.model.cluster import partition_of_seq

#: after the end of a fault, until it is forgotten: leases run out, devices find another node, acks time out
GRACE_S = 12.0
#: 200: known by its key
_TAKEN = (200, 201)
_SPOOLED = 202
_IN_DOUBT = (0, 503)
_NEVER = float("inf")


class Broken(NamedTuple):
    """One broken rule."""

    rule: str
    text: str


class Push:
    """All that was seen of one push."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.op = asked.op
        self.tried_at = asked.at
        self.ids: list[str] = []
        self.taken_at = _NEVER
        self.in_doubt = 0
        self.spooled = False
        self.spool_ids: set[str] = set()  # more than one: two spools have it, or one kept it again after a recall
        self.end = ""  # in the spool
        self.recall_asked_at = _NEVER
        self.recalled_at = _NEVER
        self.looked: list[Looked] = []

    @property
    def is_taken(self) -> bool:
        return bool(self.ids) or (self.spooled and not self.end)

    @property
    def is_single(self) -> bool:
        return len(self.asked.wanted) == 1 and not self.asked.broadcast and not self.asked.kept


class Link(NamedTuple):
    device: int
    up_at: float
    down_at: float


class Story:
    """A history put together for questions."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.pushes: dict[str, Push] = {}
        self.links: dict[int, Link] = {}
        self.frames: list[Frame] = list(history.of(Frame))
        self.firsts: dict[tuple[str, str], tuple[int, Frame]] = {}  # (op, registration) → place, its first frame
        self.shown: dict[tuple[str, str], list[Shown]] = {}
        self.receipts: dict[tuple[str, str, int], list[Receipted]] = {}  # (app, push, delivery) → as followed
        self.receipts_by: dict[tuple[str, str], list[Receipted]] = {}  # (push, registration) → the same
        self.ids: dict[tuple[str, str], set[int]] = {}  # (op, registration) → what its frames were numbered
        self.acked_ids: dict[tuple[int, int], float] = {}  # (device, delivery) → when its ack was written first
        self.windows: list[tuple[float, float]] = []
        for asked in history.of(Asked):
            self.pushes[asked.op] = Push(asked)
        for place, frame in enumerate(self.frames):
            self.firsts.setdefault((frame.op, frame.reg), (place, frame))
            self.ids.setdefault((frame.op, frame.reg), set()).add(frame.id)
        for shown in history.of(Shown):
            self.shown.setdefault((shown.op, shown.reg), []).append(shown)
        for receipt in history.of(Receipted):
            if not receipt.whole:
                self.receipts.setdefault((receipt.app, receipt.push, receipt.delivery), []).append(receipt)
                self.receipts_by.setdefault((receipt.push, receipt.reg), []).append(receipt)
        self._put_links_together()
        self._put_answers_together()
        self._put_faults_together()
        self.op_of_id = {push_id: push.op for push in self.pushes.values() for push_id in push.ids}

    def _put_links_together(self) -> None:
        for up in self.history.of(LinkUp):
            self.links[up.link] = Link(up.device, up.at, _NEVER)
        for down in self.history.of(LinkDown):
            self.links[down.link] = self.links[down.link]._replace(down_at=down.at)
        for acked in self.history.of(Acked):
            for id in acked.ids:
                self.acked_ids.setdefault((self.links[acked.link].device, id), acked.at)

    def _put_answers_together(self) -> None:
        tried: set[str] = set()
        for event in self.history.events:
            if isinstance(event, Tried) and event.op not in tried:
                tried.add(event.op)
                self.pushes[event.op].tried_at = event.at
            elif isinstance(event, Answered):
                push = self.pushes[event.op]
                if event.status in _TAKEN:
                    push.taken_at = min(push.taken_at, event.at)
                    push.ids += [event.id] if event.id not in push.ids else []
                elif event.status == _SPOOLED:
                    push.taken_at = min(push.taken_at, event.at)
                    push.spooled = True
                    push.spool_ids.add(event.id)
                elif event.status in _IN_DOUBT:
                    push.in_doubt += 1
            elif isinstance(event, Became):
                push = self.pushes[event.op]
                push.end = event.state
                push.ids += [event.id] if event.id and event.id not in push.ids else []
            elif isinstance(event, RecallAsked):
                self.pushes[event.op].recall_asked_at = min(self.pushes[event.op].recall_asked_at, event.at)
            elif isinstance(event, Recalled) and event.status == 200:
                self.pushes[event.op].recalled_at = min(self.pushes[event.op].recalled_at, event.at)
            elif isinstance(event, Looked):
                self.pushes[event.op].looked.append(event)

    def _put_faults_together(self) -> None:
        begun: dict[int, float] = {}
        for fault in self.history.of(Fault):
            if fault.begins:
                begun[fault.number] = fault.at
            else:
                self.windows.append((begun.pop(fault.number, 0.0), fault.at + GRACE_S))
        self.windows += [(began, _NEVER) for began in begun.values()]

    def is_troubled(self, since: float, until: float) -> bool:
        """A fault, or what it left, falls into this time."""
        return any(began <= until and ended >= since for began, ended in self.windows)

    def state_of(self, push: Push, reg: str) -> str:
        """What the feed says of a push's delivery to a registration; empty: nothing."""
        states = [receipt.state for receipt in self.receipts_of(push, reg)]
        return states[0] if states else ""

    def receipts_of(self, push: Push, reg: str) -> list[Receipted]:
        """Of a push's delivery to a registration; a push to one has but one, whoever the token is by now."""
        names = (reg, "") if len(push.asked.wanted) == 1 else (reg,)
        return [receipt for id in push.ids for name in names for receipt in self.receipts_by.get((id, name), ())]


def device_of(reg: str) -> int:
    return int(reg.split("/", 1)[0])


def lost(story: Story) -> Iterator[Broken]:
    """Nothing answered 201 is lost: each app has it, unless it was recalled or its time ran out."""
    for push in story.pushes.values():
        if not push.is_taken or push.recall_asked_at < _NEVER:
            continue
        for reg in push.asked.wanted:
            if (push.op, reg) in story.shown:
                continue
            if push.asked.ttl_s and (push.asked.broadcast or story.state_of(push, reg) == "expired"):
                continue
            if push.asked.collapse and story.state_of(push, reg) == "replaced":
                continue
            yield Broken("lost", f"{push.op} ({push.asked.kind}) never came to {reg}")


def strange(story: Story) -> Iterator[Broken]:
    """Nothing comes to another account, device or token, and nothing that nobody sent."""
    for event in (*story.frames, *story.history.of(Shown)):
        push = story.pushes.get(event.op)
        if push is None:
            yield Broken("strange", f"{event.reg or 'a device'} got {event.op!r}, which nobody sent")
        elif not event.reg:
            yield Broken("strange", f"{event.op} came with a token that the device does not have")
        elif event.reg not in push.asked.wanted:
            yield Broken("strange", f"{event.op} ({push.asked.kind}) came to {event.reg}, for whom it is not")


def twice(story: Story) -> Iterator[Broken]:
    """No app sees a message twice, and what a receipt says is acked is not sent on a link that was opened later."""
    for (op, reg), times in story.shown.items():
        if len(times) > 1:
            yield Broken("twice", f"{reg} was shown {op} {len(times)} times")
    for frame in story.frames:
        push = story.pushes.get(frame.op)
        if push is None or push.asked.broadcast:
            continue
        for receipt in story.receipts_of(push, frame.reg):
            if receipt.state == "acked" and story.links[frame.link].up_at > receipt.at:
                yield Broken("twice", f"{frame.op} was sent to {frame.reg} again though its ack was receipted")


def recalled(story: Story) -> Iterator[Broken]:
    """What was recalled is not sent on a link that was opened later. A recall names one id: what was kept in a spool
    under another is not taken back by it."""
    for frame in story.frames:
        push = story.pushes.get(frame.op)
        if push is not None and len(push.spool_ids) < 2 and story.links[frame.link].up_at > push.recalled_at:
            yield Broken("recalled", f"{frame.op} was sent to {frame.reg} though it was recalled before")


def identity(story: Story) -> Iterator[Broken]:
    """A push has one id, a delivery has one, and neither ever means anything else."""
    for push in story.pushes.values():
        if len(push.ids) > 1:
            yield Broken("identity", f"{push.op} was answered with {len(push.ids)} ids")
    owners = Counter(push_id for push in story.pushes.values() for push_id in push.ids)
    for push_id, count in owners.items():
        if count > 1:
            yield Broken("identity", f"push id {push_id} stands for {count} pushes")
    ids: dict[tuple[str, str], int] = {}
    meant: dict[tuple[str, int], tuple[str, str]] = {}
    for frame in story.frames:
        push = story.pushes.get(frame.op)
        if push is None:
            continue
        if ids.setdefault((frame.op, frame.reg), frame.id) != frame.id:
            yield Broken("identity", f"{frame.reg} got {frame.op} ({push.asked.kind}) under two ids")
        means = (frame.op, "" if push.asked.broadcast else frame.reg)
        if meant.setdefault((push.asked.app, frame.id), means) != means:
            yield Broken("identity", f"one id was {meant[(push.asked.app, frame.id)]} and is {means}")


def answers(story: Story) -> Iterator[Broken]:
    """A push is taken, or in doubt with a time to come back; 200 is for a key that is known."""
    tries: Counter[str] = Counter()
    for event in story.history.of(Answered):
        tries[event.op] += 1
        push = story.pushes[event.op]
        if event.status not in (*_TAKEN, _SPOOLED, *_IN_DOUBT):
            yield Broken("answers", f"{event.op} ({push.asked.kind}) was answered {event.status} {event.error}")
        elif event.status == 503 and not event.retry_after:
            yield Broken("answers", f"{event.op}: 503 {event.error} does not say when to come back")
        elif event.status == 200 and not push.asked.key:
            yield Broken("answers", f"{event.op} was answered as a repetition, without a key")
        elif event.status == 201 and tries[event.op] > 1 and event.at > push.taken_at and not push.spooled:
            yield Broken("answers", f"{event.op}: its key made a second push")


def order(story: Story) -> Iterator[Broken]:
    """What was answered before another push to the same token was asked for is not overtaken by it, but where a link
    may have taken it in vain: another link of the device, or a fault."""
    for earlier, later, is_excused in overtakings(story):
        if not is_excused:
            yield Broken("order", f"{later.op} overtook {earlier.op} at {earlier.asked.wanted[0]}")


def overtakings(story: Story) -> Iterator[tuple[Push, Push, bool]]:
    by_reg: dict[str, list[tuple[int, Frame, Push]]] = {}
    for push in story.pushes.values():
        if push.is_single and push.is_taken and push.recall_asked_at == _NEVER and not push.asked.collapse:
            reg = push.asked.wanted[0]
            first = story.firsts.get((push.op, reg))
            if first is not None:
                by_reg.setdefault(reg, []).append((*first, push))
    links: dict[int, list[tuple[int, Link]]] = {}
    for number, link in story.links.items():
        links.setdefault(link.device, []).append((number, link))
    for reg, row in by_reg.items():
        row.sort(key=lambda one: one[0])
        earliest = _NEVER  # answer of those that came later
        for at in range(len(row) - 1, -1, -1):
            later = row[at][2]
            if earliest < later.tried_at:
                for _, frame, earlier in row[at + 1 :]:
                    if earlier.taken_at < later.tried_at:
                        yield earlier, later, _is_excused(story, links[device_of(reg)], earlier, frame)
            earliest = min(earliest, later.taken_at)


def _is_excused(story: Story, links: list[tuple[int, Link]], push: Push, frame: Frame) -> bool:
    since, until = push.tried_at, frame.at
    others = (link for number, link in links if number != frame.link)
    return story.is_troubled(since, until) or any(o.up_at <= until and o.down_at >= since for o in others)


def feed(story: Story) -> Iterator[Broken]:
    """The feed of an app rises (partitions may give the same cursor), tells of a delivery once, and tells the same to
    who reads it from its beginning."""
    cursors: dict[str, tuple[int, set[int]]] = {}  # app → its last, and the partitions that gave it
    followed: dict[str, set[tuple[int, str, int]]] = {}
    whole: dict[str, set[tuple[int, str, int]]] = {}
    for receipt in story.history.of(Receipted):
        row = (receipt.cursor, receipt.push, receipt.delivery)
        if receipt.whole:
            whole.setdefault(receipt.app, set()).add(row)
            continue
        last, partitions = cursors.get(receipt.app, (0, set()))
        partition = partition_of_seq(receipt.delivery)
        if receipt.cursor < last or (receipt.cursor == last and partition in partitions):
            yield Broken("feed", f"receipt {receipt.cursor} of {receipt.app} came after {last}")
        if receipt.cursor >= last:
            others = partitions if receipt.cursor == last else set()
            cursors[receipt.app] = receipt.cursor, {*others, partition}
        followed.setdefault(receipt.app, set()).add(row)
    for (app, _, delivery), receipts in story.receipts.items():
        if len(receipts) > 1:
            yield Broken("feed", f"delivery {delivery} of {app} has {len(receipts)} receipts")
    for app in whole:
        for cursor, _, delivery in sorted(whole[app] - followed.get(app, set())):
            yield Broken("feed", f"receipt {cursor} of {app} (delivery {delivery}) was passed over")
        for cursor, _, delivery in sorted(followed.get(app, set()) - whole[app]):
            yield Broken("feed", f"receipt {cursor} of {app} (delivery {delivery}) is gone")


def ends(story: Story) -> Iterator[Broken]:
    """Each delivery of a push that was taken ends once, as what was seen of it says, and its look-up agrees."""
    by_push: dict[str, list[Receipted]] = {}
    for receipts in story.receipts.values():
        by_push.setdefault(receipts[0].push, []).append(receipts[0])
    for push in story.pushes.values():
        if push.end and not (push.end == "expired" and push.asked.ttl_s) and push.recall_asked_at == _NEVER:
            yield Broken("ends", f"{push.op} ({push.asked.kind}) ended in the spool as {push.end}")
        if push.is_taken and not push.ids and push.recall_asked_at == _NEVER:
            yield Broken("ends", f"{push.op} ({push.asked.kind}) was kept in a spool, and is there for good")
        if not push.ids or push.asked.broadcast:
            continue
        found = {receipt.delivery: receipt for receipt in by_push.get(push.ids[0], ())}
        states = {receipt.reg: receipt.state for receipt in found.values()}
        for receipt in found.values():
            if fault := _wrong_end(story, push, receipt):
                yield Broken("ends", f"{push.op} ({push.asked.kind}) ended as {receipt.state} {fault}")
        is_whole = len(found) == len(push.asked.wanted)
        # recalled before its deliveries were made, or before they were made everywhere
        before = push.asked.kept and push.recall_asked_at < _NEVER
        if not is_whole and not before and not acked_before_the_commit(story, push):
            wanted = len(push.asked.wanted)
            yield Broken("ends", f"{push.op} ({push.asked.kind}) has {len(found)} receipts, expected {wanted}")
        yield from _look_ups(story, push, states)


def _wrong_end(story: Story, push: Push, receipt: Receipted) -> str:
    if receipt.state == "acked":
        ids = story.ids.get((push.op, receipt.reg), ())
        if receipt.reg and not any((device_of(receipt.reg), id) in story.acked_ids for id in ids):
            return f"and {receipt.reg} acked nothing"
        return ""
    if receipt.state == "recalled":
        return "" if push.recall_asked_at < _NEVER else "and nobody asked for it"
    if receipt.state == "replaced":
        return "" if push.asked.collapse else "and has no key to be replaced by"
    if receipt.state == "expired":
        return "" if push.asked.ttl_s else "and its time was not over"
    return "which nothing asked for"


def acked_before_the_commit(story: Story, push: Push) -> bool:
    """Answered because of the device's ack, and its commit was cut off by a fault: over, and nothing knows of it. Not
    so with a key, and not where it was for several. A scheduled one whose time has come when it is taken is as any."""
    is_one = push.is_single or (push.asked.kind == "scheduled" and len(push.asked.wanted) == 1)
    first = story.firsts.get((push.op, push.asked.wanted[0])) if is_one and not push.asked.key else None
    if first is None:
        return False
    acked_at = story.acked_ids.get((device_of(push.asked.wanted[0]), first[1].id), _NEVER)
    return acked_at <= push.taken_at and story.is_troubled(push.taken_at, push.taken_at)


def _look_ups(story: Story, push: Push, states: dict[str, str]) -> Iterator[Broken]:
    for look in push.looked:
        if look.status == 404 and acked_before_the_commit(story, push):
            continue
        if look.status != 200:
            yield Broken("ends", f"{push.op} ({push.asked.kind}): its look-up at {look.node} is {look.status}")
            continue
        for reg, state in look.deliveries:
            if states.get(reg) is None:
                yield Broken("ends", f"{push.op}: {state} for {reg} at {look.node}, and there is no receipt")
            elif states[reg] != state:
                yield Broken("ends", f"{push.op}: {state} for {reg} at {look.node}, and its receipt says {states[reg]}")
        if not look.deliveries and states:
            yield Broken("ends", f"{push.op}: its look-up at {look.node} knows no delivery")


def devices(story: Story) -> Iterator[Broken]:
    """A token is for ever, and no device is told to stay away for good."""
    tokens: dict[str, str] = {}
    for bound in story.history.of(Bound):
        if tokens.setdefault(bound.reg, bound.token) != bound.token:
            yield Broken("devices", f"{bound.reg} has another token")
            tokens[bound.reg] = bound.token
    for stopped in story.history.of(Stopped):
        yield Broken("devices", f"device {stopped.device}: {stopped.error}")


RULES: tuple[Callable[[Story], Iterator[Broken]], ...] = (
    lost,
    strange,
    twice,
    recalled,
    identity,
    answers,
    order,
    feed,
    ends,
    devices,
)


def check(history: History) -> list[Broken]:
    story = Story(history)
    return [broken for rule in RULES for broken in rule(story)]


def figures(history: History) -> dict[str, int]:
    """What the run was, in numbers."""
    story = Story(history)
    taken = [push for push in story.pushes.values() if push.is_taken]
    doubts = [push for push in story.pushes.values() if push.in_doubt and not push.is_taken]
    repeated = [frame for place, frame in enumerate(story.frames) if story.firsts[(frame.op, frame.reg)][0] != place]
    states = Counter(receipts[0].state for receipts in story.receipts.values())
    return {
        "asked": len(story.pushes),
        "answered 201": len(taken),
        "kept in a spool": sum(push.spooled for push in story.pushes.values()),
        "answered 503": sum(1 for answer in history.of(Answered) if answer.status == 503),
        "without an answer": sum(1 for answer in history.of(Answered) if answer.status == 0),
        "in doubt for good": len(doubts),
        "of those delivered": sum(1 for push in doubts if any((push.op, r) in story.shown for r in push.asked.wanted)),
        "deliveries wanted": sum(len(push.asked.wanted) for push in taken),
        "shown to apps": sum(len(times) for times in story.shown.values()),
        "shown twice": sum(len(times) - 1 for times in story.shown.values()),
        "frames": len(story.frames),
        "frames of what was on its way": len(repeated),
        "overtaken at a fault": sum(excused for *_, excused in overtakings(story)),
        "acked before a commit that was cut off": sum(
            1
            for push in taken
            if acked_before_the_commit(story, push)
            and not any(receipts[0].push in push.ids for receipts in story.receipts.values())
        ),
        **{f"receipts {state}": count for state, count in sorted(states.items())},
        "links": len(story.links),
        "faults": sum(fault.begins for fault in history.of(Fault)),
    }


def verdict(broken: list[Broken], most: int = 5) -> str:
    """Each rule with how often it was broken and the first cases."""
    kinds: dict[str, list[str]] = {}
    for rule, text in broken:
        kinds.setdefault(rule, []).append(text)
    return "\n".join(
        f"{rule}: {len(texts)} x\n" + "\n".join(f"    {text}" for text in texts[:most]) for rule, texts in kinds.items()
    )
