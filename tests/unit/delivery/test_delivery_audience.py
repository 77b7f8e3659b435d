"""Conditions and localised words: who gets a push, and in which language."""

from __future__ import annotations

import asyncio
from array import array

import pytest
from house import House

from gateway.delivery import scheduler
from gateway.delivery.audience import choose
from gateway.delivery.request import TargetRequest, WordsRequest
from gateway.model.condition import Condition
from gateway.model.errors import BadRequest
from gateway.model.notification import Target

DAY_S = 86_400


def where(**parts: object) -> TargetRequest:
    return TargetRequest(where=Condition(**parts))  # type: ignore[arg-type]


def reached(house: House) -> list[int]:
    return sorted(number for number, _ in house.edge.frames)


async def test_a_condition_on_what_groups_have_in_common_is_stored_once(house: House) -> None:
    german = house.directory.add(locale="de-AT", os="android")
    swiss = house.directory.add(locale="de-CH", os="ios")
    french = house.directory.add(locale="fr", os="android")
    house.edge.connect(german.number, swiss.number, french.number)
    await house.accepted(where(all=[Condition(locale="de"), Condition(not_=Condition(os="iOS"))]))
    assert reached(house) == [german.number]
    assert not house.journal.rows
    late = house.directory.add(locale="de", os="android")
    house.edge.connect(late.number)
    assert reached(house) == [german.number, late.number]


async def test_tags_are_combined(house: House) -> None:
    tagged = {
        name: house.directory.add(tags=tags).number
        for name, tags in {"a": ["a"], "ab": ["a", "b"], "abc": ["a", "b", "c"], "c": ["c"], "none": []}.items()
    }
    house.edge.connect(*tagged.values())
    condition = Condition(
        any=[
            Condition(all=[Condition(tag="a"), Condition(tag="b"), Condition(not_=Condition(tag="c"))]),
            Condition(not_=Condition(any=[Condition(tag="a"), Condition(tag="c")])),
        ]
    )
    kept = await house.accepted(TargetRequest(where=condition))
    await house.advance(500)
    assert reached(house) == sorted([tagged["ab"], tagged["none"]])
    assert house.journal.notifications[house.schedules.names[kept]].count == 2


async def test_last_seen_and_a_version_range_narrow_together(house: House) -> None:
    fresh, stale, old = (house.directory.add(version=version) for version in ("2.0", "2.0", "1.0"))
    house.directory.seen_s = {stale.number: 40 * DAY_S, old.number: 40 * DAY_S}
    house.edge.connect(fresh.number, stale.number, old.number)
    await house.accepted(TargetRequest(versions=">=2", where=Condition(not_seen_for=30 * DAY_S)))
    await house.advance(500)
    assert reached(house) == [stale.number]
    await house.accepted(TargetRequest(everyone=True, where=Condition(seen_within=DAY_S)))
    await house.advance(500)
    assert reached(house) == [fresh.number, stale.number]


async def test_a_large_audience_is_looked_for_in_slices(house: House) -> None:
    numbers = [house.directory.add(tags=["even"] if n % 2 == 0 else []).number for n in range(3_000)]
    house.edge.connect(*numbers)
    await house.accepted(where(not_=Condition(tag="even")))
    await house.advance(500)
    assert reached(house) == numbers[1::2]


@pytest.mark.parametrize("parts", [1, 31])
async def test_a_slice_is_bounded_by_the_parts_of_the_condition_too(house: House, parts: int) -> None:
    for _ in range(2_000):
        house.directory.add(tags=["t"])
    looked: list[int] = []

    def seen_ago_s(number: int) -> int:
        looked.append(number)
        return 0

    house.directory.seen_ago_s = seen_ago_s  # type: ignore[method-assign]
    condition = Condition(all=[Condition(tag="t"), Condition(any=[Condition(not_seen_for=DAY_S)] * parts)])
    most = before = 0
    for _ in choose(house.directory, "shop", Target(where=condition), array("I")):
        most, before = max(most, len(looked) - before), len(looked)
    assert len(looked) == 2_000 * parts
    assert most <= 1_000


async def test_a_flood_of_conditions_leaves_another_app_its_turn(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "RELEASES", 2_000)
    house.app(name="other")
    ours = house.directory.add(app="other", tags=["t"])
    theirs = house.directory.add(tags=["t"])
    house.edge.connect(ours.number, theirs.number)
    for _ in range(1_100):
        house.push(where(tag="t"))
    house.push(where(tag="t"), app="other")
    for _ in range(4):
        house.scheduler.tick()
        house.clock.now_ms += 1_000
    # For whom there was no room comes again soon: nothing of it was refused.
    assert max(due for due, _ in house.schedules.kept.values()) <= house.clock.now_ms
    while ours.number not in reached(house):
        await asyncio.sleep(0)
    assert len(house.dispatcher.backlog) > 700
    await house.advance(5_000)
    assert len(house.schedules.names) == 1_101


async def test_nobody_meets_it(house: House) -> None:
    kept = await house.accepted(where(tag="nobody"))
    await house.advance(500)
    assert house.schedules.names[kept]
    assert not house.edge.frames


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (Condition(), "target.where"),
        (Condition(tag="a", os="ios"), "target.where"),
        (Condition(all=[Condition(tag="a"), Condition()]), "target.where.all"),
        (Condition(not_=Condition(versions="nonsense")), "target.where.not.versions"),
        (Condition(any=[Condition(any=[Condition(tag="x")] * 10)] * 10), "target.where"),
    ],
)
async def test_a_bad_condition_is_refused_with_its_place(house: House, condition: Condition, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        house.push(TargetRequest(where=condition))
    assert refused.value.field == field


async def test_too_deep_a_condition_is_refused(house: House) -> None:
    condition = Condition(tag="a")
    for _ in range(9):
        condition = Condition(not_=condition)
    with pytest.raises(BadRequest, match="levels deep"):
        house.push(TargetRequest(where=condition))


async def test_a_condition_does_not_go_with_a_token(house: House) -> None:
    device = house.directory.add()
    with pytest.raises(BadRequest) as refused:
        house.push(TargetRequest(alias="ann", where=Condition(tag="a")))
    assert refused.value.field == "target.where"
    assert device


# --- words

WORDS = {
    "de": WordsRequest(title="Hallo", text="Welt"),
    "pt-BR": WordsRequest(title="Oi", text="mundo"),
}


@pytest.mark.parametrize(
    ("locale", "title"),
    [
        ("de", "Hallo"),
        ("de-AT", "Hallo"),
        ("DE-at", "Hallo"),
        ("pt-br", "Oi"),
        ("pt", "Hello"),
        ("", "Hello"),
        ("d", "Hello"),
    ],
)
async def test_each_registration_reads_its_own_language(house: House, locale: str, title: str) -> None:
    device = house.directory.add(locale=locale)
    house.edge.connect(device.number)
    await house.accepted(device, title="Hello", localized=WORDS)
    await house.accepted(TargetRequest(everyone=True), title="Hello", localized=WORDS)
    assert [frame.title for frame in house.frames(device)] == [title, title]


async def test_who_comes_later_reads_its_language_too(house: House) -> None:
    await house.accepted(TargetRequest(everyone=True), title="Hello", localized=WORDS, data="x" * 9_000)
    device = house.directory.add(locale="de")
    house.edge.connect(device.number)
    (light,) = house.frames(device)
    assert (light.title, light.more) == ("Hallo", True)
    house.dispatcher.on_fetch(device.number, [light.id])
    assert (house.frames(device)[1].title, house.frames(device)[1].more) == ("Hallo", False)


@pytest.mark.parametrize(("locale", "title"), [("de-AT", "Hallo"), ("pt", "Hello")])
async def test_a_notifier_is_given_the_words_of_the_registrations_language(
    house: House, locale: str, title: str
) -> None:
    device = house.directory.add(locale=locale, fallback=["stub"])
    await house.accepted(device, title="Hello", localized=WORDS)
    await house.accepted(TargetRequest(everyone=True), title="Hello", localized=WORDS, fallback=["stub"])
    assert [call.title for call in house.stub.calls] == [title, title]


async def test_a_notifier_is_given_words_where_a_push_has_no_others(house: House) -> None:
    device = house.directory.add(locale="de", fallback=["stub"])
    await house.accepted(device, localized=WORDS)
    assert [call.title for call in house.stub.calls] == ["Hallo"]


@pytest.mark.parametrize("second", ["DE", "De"])
def test_a_language_that_is_named_twice_is_refused(house: House, second: str) -> None:
    words = {"de": WordsRequest(title="a"), second: WordsRequest(title="b")}
    with pytest.raises(BadRequest) as refused:
        house.push(TargetRequest(everyone=True), localized=words)
    assert refused.value.field == f"localized.{second}"
