"""Whose a partition should be, and what one node does about it: pure, so every picture can be tried."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.assignment import Picture, Ranks, decide, rank
from gateway.cluster.fleet_records import Holding

PARTITIONS = 16
names = st.sets(st.text("abcdefgh-.1", min_size=1, max_size=12), min_size=1, max_size=12)


def picture(**changed: object) -> Picture:
    base = Picture(
        me=1,
        name="a",
        is_draining=False,
        partitions=PARTITIONS,
        live={1: "a", 2: "b", 3: "c"},
        eligible=("a", "b", "c"),
        steady={"a", "b", "c"},
        holdings={},
        owned=set(),
        busy=set(),
        orphan_since=dict.fromkeys(range(PARTITIONS), 100.0),
        unserved_since={},
        avoided={},
        now=100.0,
        stagger_s=1.5,
        patience_s=30.0,
        handovers=2,
        standbys=1,
    )
    return base._replace(**changed)  # type: ignore[arg-type]


@given(names, st.integers(0, 1023))
def test_every_node_computes_the_same_order(some: set[str], partition: int) -> None:
    order = rank(partition, some)
    assert sorted(order) == sorted(some)
    assert rank(partition, sorted(some)) == order == rank(partition, sorted(some, reverse=True))


@given(names, st.text("xyz", min_size=1, max_size=5))
def test_who_joins_takes_only_for_itself_and_who_leaves_gives_only_its_own(some: set[str], other: str) -> None:
    without, with_ = some - {other}, some | {other}
    if not without:
        return
    for partition in range(64):
        before, after = rank(partition, without), rank(partition, with_)
        assert [name for name in after if name != other] == before
        assert after[0] in (before[0], other)


def test_partitions_spread_over_nodes() -> None:
    some = [f"node-{n}" for n in range(8)]
    counts = [sum(rank(p, some)[0] == name for p in range(1024)) for name in some]
    assert min(counts) > 90
    assert max(counts) < 170


def test_what_nobody_has_the_first_adopts_at_once_and_the_next_wait() -> None:
    for place, waits in ((0, 0.0), (1, 1.5), (2, 3.0)):
        mine = {p for p in range(PARTITIONS) if rank(p, "abc")[place] == "a"}
        assert mine
        assert mine <= set(decide(picture(now=100.0 + waits), Ranks()).adopt)
        if waits:
            assert not mine & set(decide(picture(now=99.9 + waits), Ranks()).adopt)


def test_what_another_live_node_has_is_left_alone() -> None:
    holdings = {p: Holding(2, 1, ready=True) for p in range(PARTITIONS)}
    plan = decide(picture(holdings=holdings, orphan_since={}), Ranks())
    assert plan.adopt == plan.release == plan.disown == []


def test_what_a_dead_node_has_is_adopted() -> None:
    holdings = {p: Holding(9, 1, ready=True) for p in range(PARTITIONS)}
    plan = decide(picture(holdings=holdings), Ranks())
    assert set(plan.adopt) == {p for p in range(PARTITIONS) if rank(p, "abc")[0] == "a"}


def test_what_the_record_says_and_this_node_has_no_more_is_taken_up_or_given_away() -> None:
    holdings = {0: Holding(1, 4, ready=True)}
    assert decide(picture(holdings=holdings, orphan_since={}, partitions=1), Ranks()).adopt == [0]
    drained = picture(holdings=holdings, orphan_since={}, partitions=1, is_draining=True, eligible=("b", "c"))
    assert decide(drained, Ranks()).disown == [0]


def test_only_so_many_are_handed_over_at_a_time() -> None:
    holdings = {p: Holding(1, 1, ready=True) for p in range(PARTITIONS)}
    base = picture(holdings=holdings, owned=set(range(PARTITIONS)), orphan_since={})
    others = [p for p in range(PARTITIONS) if rank(p, "abc")[0] != "a"]
    assert decide(base, Ranks()).release == others[:2]
    assert decide(base._replace(busy={others[0]}), Ranks()).release == others[1:2]
    assert decide(base._replace(unserved_since={77: 99.0, 78: 99.0}), Ranks()).release == []
    # what nobody could open for long holds nothing up
    assert decide(base._replace(unserved_since={77: 1.0, 78: 1.0}), Ranks()).release == others[:2]


def test_a_node_that_is_new_is_not_given_what_another_has() -> None:
    holdings = {p: Holding(1, 1, ready=True) for p in range(PARTITIONS)}
    base = picture(holdings=holdings, owned=set(range(PARTITIONS)), orphan_since={}, steady={"a", "b"})
    assert {rank(p, "abc")[0] for p in decide(base, Ranks()).release} == {"b"}
    # a node that drains is not as choosy
    draining = base._replace(is_draining=True, eligible=("b", "c"), steady={"a"}, handovers=99)
    assert set(decide(draining, Ranks()).release) == set(range(PARTITIONS))


def test_with_nobody_else_a_node_that_drains_keeps_what_it_has() -> None:
    holdings = {p: Holding(1, 1, ready=True) for p in range(PARTITIONS)}
    alone = picture(
        holdings=holdings, owned=set(range(PARTITIONS)), orphan_since={}, live={1: "a"}, eligible=(), is_draining=True
    )
    assert decide(alone, Ranks()).release == []


def test_who_could_not_open_a_partition_is_not_asked_again() -> None:
    first = next(p for p in range(PARTITIONS) if rank(p, "abc")[0] == "a")
    assert first not in decide(picture(avoided={first: ["a"]}), Ranks()).adopt
    behind = next(p for p in range(PARTITIONS) if rank(p, "abc")[:2] == ["b", "a"])
    assert behind in decide(picture(avoided={behind: ["b"]}), Ranks()).adopt


def test_the_next_in_the_order_follow() -> None:
    for p in range(PARTITIONS):
        order = rank(p, "abc")
        for owner in "bc":
            number = {"b": 2, "c": 3}[owner]
            see = picture(holdings={p: Holding(number, 1, ready=True)})
            follows = p in decide(see, Ranks()).follow
            assert follows == (next(name for name in order if name != owner) == "a")
        # who is to adopt follows until it does, and so does the next
        orphan = picture(holdings={p: Holding(9, 1, ready=True)})
        assert (p in decide(orphan, Ranks()).follow) == ("a" in order[:2])
    # what never had an owner has no journal yet
    assert decide(picture(), Ranks()).follow == set()
    opening = {p: Holding(3, 1) for p in range(PARTITIONS)}
    assert decide(picture(holdings=opening), Ranks()).follow == set()


def test_nothing_is_given_away_while_the_nodes_of_a_new_fleet_are_coming() -> None:
    assert decide(picture(), Ranks()).adopt
    assert not decide(picture(waits_for_others=True), Ranks()).adopt


@given(
    st.dictionaries(
        st.integers(0, PARTITIONS - 1), st.builds(Holding, st.integers(0, 4), st.integers(0, 9), st.booleans())
    ),
    st.sets(st.sampled_from("abc")),
    st.sets(st.sampled_from("abc")),
    st.sets(st.integers(0, PARTITIONS - 1)),
    st.sets(st.integers(0, PARTITIONS - 1)),
    st.booleans(),
)
def test_no_picture_makes_two_plans_for_one_partition(
    holdings: dict[int, Holding],
    eligible: set[str],
    steady: set[str],
    owned: set[int],
    busy: set[int],
    is_draining: bool,
) -> None:
    holdings = {**holdings, **{p: Holding(1, 5, ready=True) for p in owned}}
    see = picture(
        holdings=holdings,
        eligible=tuple(sorted(eligible - ({"a"} if is_draining else set()))),
        steady=steady,
        owned=owned,
        busy=busy,
        is_draining=is_draining,
    )
    plan = decide(see, Ranks())
    done = [*plan.adopt, *plan.disown, *plan.release]
    assert len(done) == len(set(done))
    assert not set(done) & busy
    assert set(plan.release) <= owned
    assert not (set(plan.adopt) | set(plan.disown)) & owned
    assert len(plan.release) <= see.handovers
