"""Ids that an app is told of are renewed before they lapse, each at its own moment, and nobody's else (C3, C5)."""

from __future__ import annotations

from identity_rig import IMSI, IMSI_2, MSISDN, NAI, TERMINAL, Scene, canonical
from msgspec.structs import replace

from gateway.identity.allocator import Trigger
from gateway.identity.renewal import SLICE, Renewal
from gateway.metrics import Metric
from gateway.model.subscriber import Granularity, NetworkId, NetworkIdKind, Scope

CHAT, INTERNET = Scope(Granularity.APP, "chat"), Scope(Granularity.CLASS, "apn:internet")
DAY_S = 86_400


class Sweeps(Scene):
    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.renewal = Renewal(self.config, self.records, self.allocator, lambda: self.now_ms)

    async def sweep(self) -> int:
        return await self.renewal.sweep(0)

    async def before_the_end(self) -> int:
        """When the first id that is not permanent has less than the overlap left."""
        ends = [each.until_ms for record in self.records.records.values() for each in record.ids if each.until_ms]
        self.now_ms = min(ends) - 1_000
        return await self.sweep()

    async def after(self, seconds: float) -> int:
        """Ids drawn when a sweep comes so much later."""
        self.now_ms += int(seconds * 1_000)
        return await self.sweep()


async def test_the_feed_has_the_next_id_before_the_old_one_lapses() -> None:
    scene = Sweeps()
    old = (await scene.trigger(IMSI, scope=CHAT)).ids[0]
    early_s = (old.until_ms - scene.now_ms) / 1_000 - 3_600
    assert await scene.after(early_s - 60) == 0
    assert await scene.after(120) == 1
    (told,) = scene.records.news("chat", 1, 10)
    assert told.replaces == (canonical(old),)
    new = canonical(told.issued)
    assert scene.resolves(new)
    assert scene.resolves(canonical(old)), "both are good for the overlap"
    assert await scene.sweep() == 0
    assert scene.metrics.value(Metric.SUBSCRIBER_IDS, "renewal") == 1
    # ... and so on, for as long as the subscriber is known
    for _ in range(3):
        last = scene.records.news("chat", 0, 10)[-1].issued
        assert await scene.after((last.until_ms - scene.now_ms) / 1_000 - 1_800) == 1


async def test_a_terminals_and_permanent_ids_are_left_alone_and_those_of_a_class_are_not() -> None:
    scene = Sweeps()
    await scene.trigger(IMSI_2, scope=INTERNET)
    await scene.trigger(IMSI, scope=TERMINAL, validity_s=2 * DAY_S)
    await scene.trigger(IMSI, scope=CHAT, validity_s=0)
    assert await scene.before_the_end() == 1
    assert {each.app for each in scene.records.told[-2:]} == {"chat", "mail"}


async def test_who_opted_out_or_was_forgotten_gets_none() -> None:
    scene = Sweeps()
    await scene.trigger(IMSI, scope=CHAT)
    await scene.allocator.opt_out(IMSI, "app:chat")
    await scene.trigger(IMSI_2, scope=CHAT)
    await scene.allocator.revoke_all(IMSI_2, forget=True)
    assert await scene.before_the_end() == 0


async def test_what_a_trigger_renewed_is_not_renewed_again() -> None:
    scene = Sweeps()
    await scene.trigger(IMSI, MSISDN, NAI, scope=CHAT)
    scene.now_ms += (DAY_S - DAY_S // 10 - 60) * 1_000
    scene.config.renew_s = DAY_S // 5
    assert (await scene.trigger(IMSI, scope=CHAT, trigger=Trigger.SESSION)).drawn == 3
    assert await scene.sweep() == 0


async def test_a_validity_of_its_own_is_kept_and_one_too_short_to_renew_is_not_drawn_again_and_again() -> None:
    scene = Sweeps()
    long = (await scene.trigger(IMSI, scope=CHAT, validity_s=20 * DAY_S)).ids[0]
    await scene.trigger(IMSI_2, scope=CHAT, validity_s=600)
    assert await scene.after((long.until_ms - scene.now_ms) / 1_000 - 3_000) == 1
    made = scene.records.told[-1].issued
    span_s = (made.until_ms - made.from_ms) / 1_000
    assert 15 * DAY_S < span_s <= 20 * DAY_S


async def test_limits_hold_and_do_not_stop_the_others() -> None:
    scene = Sweeps(ids_per_subscriber=1)
    await scene.trigger(IMSI, scope=CHAT)
    assert await scene.before_the_end() == 0


async def test_many_that_end_in_one_second_are_all_renewed() -> None:
    scene = Sweeps()
    many = 2 * SLICE + 7
    for number in range(many):
        await scene.trigger(NetworkId(NetworkIdKind.IMSI, f"00101{number:010d}"), scope=CHAT)
    for handle, record in scene.records.records.items():
        (issued,) = record.ids
        fixed = replace(issued, until_ms=scene.now_ms + DAY_S * 1_000)
        scene.records.records[handle] = replace(record, ids=(fixed,))
    assert await scene.after(DAY_S - 3_000) == many


async def test_it_is_off_where_it_is_set_off() -> None:
    for settings in ({"renewal_sweep_s": 0}, {"renewal": "replace"}):
        scene = Sweeps(**settings)
        scene.renewal.start()
        assert scene.renewal._task is None
        await scene.renewal.close()
