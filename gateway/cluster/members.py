"""Who is in the fleet and whose the partitions are, and this node's part in it: adopt, give up, follow; must never hold
a partition after its lease is over, nor change a record but by compare-and-set.

A partition's record names its owner, its epoch and whether it is open there. This node adopts what nobody alive owns
where it is the first in the partition's order (`assignment`), gives up what another should have, and says to its
`Tenant` what became of it. Safety does not rest on leases alone: the partition's journal refuses an older epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog

from gateway.cluster.adoption_deadline import AdoptionDeadline
from gateway.cluster.adoption_failed import note_failed
from gateway.cluster.assignment import Picture, Plan, Ranks, decide
from gateway.cluster.beats import Heart, Pulse, clock
from gateway.cluster.entrance import Entrance
from gateway.cluster.failures import Failures
from gateway.cluster.fleet_records import (
    NODE,
    BadRecord,
    Beat,
    Holding,
    build,
    parse_beat,
    parse_holding,
    parse_partition_key,
    partition_key,
)
from gateway.cluster.kv_leases import bucket_of
from gateway.cluster.leases import Changed, Entry, InDoubt, Leases
from gateway.cluster.others import Others
from gateway.cluster.oustings import BUCKET_MISSING, Ousting, bucket_lost, name_taken
from gateway.cluster.records_cleaner import RecordsCleaner
from gateway.cluster.records_watch import RecordsWatch
from gateway.cluster.unserved import Unserved
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.metrics.names import Metric
from gateway.model.cluster import Member, Owner, Stranded, Tenant
from gateway.model.errors import GatewayError

_log = structlog.get_logger(__name__)

#: while NATS is connected but keeps no records (its servers elect a leader), nobody can take anything over; a node
#: holds on for so long, which is more than an election takes
HOLD_S = 12.0
#: partitions that are opened at a time: what takes long in it is NATS syncing, several at once
ADOPTIONS = 8
_TURN_S = 0.25
#: part of the lease after which its holder lets go: before the others take
_EARLY = 0.95
_DOUBT_S = 0.1


class FleetMembers:
    """`model.cluster.Members` of one node, from `start` to `close`. Control thread only.

    `links` says how many devices are connected; `is_up` whether the engine can be reached now; `on_ousted` is called
    when another node has this one's name, or the fleet's records are others: nothing is owned any more, and the process
    should end. `hear` gets each record before it is looked at here.
    """

    def __init__(
        self,
        settings: Cluster,
        entrance: Entrance,
        leases: Leases,
        heart: Heart,
        tenant: Tenant,
        metrics: Metrics,
        *,
        links: Callable[[], int] = lambda: 0,
        is_up: Callable[[], bool] = lambda: True,
        on_ousted: Callable[[GatewayError], None] = lambda _error: None,
        hear: Callable[[Entry], None] = lambda _entry: None,
        now: Callable[[], float] = clock,
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._heart = heart
        self._tenant = tenant
        self._metrics = metrics
        self._links = links
        self._is_up = is_up
        self._on_ousted = on_ousted
        self._hear = hear
        self._now = now
        self._number = entrance.number
        self._name = entrance.beat.name
        self._pulse = Pulse(entrance.key, entrance.revision, entrance.beat, entrance.bucket)
        self._others = Others(entrance.beat, settings.lease_s, settings.beat_s)
        self._ranks = Ranks()
        self._holdings: dict[int, tuple[Holding, int]] = {}  # with the revision of the record
        self._told: dict[int, Owner] = {}  # what the tenant knows
        self._owned: set[int] = set()
        self._epochs: dict[int, int] = {}  # of partitions that the tenant has, or is opening
        self._work: dict[int, asyncio.Task[None]] = {}  # partitions that are adopted or released now
        self._following: set[int] = set()
        self._unserved = Unserved(settings.partitions, settings.lease_s)
        self._deadline = AdoptionDeadline(tenant, settings.adopt_timeout_s, self._on_over)
        self._waits_for_others = True
        self._failures = Failures(settings.lease_s)
        self._adopting = asyncio.Semaphore(ADOPTIONS)
        self._renewed_at = now()
        self._is_lapsed = False
        self._is_bucket_missing = self._is_bucket_lost = False
        self._ousting: Ousting | None = None
        self._is_closing = False
        self._is_draining = False
        self._deciding: asyncio.Handle | None = None
        self._turning: asyncio.TimerHandle | None = None
        self._watch = RecordsWatch(leases, self._name, settings.beat_s, now, bucket=entrance.bucket)
        self._cleaner = RecordsCleaner(leases)
        self._moved = asyncio.Event()

    # --- the port

    @property
    def partitions(self) -> int:
        return self._settings.partitions

    def me(self) -> Member:
        return self._pulse.beat.member()

    def all(self) -> Sequence[Member]:
        if self._is_bucket_lost:  # the others have to leave as well, and take nobody's devices
            return [self.me()]
        found = list(self._others.members())
        return found if self._others.member(self._number) is not None else [self.me(), *found]

    def member(self, number: int) -> Member | None:
        return self.me() if number == self._number else self._others.member(number)

    def owner(self, partition: int) -> Owner:
        """Who serves it: node 0 while it is being adopted, too."""
        return self._told.get(partition, Owner(0, 0))

    def owned(self) -> Collection[int]:
        return self._owned

    def stranded(self) -> list[Stranded]:
        """Partitions that nobody has served for so long that waiting does not seem to help."""
        return self._unserved.stranded(self._now())

    def trouble(self) -> str:
        """Why this node has no part in the fleet, where that does not end by itself; empty: there is nothing."""
        if self._ousting is not None:
            return self._ousting.readiness
        return BUCKET_MISSING if self._is_bucket_missing else ""

    # --- its life

    async def start(self) -> None:
        """From now on this node may be given partitions."""
        self._renewed_at = self._now()
        self._pulse.turned_at = self._now()
        self._heart.start(self._pulse, self)
        await self._patiently(lambda: self._watch.start(self._on_entry))
        self._turn()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing more, hand everything over; True when others serve all of it. Ends sooner where there is nobody
        to hand it to."""
        self._is_draining = True
        had = [*self._owned, *self._work]
        self._say()
        self._heart.hurry()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._is_handed_over(had) and not self._is_lapsed and self._has_company():
                    self._moved.clear()
                    self._decide_soon()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_TURN_S):
                            await self._moved.wait()
        return self._is_handed_over(had)

    def _is_handed_over(self, had: Collection[int]) -> bool:
        return not self._owned and not self._work and all(self.owner(partition).node for partition in had)

    def _has_company(self) -> bool:
        return any(not member.draining and member.number != self._number for member in self._others.members())

    async def close(self) -> None:
        """Give up in good order what is left, and leave: the others need not wait for the lease."""
        if self._is_closing:
            return
        self._is_closing = True
        for partition, task in self._work.items():
            if partition not in self._owned:  # it is being opened
                task.cancel()
        await asyncio.gather(*self._work.values(), return_exceptions=True)
        for partition in self._owned - self._work.keys():
            self._begin(partition, self._release(partition))
        await asyncio.gather(*self._work.values(), return_exceptions=True)
        for handle in (self._turning, self._deciding):
            if handle is not None:
                handle.cancel()
        await self._watch.stop()
        await self._cleaner.close()
        await self._heart.stop()
        await self._watch.end()
        if self._ousting is None:
            with suppress(Changed, InDoubt):
                await self._leases.delete(self._pulse.key, self._pulse.revision)

    # --- beats

    def on_renewed(self, at: float, *, slept: bool) -> None:
        if self._ousting is not None:
            return
        self._is_bucket_missing = False
        if slept and not self._is_lapsed:  # nobody could see that it was over while we could not either
            self._lapse()
        self._renewed_at = max(self._renewed_at, at)
        self._others.renewed()
        self._watch.renewed()
        if self._is_lapsed:
            self._is_lapsed = False
            self._unserved.trust()
            _log.info("lease_again", node=self._name)
            self._call(self._tenant.member_came, self.me())
        self._decide_soon()

    def on_missed(self, *, is_gone: bool = False) -> None:
        self._watch.missed()
        self._metrics.count(Metric.BEATS_MISSED)
        if is_gone and not self._is_bucket_missing:
            self._is_bucket_missing = True
            _log.warning("fleet_records_missing", node=self._name, bucket=bucket_of(self._settings.name))

    def on_ousted(self) -> None:
        self._oust(name_taken(self._name))

    def on_replaced(self, *, is_gone: bool) -> None:
        self._is_bucket_lost = self._ousting is None
        self._oust(bucket_lost(self._settings.name, is_gone=is_gone))

    def _oust(self, ousting: Ousting) -> None:
        if self._ousting is not None or self._is_closing:
            return
        self._lapse()
        self._ousting = ousting
        self._on_ousted(ousting.error)

    def _turn(self) -> None:
        """Now and then."""
        now = self._now()
        self._pulse.turned_at = now
        self._say()
        silent_s, lease_s = now - self._renewed_at, _EARLY * self._settings.lease_s
        if silent_s >= lease_s:
            self._judge_itself(silent_s)
        pause = min(self._settings.beat_s / 2, _TURN_S)
        if silent_s < lease_s:
            pause = min(pause, lease_s - silent_s + 0.001)
        self._turning = asyncio.get_running_loop().call_later(pause, self._turn)
        self._watch.look(self._renewed_at, self._others.seen_at or 0.0)
        self._clean_up()
        self._decide()

    def _judge_itself(self, silent_s: float) -> None:
        """No beat got through for a lease. Is anybody able to take over? Not while nobody's beats get through."""
        settings = self._settings
        is_outlived = self._others.without_us_s() >= settings.lease_s - settings.beat_s
        if not self._is_up() or is_outlived or silent_s >= max(HOLD_S, settings.lease_s):
            self._lapse()

    def _say(self) -> None:
        beat = self._pulse.beat
        links = self._links()
        if links != beat.links or self._is_draining != beat.draining:
            self._pulse.beat = beat.changed(draining=self._is_draining, links=links)

    def _lapse(self) -> None:
        """The lease is over: whatever this node had may be another's already."""
        if self._is_lapsed:
            return
        self._is_lapsed = True
        self._unserved.distrust(self._now())
        self._metrics.count(Metric.LEASES_LAPSED)
        _log.warning("lease_over", node=self._name, partitions=len(self._owned))
        for partition in list(self._epochs):
            self._lose(partition)
        self._call(self._tenant.member_gone, self._number)

    # --- the records

    def _on_entry(self, entry: Entry) -> None:
        if self._ousting is not None:  # what is heard now may be of another bucket
            return
        self._call(self._hear, entry)
        try:
            if entry.key.startswith(NODE):
                self._on_node(entry)
            elif (partition := parse_partition_key(entry.key)) >= 0 and entry.value:
                self._take_holding(partition, parse_holding(entry.value), entry.revision)
            elif (partition := self._unserved.hear(entry)) >= 0:
                self._failures.forget(partition)
                self._decide_soon()
        except BadRecord:
            _log.warning("record_unreadable", key=entry.key)

    def _on_node(self, entry: Entry) -> None:
        if entry.value:
            came, gone = self._others.take(parse_beat(entry.value), entry.revision, self._now())
        else:
            came, gone = [], self._others.remove(entry.key.removeprefix(NODE), entry.revision)
        for number in gone:
            if number != self._number:
                _log.warning("member_gone", number=number)
                self._call(self._tenant.member_gone, number)
        for member in came:
            _log.info("member_came", node=member.name, number=member.number)
            self._call(self._tenant.member_came, member)
        if came or gone:
            self._tell_owners()
            self._decide_soon()

    def _take_holding(self, partition: int, holding: Holding, revision: int) -> None:
        known = self._holdings.get(partition)
        if known is not None and revision <= known[1]:
            return
        self._holdings[partition] = holding, revision
        self._failures.note(partition, None if known is None else known[0], holding, self._now())
        if holding.epoch > self._epochs.get(partition, holding.epoch):
            self._lose(partition)
        self._tell_owner(partition)
        self._decide_soon()

    def _tell_owners(self) -> None:
        for partition in self._holdings:
            self._tell_owner(partition)

    def _tell_owner(self, partition: int) -> None:
        holding, _ = self._holdings[partition]
        serves = holding.ready and (
            partition in self._owned if holding.node == self._number else holding.node in self._others.live()
        )
        owner = Owner(holding.node if serves else 0, holding.epoch)
        if self._told.get(partition) != owner:
            self._told[partition] = owner
            self._call(self._tenant.owner_changed, partition, owner)

    def _call(self, told: Callable[..., None], *words: object, **named: object) -> None:
        """The tenant's faults must not keep the next from being told."""
        try:
            told(*words, **named)
        except Exception:
            _log.exception("tenant_failed")

    def _clean_up(self) -> None:
        """Records of nodes that never came back, and of why nobody served what is served here now."""
        if self._cleaner.is_busy:
            return
        dead = [(f"{NODE}{name}", revision) for name, revision in self._others.long_dead()]
        over = dead[0] if dead else self._unserved.settled(self._owned)
        if over is not None and not self._is_lapsed:
            self._cleaner.remove(*over)

    # --- what to do

    def _decide_soon(self) -> None:
        if self._deciding is None and not self._is_closing:
            self._deciding = asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        if self._deciding is not None:
            self._deciding.cancel()
            self._deciding = None
        if self._is_closing:
            return
        now = self._now()
        live = dict(self._others.live())
        self._note_since(now, live)
        self._metrics.set(Metric.MEMBERS, len(live))
        self._metrics.set(Metric.PARTITIONS_OWNED, len(self._owned))
        self._metrics.set(Metric.PARTITIONS_UNOWNED, len(self._unserved.since))
        self._metrics.set(Metric.PARTITIONS_STRANDED, len(self._unserved.stranded(now)))
        self._metrics.set(Metric.PARTITIONS_REFUSED, self._unserved.refused())
        if self._is_lapsed or self._number not in live:
            return
        self._act(decide(self._picture(now, live), self._ranks))

    def _picture(self, now: float, live: dict[int, str]) -> Picture:
        settings = self._settings
        eligible = self._others.eligible()
        if self._is_draining:
            eligible = tuple(name for name in eligible if name != self._name)
        return Picture(
            me=self._number,
            name=self._name,
            is_draining=self._is_draining,
            partitions=settings.partitions,
            live=live,
            eligible=eligible,
            steady=self._others.steady(),
            holdings={partition: holding for partition, (holding, _) in self._holdings.items()},
            owned=self._owned,
            busy=self._work.keys(),
            orphan_since=self._unserved.orphan_since,
            unserved_since=self._unserved.since,
            avoided=self._failures.avoided(now, live),
            now=now,
            stagger_s=settings.lease_s / 2,
            patience_s=10 * settings.lease_s,
            handovers=settings.handovers,
            standbys=settings.standbys,
            waits_for_others=self._waits_for_others,
        )

    def _note_since(self, now: float, live: dict[int, str]) -> None:
        held = any(holding.node in live for holding, _ in self._holdings.values())
        self._waits_for_others = not held and self._others.are_coming()
        if self._waits_for_others:  # the second in the order waits for the first from when both are there
            self._unserved.orphan_since.clear()
        self._unserved.note(now, self._holdings, live)

    def _act(self, plan: Plan) -> None:
        for partition in plan.adopt:
            self._begin(partition, self._adopt(partition))
        for partition in plan.disown:
            self._begin(partition, self._disown(partition))
        for partition in plan.release:
            self._begin(partition, self._release(partition))
        for partition in plan.follow ^ self._following:
            if partition in self._work or partition in self._owned:
                continue
            wanted = partition in plan.follow
            (self._following.add if wanted else self._following.discard)(partition)
            self._call(self._tenant.standby, partition, wanted=wanted)

    def _begin(self, partition: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work[partition] = task
        task.add_done_callback(lambda task: self._on_done(partition, task))

    def _on_done(self, partition: int, task: asyncio.Task[None]) -> None:
        del self._work[partition]
        if task.cancelled():
            if partition in self._epochs:
                self._end(partition)
        elif (error := task.exception()) is not None:
            _log.error("partition_work_failed", partition=partition, exc_info=error)
            if partition in self._epochs and partition not in self._owned:
                self._end(partition)
        self._moved.set()
        self._decide_soon()

    def _on_over(self) -> None:
        self._moved.set()
        self._decide_soon()

    def _lose(self, partition: int) -> None:
        """It is another's, or may be."""
        task = self._work.get(partition)
        if task is not None and not task.done():
            task.cancel()
        elif partition in self._epochs:
            self._end(partition)

    def end_partition(self, partition: int, epoch: int) -> None:
        """The tenant can not go on with it: its journal is another's, or its folder has to be made again."""
        if self._epochs.get(partition) == epoch:
            self._lose(partition)
            self._decide_soon()

    def announce(self, *, devices: str, api: str, strangers: int = 0) -> None:
        """Where this node is found, once its doors are open; `strangers`: folders of another fleet that it has."""
        self._say_at_once(self._pulse.beat.found_at(devices=devices, api=api, strangers=strangers))

    def announce_keys(self, revision: int) -> None:
        self._say_at_once(self._pulse.beat.knowing(revision))

    def _say_at_once(self, beat: Beat) -> None:
        self._pulse.beat = beat
        self._heart.hurry()

    def _end(self, partition: int) -> None:
        """The tenant has to let go of it at once."""
        self._owned.discard(partition)
        del self._epochs[partition]
        self._metrics.count(Metric.PARTITION_MOVES, label="lost")
        _log.warning("partition_lost", partition=partition)
        self._call(self._tenant.lost, partition)
        self._tell_owner(partition)
        self._moved.set()

    # --- one partition

    async def _adopt(self, partition: int) -> None:
        async with self._adopting:
            known = self._holdings.get(partition)
            holding, revision = known if known is not None else (Holding(0, 0), 0)
            if holding.node not in (0, self._number) and holding.node in self._others.live():
                return  # while it waited for its turn
            epoch = holding.epoch + 1
            try:
                written = await self._write(partition, Holding(self._number, epoch), revision)
            except Changed:
                await self._look(partition)
            else:
                await self._open(partition, epoch, written)

    async def _open(self, partition: int, epoch: int, revision: int) -> None:
        _log.info("partition_adopting", partition=partition, epoch=epoch)
        self._following.discard(partition)  # that ends with it
        self._epochs[partition] = epoch
        try:
            await self._deadline.adopt(partition, epoch)
        except Exception as exc:
            del self._epochs[partition]
            reached = note_failed(self._metrics, exc, partition, epoch, self._settings.adopt_timeout_s)
            await self._give_up(partition, epoch, reached)
            return
        self._owned.add(partition)
        try:
            await self._write(partition, Holding(self._number, epoch, ready=True), revision)
        except Changed:
            self._end(partition)
        else:
            self._metrics.count(Metric.PARTITION_MOVES, label="adopted")
            _log.info("partition_adopted", partition=partition, epoch=epoch)

    async def _release(self, partition: int) -> None:
        epoch = self._epochs[partition]
        _log.info("partition_releasing", partition=partition, epoch=epoch)
        try:
            await self._tenant.release(partition)
        except Exception as exc:
            _log.error("partition_not_released", partition=partition, exc_info=exc)
            self._end(partition)
        else:
            self._owned.discard(partition)
            del self._epochs[partition]
            self._metrics.count(Metric.PARTITION_MOVES, label="released")
            self._tell_owner(partition)
        await self._give_up(partition, epoch)

    async def _disown(self, partition: int) -> None:
        await self._give_up(partition, self._holdings[partition][0].epoch)

    async def _give_up(self, partition: int, epoch: int, reached: int = 0) -> None:
        """Nobody's, with the next epoch, of which one is past `reached`; where it is still this node's."""
        holding, revision = self._holdings[partition]
        if (holding.node, holding.epoch) == (self._number, epoch):
            try:
                await self._write(partition, Holding(0, max(epoch, reached) + 1), revision)
            except Changed:
                await self._look(partition)

    async def _look(self, partition: int) -> None:
        """It is another's, which the watch has not told yet."""
        with suppress(InDoubt, BadRecord):
            entry = await self._leases.get(partition_key(partition))
            if entry is not None:
                self._take_holding(partition, parse_holding(entry.value), entry.revision)

    async def _write(self, partition: int, holding: Holding, revision: int) -> int:
        """The record's new revision. Changed: another node wrote it, or the lease is over. What was in doubt and reads
        as it should was carried out: only this node writes this."""
        key, value = partition_key(partition), build(holding)
        while True:
            if self._is_lapsed:
                raise Changed
            try:
                if revision:
                    written = await self._leases.update(key, value, revision)
                else:
                    written = await self._leases.create(key, value)
                break
            except InDoubt:
                entry = await self._patiently(lambda: self._leases.get(key))
                if entry is not None and entry.value == value:
                    written = entry.revision
                    break
                if (0 if entry is None else entry.revision) != revision:
                    raise Changed from None
        self._take_holding(partition, holding, written)
        if self._is_lapsed or self._holdings[partition][1] != written:
            raise Changed
        return written

    async def _patiently(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Again while there is no answer and the lease is not over; who leaves does not wait for a bucket to come
        back."""
        while True:
            try:
                return await work()
            except InDoubt:
                if self._is_lapsed or (self._is_closing and self._is_bucket_missing):
                    raise Changed from None
            await asyncio.sleep(_DOUBT_S)
