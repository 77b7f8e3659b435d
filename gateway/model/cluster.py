"""The words of a fleet: nodes, partitions and their numbers, and what the floors ask of the engine between nodes; must
hold no I/O and no clock.

A **node** is one gateway process. A **partition** is a part of all registrations, by the first bits of their tokens,
with everything that belongs to them: journal, receipts, schedules. It has one **owner** at a time, a node; each change
of owner raises its **epoch**, and what a node of an older epoch says is not heard. A device is connected to any node;
an **attachment** is its session there as owners know it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.model.errors import GatewayError

#: tokens fall into so many slots, by their first ten bits; a number of partitions divides it
SLOTS = 1024
#: a sequence number is its partition + 1 above these bits (0: one machine alone), and a count below: 4.4 thousand
#: billion for each partition. All of them are below 2**53, so they survive JSON and JavaScript too
SEQ_SHIFT = 42
#: broadcasts are numbered for the whole fleet, in a field of their own
BROADCAST_FIELD = 2047
#: a link on another node, as an owner's tables hold it: this above bit 56 (reactors have numbers below), the node's
#: number above bit 40, its attachment below
FAR_REACTOR = 0xFF
_NODE_SHIFT = 40
_ATTACHMENTS = (1 << _NODE_SHIFT) - 1
#: receipts are numbered by the clock, so that feeds of several partitions have one order: Unix ms above these bits.
#: Whole numbers up to 2**53 survive JSON in any language
CURSOR_SHIFT = 12


#: token → slot of those that lie elsewhere than their first bits say: a gateway that was alone gave them out, and its
#: registrations were imported. Which they are never changes, so it is known to the whole process
_strays: dict[bytes, int] = {}


def first_bits(token: bytes) -> int:
    """The slot that a token says."""
    return (token[0] << 2) | (token[1] >> 6)


def learn_strays(strays: Mapping[bytes, int]) -> None:
    """From now on `partition_of` knows where these lie; before a door is opened."""
    _strays.update(strays)


def has_strays() -> bool:
    return bool(_strays)


def partition_of(token: bytes, partitions: int) -> int:
    """Where a token belongs. Tokens are outputs of an HMAC, so their first bits spread evenly."""
    slot = (token[0] << 2) | (token[1] >> 6)
    if _strays:
        slot = _strays.get(token, slot)
    return slot * partitions // SLOTS


def home_of(app: str, partitions: int) -> int:
    """An app's home: the partition where what concerns all of its registrations begins, and where its quotas are
    counted. The same on every node, and for ever."""
    return partition_of(
        hashlib.sha256(b"heliograph home\0" + app.encode("utf-8", "surrogatepass")).digest(), partitions
    )


def first_seq(partition: int) -> int:
    return (partition + 1) << SEQ_SHIFT


def partition_of_seq(seq: int) -> int:
    """-1: a broadcast, or of one machine alone."""
    field = seq >> SEQ_SHIFT
    return -1 if field == BROADCAST_FIELD else field - 1


def is_imported_seq(seq: int) -> bool:
    """Of a gateway that was alone, whose store was imported: any partition may have it."""
    return seq >> SEQ_SHIFT == 0


def is_broadcast_seq(seq: int) -> bool:
    return seq >> SEQ_SHIFT == BROADCAST_FIELD


def broadcast_seq(place: int) -> int:
    """Of the broadcast at this place (from 1) of the fleet's stream."""
    return BROADCAST_FIELD << SEQ_SHIFT | place


def far_link(node: int, attachment: int) -> int:
    return FAR_REACTOR << 56 | node << _NODE_SHIFT | (attachment & _ATTACHMENTS)


def node_of_link(link: int) -> int:
    return link >> _NODE_SHIFT & 0xFFFF


def attachment_of_link(link: int) -> int:
    return link & _ATTACHMENTS


class Member(NamedTuple):
    """A node as the others know it."""

    number: int  # 1 to 65,535, new at each start: two lives of a node are never taken for one
    name: str  # cluster.node, the same at each start
    devices: str  # host:port where devices find it, told to those it takes over; empty: nobody is sent there
    api: str  # URL of its provider door, for people
    version: int  # of what nodes say to each other; see VERSION
    draining: bool = False  # takes no partitions and no devices any more
    links: int = 0  # devices connected, some seconds old


#: of what nodes say to each other. A node understands its own and the one before
VERSION = 1


class Owner(NamedTuple):
    """Whose a partition is. `node` 0: nobody's now."""

    node: int  # number of a member
    epoch: int


class Stranded(NamedTuple):
    """A partition that nobody has served for longer than a fail-over takes."""

    partition: int
    for_s: float
    reason: str


class Handler(Protocol):
    """Answers what another node asks, or hears what it tells (the answer is dropped then). May be sync or async; a
    GatewayError reaches who asked."""

    def __call__(self, sender: int, body: bytes) -> bytes | Awaitable[bytes]: ...


#: says what became of a question, once: what it is told later is not heard. It does not raise
Reply = Callable[[bytes | GatewayError], None]


def tell_future(future: asyncio.Future[bytes], answer: bytes | GatewayError) -> None:
    """A `Reply` for who waits."""
    if future.done():
        return
    if isinstance(answer, GatewayError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


class ReplyHandler(Protocol):
    """The same without anything to wait for: `reply` is called before it returns, or later. A GatewayError raised
    counts as the reply."""

    def __call__(self, sender: int, body: bytes, reply: Reply) -> None: ...


#: what goes to another node; what is large goes in pieces, so that it is copied once
Body = bytes | tuple[bytes | memoryview, ...]


def whole_of(body: Body) -> bytes:
    return body if isinstance(body, bytes) else b"".join(body)


class Bus(Protocol):
    """Between nodes. What one node tells and answers another arrives in that order, at most once; what was lost shows
    as a gap (`on_gap`). All on the control thread."""

    @property
    def number(self) -> int:
        """Of this node."""
        ...

    @property
    def is_up(self) -> bool:
        """False while the engine can not be reached."""
        ...

    def serve(self, kind: str, handler: Handler) -> None:
        """Who handles messages of this kind; once for each kind, before `start`. Sync handlers run in the order of
        arrival, and before anything that arrived later."""
        ...

    def serve_replies(self, kind: str, handler: ReplyHandler) -> None:
        """The same of a kind that comes so often that a future for each would be felt."""
        ...

    async def ask(self, node: int, kind: str, body: Body, *, timeout_s: float) -> bytes:
        """NodeUnreachable where no answer came in time (it may have been carried out); any GatewayError the other
        raised. Asking oneself is a plain call."""
        ...

    def ask_soon(self, node: int, kind: str, body: Body, reply: Reply, *, timeout_s: float) -> None:
        """As `ask` of another node, without a task or a future: `reply` is called once, later. What is known at once
        is raised, and it is not called."""
        ...

    def tell(self, node: int, kind: str, body: bytes) -> None:
        """Goes out at the end of the loop's turn, together with what else is for that node."""
        ...

    def on_gap(self, hear: Callable[[int], None]) -> None:
        """`hear` is called with a node's number when something it sent was lost."""
        ...


class Members(Protocol):
    """Who is in the fleet and whose the partitions are, as this node knows it."""

    @property
    def partitions(self) -> int: ...

    def me(self) -> Member: ...

    def all(self) -> Sequence[Member]:
        """Live ones, this one too."""
        ...

    def member(self, number: int) -> Member | None: ...

    def owner(self, partition: int) -> Owner: ...

    def owned(self) -> Collection[int]:
        """Partitions of this node, adopted to the end."""
        ...


class Tenant(Protocol):
    """Who lives in partitions, told by the members of what becomes theirs; composed in gateway.fleet.node."""

    async def adopt(self, partition: int, epoch: int) -> None:
        """This node is its owner from now on: opened and recovered when it returns. Raises where it can not be: the
        partition is given up and another node tries."""
        ...

    def steps(self, partition: int) -> int:
        """Changes while the adoption under way gets on: one that stands still for `cluster.adopt_timeout_s` is
        cancelled."""
        ...

    async def release(self, partition: int) -> None:
        """Give it up in good order: committed and closed when it returns, so that the next owner may begin."""
        ...

    def lost(self, partition: int) -> None:
        """It is another's already: end at once, commit nothing."""
        ...

    def owner_changed(self, partition: int, owner: Owner) -> None: ...

    def member_came(self, member: Member) -> None: ...

    def member_gone(self, number: int) -> None:
        """Its devices are not connected any more."""
        ...

    def standby(self, partition: int, *, wanted: bool) -> None:
        """Follow this partition's journal, or stop it: this node would be its owner next."""
        ...


class CommitLog(Protocol):
    """Where a partition's commits are made durable before they are applied to its LMDB folder. One at a time."""

    @property
    def stalled(self) -> bool:
        """A commit is in doubt for so long that nothing new should be taken in (503) until it is settled."""
        ...

    def append(self, rows: bytes) -> asyncio.Future[int]:
        """One commit, packed (gateway.store.row_codec). Resolves with its place, rising, when it is durable on a
        majority. Never resolves on a guess: where the answer was lost it asks until it knows. LogFenced: another node
        owns the partition, nothing may be written any more. LogUnavailable: certainly not written."""
        ...

    async def close(self) -> None: ...
