"""The pure parts of campaigns: order, pace, rate, the next step, counts, queries and lists of cards."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cards.campaign_policy import Do, Order, Pace, Rate, Standing, count_canaries, decide, is_good
from gateway.cards.card_lists import BAD, MAX_LINE_BYTES, MAX_TOLD, CardList, HandleSet
from gateway.cards.card_query import MAX_CHARS, parse_query
from gateway.cards.tally import MOST_CAUSES, Tally
from gateway.model.cards import Ability, Campaign, CampaignState, Download, DownloadState, build_card_id, parse_card_id
from gateway.model.errors import BadRequest

# --- order ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3_000), st.integers(0, 2**63))
def test_everybody_comes_once_and_each_place_is_found_again(count: int, seed: int) -> None:
    order = Order(count, seed)
    walked = [order.at(place) for place in range(count)]
    assert sorted(walked) == list(range(count))
    assert [order.place(index) for index in walked] == list(range(count))


@pytest.mark.parametrize("count", [1_000, 65_536, 99_999, 1_000_000])
@pytest.mark.parametrize("seed", [1, 2, 77])
def test_the_first_ones_are_of_every_batch(count: int, seed: int) -> None:
    order = Order(count, seed)
    canaries = count // 50
    of_batch = [0] * 10
    for place in range(canaries):
        of_batch[order.at(place) * 10 // count] += 1
    fair = canaries / 10
    assert all(fair * 0.8 - 1 <= batch <= fair * 1.2 + 1 for batch in of_batch)


def test_two_campaigns_begin_with_other_cards() -> None:
    assert len({Order(100_000, seed).at(0) for seed in range(50)}) == 50


# --- pace and rate -------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 5_000), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_more_than_the_rate_and_one_burst(per_s: float, pauses: list[float]) -> None:
    pace, now, taken = Pace(per_s, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        free = pace.free(now)
        pace.take(free)
        taken += free
        assert taken <= per_s * now + max(per_s * 0.25, 1.0) + 1e-6
        later = now + pace.wait_s() + 1e-9
        assert free or later > now
    assert Pace(per_s, 0.0).free(1e6) >= 1


def test_after_its_wait_one_may_go_and_fractions_add_up() -> None:
    pace = Pace(0.5, 100.0)
    assert pace.free(100.0) == 1
    pace.take(1)
    assert pace.free(101.0) == 0
    assert pace.wait_s() == pytest.approx(1.0)
    assert pace.free(102.0) == 1


def test_a_clock_that_goes_back_gives_nothing() -> None:
    pace = Pace(10.0, 100.0)
    pace.take(pace.free(100.0))
    assert pace.free(50.0) == 0


def test_a_rate_is_right_from_the_start() -> None:
    rate = Rate(0.0)
    for at in range(50):
        rate.add(at / 10)
    assert rate.per_s(5.0) == pytest.approx(10.0, rel=0.15)
    assert rate.per_s(500.0) < 0.01


# --- the next step -------------------------------------------------------------------------------------------------


def campaign(**fields: object) -> Campaign:
    base: dict[str, object] = {
        "number": 7,
        "app": "chat",
        "name": "n",
        "state": CampaignState.RUNNING,
        "payload": b"",
        "tar": b"",
        "notice": "",
        "created_ms": 0,
        "expires_ms": 1_000,
        "participants": 1_000,
    }
    return Campaign(**(base | fields))  # type: ignore[arg-type]


NOBODY = Standing(0, 0, 0, 0, 0)
CANARY = {"canary_share": 0.01, "canary_success": 0.9}


@pytest.mark.parametrize(
    ("fields", "standing", "room", "now_ms", "do", "releases", "why"),
    [
        ({}, NOBODY, 1_000, 0, Do.RELEASE, 256, ""),
        ({}, NOBODY, 5, 0, Do.RELEASE, 5, ""),
        ({}, NOBODY, 0, 0, Do.WAIT, 0, "engine"),
        ({"released": 997}, NOBODY, 1_000, 0, Do.RELEASE, 3, ""),
        ({"released": 1_000}, Standing(50, 50, 0, 0, 0), 1_000, 0, Do.WAIT, 0, "out"),
        ({"released": 1_000}, Standing(1_000, 0, 0, 0, 0), 1_000, 0, Do.END, 0, ""),
        ({"at_once": 10}, Standing(0, 4, 0, 0, 0), 1_000, 0, Do.RELEASE, 6, ""),
        ({"at_once": 10}, Standing(0, 10, 0, 0, 0), 1_000, 0, Do.WAIT, 0, "at_once"),
        ({"state": CampaignState.PAUSED}, NOBODY, 1_000, 0, Do.WAIT, 0, "asked"),
        ({"state": CampaignState.CANARY_FAILED}, NOBODY, 1_000, 0, Do.WAIT, 0, "asked"),
        ({"state": CampaignState.PAUSED}, Standing(1_000, 0, 0, 0, 0), 1_000, 0, Do.END, 0, ""),
        ({"state": CampaignState.PAUSED}, NOBODY, 1_000, 1_000, Do.EXPIRE, 0, ""),
        ({"released": 1_000}, Standing(50, 50, 0, 0, 0), 1_000, 1_000, Do.WAIT, 0, "out"),
        ({"state": CampaignState.STOPPING}, NOBODY, 1_000, 1_000, Do.STOP, 0, ""),
        ({"state": CampaignState.STOPPING}, Standing(1_000, 0, 0, 0, 0), 1_000, 0, Do.END, 0, ""),
        (CANARY, Standing(0, 0, 10, 0, 0), 1_000, 0, Do.RELEASE, 10, ""),
        (CANARY | {"released": 4}, Standing(0, 4, 10, 0, 0), 1_000, 0, Do.RELEASE, 6, ""),
        (CANARY | {"released": 10}, Standing(9, 1, 10, 9, 9), 1_000, 0, Do.WAIT, 0, "canary"),
        (CANARY | {"released": 10}, Standing(10, 0, 10, 10, 9), 1_000, 0, Do.RELEASE, 256, ""),
        (CANARY | {"released": 10}, Standing(10, 0, 10, 10, 8), 1_000, 0, Do.FAIL_CANARY, 0, ""),
        (CANARY | {"released": 10, "waived": True}, Standing(10, 0, 10, 10, 0), 1_000, 0, Do.RELEASE, 256, ""),
    ],
)
def test_the_next_step(
    fields: dict[str, object], standing: Standing, room: int, now_ms: int, do: Do, releases: int, why: str
) -> None:
    step = decide(campaign(**fields), standing, room=room, pace=Pace(0.0, 0.0), now_ms=now_ms, now_s=0.0)
    assert (step.do, step.releases, step.why) == (do, releases, why)


def test_a_pace_holds_it_up_for_as_long_as_it_says() -> None:
    pace = Pace(2.0, 0.0)
    pace.take(pace.free(0.0))
    step = decide(campaign(), NOBODY, room=9, pace=pace, now_ms=0, now_s=0.0)
    assert (step.do, step.why, step.wait_s) == (Do.WAIT, "pace", pytest.approx(0.5))


@pytest.mark.parametrize(
    ("participants", "share", "canaries"),
    [
        (100, 0.0, 0),
        (100, 0.07, 7),
        (100, 0.001, 1),
        (101, 0.01, 2),
        (3, 1.0, 3),
        (0, 0.5, 0),
        (1_000_000, 0.000001, 1),
    ],
)
def test_how_many_go_first(participants: int, share: float, canaries: int) -> None:
    assert count_canaries(campaign(participants=participants, canary_share=share)) == canaries


def test_a_share_is_compared_without_the_noise_of_fractions() -> None:
    assert is_good(95, 100, 0.95)
    assert not is_good(94, 100, 0.95)
    assert is_good(0, 10, 0.0)


# --- counts --------------------------------------------------------------------------------------------------------


def row(state: DownloadState, cause: str = "", due_ms: int = 0) -> Download:
    return Download(1, "a", b"", b"", b"", state, 0, 0, due_ms=due_ms, cause=cause)


@given(st.lists(st.tuples(st.integers(0, 29), st.sampled_from(list(DownloadState))), max_size=300))
def test_whatever_is_heard_in_whatever_order_nobody_counts_twice(heard: list[tuple[int, DownloadState]]) -> None:
    order = Order(30, 1)
    tally = Tally(30, order, 5)
    first_end: dict[int, DownloadState] = {}
    for index, state in heard:
        tally.see(index, row(state, "card"), 0)
        if state.is_final:
            first_end.setdefault(index, state)
        assert tally.held + len(tally.out) + tally.over == 30
        assert tally.under_way <= len(tally.out)
    assert tally.over == len(first_end) == sum(tally.results.values())
    canaries = [index for index in first_end if order.place(index) < 5]
    good = [index for index in canaries if first_end[index] in (DownloadState.DONE, DownloadState.NOTICED)]
    assert tally.standing[3:] == (len(canaries), len(good))


def test_who_waits_for_another_try_is_out_and_not_under_way() -> None:
    tally = Tally(3, Order(3, 1), 0)
    tally.release(1)
    tally.look(1, row(DownloadState.WAITING, due_ms=50), 10)
    assert (tally.out, tally.under_way) == ({1}, 0)
    tally.look(1, row(DownloadState.ACTIVE), 60)
    assert tally.under_way == 1


def test_who_ended_without_a_cause_counts_by_the_state() -> None:
    tally = Tally(3, Order(3, 1), 0)
    for index, state in enumerate((DownloadState.STOPPED, DownloadState.STOPPED, DownloadState.DONE)):
        tally.end(index, row(state))
    assert tally.causes == {"stopped": 2}


def test_causes_are_bounded() -> None:
    tally = Tally(500, Order(500, 1), 0)
    for index in range(500):
        tally.end(index, row(DownloadState.FAILED, f"cause {index}"))
    assert len(tally.causes) == MOST_CAUSES + 1
    assert sum(tally.causes.values()) == 500


def test_one_without_a_row_is_over_and_counts_nowhere_else() -> None:
    tally = Tally(3, Order(3, 1), 0)
    tally.miss(0)
    tally.miss(0)
    assert (tally.over, tally.held, tally.results) == (1, 2, {})


# --- queries -------------------------------------------------------------------------------------------------------

CAPABLE, NOT, UNKNOWN = Ability.CAPABLE, Ability.NOT_CAPABLE, Ability.UNKNOWN


@pytest.mark.parametrize(
    ("query", "tags", "ability", "fits"),
    [
        ("all", (), UNKNOWN, True),
        ("tag:a", ("a",), UNKNOWN, True),
        ("tag:a", ("b",), UNKNOWN, False),
        ("tag:a and not capable", ("a",), NOT, True),
        ("tag:a and not capable", ("a",), CAPABLE, False),
        ("not capable", (), UNKNOWN, True),
        ("not_capable", (), UNKNOWN, False),
        ("unknown or capable", (), CAPABLE, True),
        ("tag:a or tag:b and capable", ("a",), NOT, True),
        ("(tag:a or tag:b) and capable", ("a",), NOT, False),
        ("not (tag:a or tag:b)", ("c",), NOT, True),
        ("not not tag:a", ("a",), NOT, True),
        ('tag:"two words"and capable', ("two words",), CAPABLE, True),
        ("tag:and", ("and",), CAPABLE, True),
        (" ( ( all ) ) ", (), CAPABLE, True),
    ],
)
def test_which_cards_a_query_takes(query: str, tags: tuple[str, ...], ability: Ability, fits: bool) -> None:
    assert parse_query(query).fits(tags, lambda: ability) is fits


def test_what_is_known_of_a_terminal_is_looked_at_only_where_it_matters() -> None:
    def never() -> Ability:
        raise AssertionError

    assert not parse_query("tag:a and capable").fits((), never)
    assert not parse_query("tag:a").asks_ability
    assert parse_query("tag:a and capable").asks_ability


@pytest.mark.parametrize(
    "query",
    ["", " ", "and", "tag:a and", "tag:a tag:b", "(tag:a", "tag:a)", "not", "tag:", "capabel", "()", 'tag:"open',
     "a" * (MAX_CHARS + 1), "not " * 20 + "all", "(" * 30 + "all" + ")" * 30, " or ".join(["all"] * 65)],
)  # fmt: skip
def test_a_query_that_is_none_says_where(query: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_query(query)
    assert caught.value.field == "query"
    assert " at " in str(caught.value) or "more than" in str(caught.value)
    if query == "tag:a and":
        assert str(caught.value) == "expected all, capable, not_capable, unknown, or tag:NAME, at the end"


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(["and", "or", "not", "(", ")", "all", "tag:x", "capable"]), max_size=30).map(" ".join),
    )
)
def test_no_text_is_worse_than_a_bad_request(text: str) -> None:
    try:
        found = parse_query(text)
    except BadRequest:
        return
    assert found.fits(("x",), lambda: UNKNOWN) in (True, False)


# --- lists ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=2_000))
def test_a_set_of_handles_is_one(handles: list[bytes]) -> None:
    ours, theirs = HandleSet(), set()
    for handle in [*handles, bytes(16), *handles]:
        assert ours.add(handle) == (handle not in theirs)
        theirs.add(handle)
    assert len(ours) == len(theirs)


@given(st.lists(st.binary(max_size=300), max_size=50), st.lists(st.integers(0, 400), max_size=20))
def test_no_bytes_break_a_list_and_it_is_the_same_in_any_pieces(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    whole = CardList(lambda _: True, 10)
    whole.feed(data)
    whole.end()
    pieces = CardList(lambda _: True, 10)
    at = 0
    for cut in cuts:
        pieces.feed(data[at : at + cut])
        at += cut
    pieces.feed(data[at:])
    pieces.end()
    assert (whole.handles, whole.bad, whole.bad_count) == (pieces.handles, pieces.bad, pieces.bad_count)
    assert len(whole.bad) <= MAX_TOLD


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2))
def test_a_card_is_read_in_each_of_its_spellings(card: bytes, kind: int) -> None:
    text = build_card_id(card)
    assert parse_card_id(text) == card
    line = [text.encode(), msgspec.json.encode(text), msgspec.json.encode({"card": text, "more": [1]})][kind]
    found = CardList(lambda _: True, 10)
    found.feed(b" " + line + b" \r\n")
    assert (bytes(found.handles), found.bad_count) == (card, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"card_" + b"a b " * 8,
        b"card_" + b"AB" * 16,
        b"x" * (MAX_LINE_BYTES + 1),
        b"{",
        b'"',
        b"{}",
        b"[" * 200,
        b"\xff",
        b'{"card": 5}',
    ],
)
def test_a_line_that_is_no_card_is_told_by_its_number(line: bytes) -> None:
    found = CardList(lambda _: True, 10)
    found.feed(b"\n" + line + b"\n")
    assert found.bad == [(2, BAD)]


def test_a_list_that_is_too_long_says_so() -> None:
    found = CardList(lambda _: True, 1)
    found.add(build_card_id(b"\x01" * 16))
    assert not found.is_too_long
    found.add(build_card_id(b"\x02" * 16))
    assert found.is_too_long
