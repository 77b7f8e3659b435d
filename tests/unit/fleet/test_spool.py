"""The spool: what is kept is on disk, is taken in once and in order, and what became of it is told."""

from __future__ import annotations

import asyncio
import resource
import signal
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spool_scene import APP, FATES_S, FLEET, NOW_MS, Scene, push

from gateway.cluster.fleet_identity import fleet_identity
from gateway.fleet.spool_intake import left_of
from gateway.fleet.spool_record import (
    DOUBT_S,
    Fate,
    Kept,
    build_fate,
    build_kept,
    next_number,
    pack_request,
    parse_fate,
    parse_kept,
    parse_number,
    parse_request,
)
from gateway.metrics import Metric
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    ConfigError,
    Conflict,
    GatewayError,
    LogUnavailable,
    NodeUnreachable,
    QueueFull,
    StoreUnavailable,
    UnknownToken,
)
from gateway.store.spool_rows import SpoolRows


def what(scene: Scene, number: int) -> str:
    found = scene.spool.look(APP.name, number)
    return "spooled" if isinstance(found, Kept) else found.what if found else ""


def kept_of(scene: Scene, number: int) -> Kept:
    found = scene.spool.look(APP.name, number)
    assert isinstance(found, Kept)
    return found


async def keep_until_refused(scene: Scene, refusal: type[GatewayError], size: int) -> int:
    """How many were kept."""
    for kept in range(2_000):
        try:
            await scene.keep("x" * size)
        except refusal:
            return kept
    raise AssertionError("never refused")


async def test_what_is_kept_is_there_after_a_restart_and_then_taken_in_in_order(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        titles = [f"{number}" for number in range(80)]
        numbers = [await scene.keep(title) for title in titles]
        assert numbers == sorted(set(numbers))
        await scene.restart()
        assert scene.spool.waiting == 80
        scene.start()
        await scene.drained()
        assert scene.fleet.taken == titles
        assert [what(scene, number) for number in (numbers[0], numbers[-1])] == ["pushed", "pushed"]
        assert scene.metrics.value(Metric.SPOOL_TAKEN, "pushed") == 80


async def test_many_at_once_are_few_writes_and_targets_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        writes = 0
        write = scene.spool._rows.write

        def counted(*args: object, **options: object) -> None:
            nonlocal writes
            writes += 1
            write(*args, **options)  # type: ignore[arg-type]

        scene.spool._rows.write = counted  # type: ignore[method-assign]
        await asyncio.gather(*(scene.keep(f"{number}", token=f"t{number % 7}") for number in range(200)))
        assert writes < 20
        scene.start()
        await scene.drained()
        for target in range(7):
            mine = [int(title) for title in scene.fleet.taken if int(title) % 7 == target]
            assert mine == sorted(mine)
        assert 1 < scene.fleet.most_running <= 7


async def test_a_push_that_was_taken_in_and_not_noted_is_found_again_by_its_key(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        numbers = [await scene.keep(f"{number}") for number in range(5)]
        scene.start()
        noted = asyncio.Event()

        def fails(*_args: object, **_options: object) -> None:
            noted.set()
            raise lmdb.DiskError("no")

        scene.spool._rows.write = fails  # type: ignore[method-assign]
        scene.fleet.is_up = True
        async with asyncio.timeout(60):
            while not noted.is_set():
                await asyncio.sleep(0.001)
        await scene.restart()  # as after a kill between the two
        assert scene.spool.waiting == 5
        scene.start()
        await scene.drained()
        assert scene.fleet.taken == [f"{number}" for number in range(5)]
        assert scene.fleet.asked > 5
        assert [what(scene, number) for number in numbers] == ["pushed"] * 5


async def test_nothing_is_taken_in_while_the_fleet_is_not_there(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.keep("a")
        scene.start()
        for _ in range(50):
            await asyncio.sleep(0)
        assert scene.fleet.asked == 0
        assert scene.spool.waiting == 1


async def test_who_can_not_be_taken_in_yet_holds_back_its_own_target_alone(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        for title, token in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
            await scene.keep(title, token)
        scene.fleet.refuses["a1"] = NodeUnreachable()
        scene.start()
        await scene.drained(left=2)
        assert scene.fleet.taken == ["b1", "b2"]
        scene.fleet.refuses.clear()
        await scene.drained()
        assert scene.fleet.taken == ["b1", "b2", "a1", "a2"]
        assert scene.metrics.value(Metric.SPOOL_RETRIES, "node_unreachable") > 0


async def test_what_the_fleet_refuses_says_so_and_lets_the_next_go(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        bad, good = await scene.keep("bad"), await scene.keep("good")
        scene.fleet.refuses["bad"] = UnknownToken()
        scene.start()
        await scene.drained()
        fate = scene.spool.look(APP.name, bad)
        assert isinstance(fate, Fate)
        assert (fate.what, fate.code) == ("refused", UnknownToken.code)
        assert what(scene, good) == "pushed"


async def test_a_bug_in_taking_in_costs_no_push(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.keep("a")
        scene.fleet.refuses["a"] = RuntimeError("bug")  # type: ignore[assignment]
        scene.start()
        scene.fleet.is_up = True
        async with asyncio.timeout(60):
            while scene.fleet.asked < 3:
                await asyncio.sleep(0.001)
        scene.fleet.refuses.clear()
        await scene.drained()
        assert scene.fleet.taken == ["a"]


async def test_what_waited_longer_than_its_life_is_dropped_with_a_count(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        short, long = await scene.keep("short", ttl=10), await scene.keep("long", ttl=60)
        scene.now_ms += 10_000
        scene.start()
        await scene.drained()
        assert (what(scene, short), what(scene, long)) == ("expired", "pushed")
        assert scene.metrics.value(Metric.SPOOL_TAKEN, "expired") == 1


@pytest.mark.parametrize("doubt", ["lost", "restart", "own key"])
async def test_what_is_over_and_in_the_fleet_is_not_told_to_have_expired(tmp_path: Path, doubt: str) -> None:
    async with Scene(tmp_path) as scene:
        number = await scene.keep("a", ttl=10, idempotency_key="k" if doubt == "own key" else "")
        scene.fleet.seqs[kept_of(scene, number).key] = 7
        if doubt == "lost":
            scene.spool._doubtful.add(number)
        elif doubt == "restart":
            await scene.restart()
        scene.now_ms += 10_000
        scene.start()
        await scene.drained()
        found = scene.spool.look(APP.name, number)
        assert isinstance(found, Fate)
        assert (found.what, found.seq) == ("pushed", 7)
        assert scene.fleet.asked == 0


@pytest.mark.parametrize("error", [NodeUnreachable(), RuntimeError("bug")])
async def test_what_is_over_is_asked_for_a_while_and_nobody_waits_for_it(tmp_path: Path, error: Exception) -> None:
    async with Scene(tmp_path) as scene:
        over = [await scene.keep(title, ttl=10) for title in ("a", "b", "c")]
        last = await scene.keep("last", ttl=100_000)
        await scene.restart()
        asked = asked_before = 0

        async def known(_: Kept) -> int:
            nonlocal asked, asked_before
            asked += 1
            asked_before += not scene.fleet.taken
            raise error

        scene.fleet.known = known  # type: ignore[method-assign]
        scene.now_ms += 10_000
        scene.start()
        await scene.drained(left=3)
        assert what(scene, last) == "pushed"
        assert asked_before == 1  # of three: each may take as long as a question may
        scene.now_ms += DOUBT_S * 1000 - 1
        before = asked
        async with asyncio.timeout(60):
            while asked < before + 2:
                await asyncio.sleep(0)
        assert [what(scene, number) for number in over] == ["spooled"] * 3
        scene.now_ms += 1
        await scene.drained()
        assert scene.metrics.value(Metric.SPOOL_TAKEN, "expired") == 3


async def test_what_is_over_ends_though_one_before_it_has_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fleet.spool.CHUNK", 2)
    async with Scene(tmp_path) as scene:
        first = await scene.keep("first", ttl=100_000)
        over = [await scene.keep(title, ttl=10) for title in ("a", "b", "c")]
        last = await scene.keep("last", ttl=100_000)
        await scene.restart()  # perhaps it gave them to the fleet before
        scene.fleet.refuses["first"] = NodeUnreachable()
        scene.now_ms += 10_000
        scene.start()
        await scene.drained(left=2)
        assert [what(scene, number) for number in over] == ["expired"] * 3
        assert scene.fleet.taken == []
        assert what(scene, last) == what(scene, first) == "spooled"
        del scene.fleet.refuses["first"]
        await scene.drained()
        assert scene.fleet.taken == ["first", "last"]


async def test_now_or_never_is_not_kept(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        with pytest.raises(LogUnavailable):
            await scene.keep("now", ttl=0)
        assert scene.spool.waiting == 0


async def test_a_full_spool_says_so_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    async with Scene(tmp_path, max_bytes=3_000) as scene:
        kept = await keep_until_refused(scene, QueueFull, 100)
        assert 3 < kept < 30
        assert scene.spool.waiting == kept
        scene.start()
        await scene.drained()
        assert scene.spool._bytes == 0
        scene.fleet.is_up = False
        await scene.keep("again")
        assert scene.metrics.value(Metric.SPOOLED, "queue_full") == 1


async def test_the_same_key_is_one_push_and_another_body_a_conflict(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        first, second = await asyncio.gather(scene.keep("a", idempotency_key="k"), scene.keep("a", idempotency_key="k"))
        assert first == second
        assert scene.spool.waiting == 1
        with pytest.raises(Conflict):
            await scene.keep("b", idempotency_key="k")
        await scene.restart()
        assert await scene.keep("a", idempotency_key="k") == first
        assert scene.spool.is_behind(APP.name, push("a", "elsewhere", idempotency_key="k"))
        scene.start()
        await scene.drained()
        assert list(scene.fleet.seqs) == ["k"]  # the owner knows it by the provider's own key


async def test_a_key_whose_write_failed_is_free_again(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        write = scene.spool._rows.write

        def fails(*_args: object, **_options: object) -> None:
            raise lmdb.MapFullError("full")

        scene.spool._rows.write = fails  # type: ignore[method-assign]
        results = await asyncio.gather(
            scene.keep("a", idempotency_key="k"), scene.keep("a", idempotency_key="k"), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
        scene.spool._rows.write = write  # type: ignore[method-assign]
        assert (scene.spool.waiting, scene.spool._bytes) == (0, 0)
        assert not scene.spool.is_behind(APP.name, push("a", idempotency_key="k"))
        await scene.keep("a", idempotency_key="k")


async def test_only_pushes_to_a_target_that_waits_have_to_go_behind(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        assert not scene.spool.is_behind(APP.name, push(token="a"))
        await scene.keep("1", "a")
        await scene.keep("2", "a")
        assert scene.spool.is_behind(APP.name, push("other words", "a"))
        assert not scene.spool.is_behind(APP.name, push(token="b"))
        assert not scene.spool.is_behind("other app", push(token="a"))
        scene.start()
        await scene.drained()
        assert not scene.spool.is_behind(APP.name, push(token="a"))


async def test_a_recalled_push_never_goes(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        number, other = await scene.keep("a"), await scene.keep("b")
        assert not await scene.spool.recall("other app", number)
        assert await scene.spool.recall(APP.name, number)
        assert not await scene.spool.recall(APP.name, number)
        scene.start()
        await scene.drained()
        assert scene.fleet.taken == ["b"]
        assert (what(scene, number), what(scene, other)) == ("recalled", "pushed")


async def test_a_push_of_an_earlier_process_is_recalled_once_it_is_known_that_the_fleet_has_it_not(
    tmp_path: Path,
) -> None:
    async with Scene(tmp_path) as scene:
        taken, left = await scene.keep("a"), await scene.keep("b")
        scene.fleet.seqs[kept_of(scene, taken).key] = 77  # and a crash before that was noted
        await scene.restart()
        with pytest.raises(NodeUnreachable):  # nobody can be asked
            await scene.spool.recall(APP.name, left)
        assert what(scene, left) == "spooled"
        scene.start()
        assert await scene.spool.recall(APP.name, left)
        assert await scene.spool.recall(APP.name, taken)
        assert what(scene, left) == "recalled"
        found = scene.spool.look(APP.name, taken)
        assert isinstance(found, Fate)
        assert (found.what, found.seq) == ("pushed", 77)
        assert scene.spool.waiting == 0


@pytest.mark.parametrize(("error", "is_asked"), [(LogUnavailable(), False), (AcceptTimeout(), True)])
async def test_the_fleet_is_asked_of_what_it_may_have_and_only_of_that(
    tmp_path: Path, error: GatewayError, is_asked: bool
) -> None:
    async with Scene(tmp_path) as scene:
        number = await scene.keep("a")
        key = kept_of(scene, number).key
        scene.fleet.refuses["a"] = error
        scene.fleet.is_up = True
        scene.start()
        async with asyncio.timeout(60):
            while not scene.metrics.value(Metric.SPOOL_RETRIES, error.name):
                await asyncio.sleep(0)
        await scene.spool.stop()
        assert await scene.spool.recall(APP.name, number)
        assert scene.fleet.asked_after == ([key] if is_asked else [])


async def test_what_has_its_provider_s_key_is_asked_for_before_it_is_recalled(tmp_path: Path) -> None:
    """It may have been sent before, to whatever node."""
    async with Scene(tmp_path) as scene:
        number = await scene.spool.keep(APP, "k1", push("a", idempotency_key="k"))
        scene.fleet.seqs["k"] = 5
        scene.start()
        await scene.spool.recall(APP.name, number)
        assert what(scene, number) == "pushed"


async def test_a_push_that_is_being_taken_in_is_not_recalled_here(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        number = await scene.keep("a")
        scene.fleet.gate.clear()
        scene.fleet.is_up = True
        scene.start()
        async with asyncio.timeout(60):
            while not scene.fleet.running:
                await asyncio.sleep(0)
        assert not await scene.spool.recall(APP.name, number)
        scene.fleet.gate.set()
        await scene.drained()
        assert what(scene, number) == "pushed"


async def test_nobody_learns_of_another_app_s_push(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        number = await scene.keep("a")
        assert scene.spool.look("other app", number) is None
        assert scene.spool.look(APP.name, number + 1) is None


async def test_a_push_that_is_counted_and_not_on_the_disk_yet_is_waited_for(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        scene.fleet.is_up = True
        scene.start()
        await asyncio.sleep(0)
        keeping = asyncio.create_task(scene.keep("new"))
        scene.spool._changed.set()  # so that it looks in the very turn in which the push is counted
        number = await keeping
        await scene.drained()
        assert what(scene, number) == "pushed"


async def test_fates_are_told_for_their_time_and_then_forgotten(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        old = await scene.keep("old")
        scene.start()
        await scene.drained()
        scene.now_ms += FATES_S * 1000 + 1
        new = await scene.keep("new")
        await scene.drained()
        assert (what(scene, old), what(scene, new)) == ("", "pushed")


async def test_no_more_fates_are_kept_than_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.spool_rows.FATES_MOST", 10)
    async with Scene(tmp_path) as scene:
        numbers = [await scene.keep(f"{number}") for number in range(40)]
        scene.start()
        await scene.drained()
        assert sum(what(scene, number) == "pushed" for number in numbers) == 10
        assert [what(scene, number) for number in numbers[-10:]] == ["pushed"] * 10


async def test_a_spool_in_which_pushes_of_another_fleet_wait_is_not_opened(tmp_path: Path) -> None:
    other = fleet_identity("fleet", b"another key")
    async with Scene(tmp_path, fleet=other) as scene:
        await scene.keep("theirs")
        await scene.spool.close()
        scene.settings["fleet"] = FLEET
        with pytest.raises(ConfigError, match=other.ident) as told:
            scene.open()
        assert told.value.field == "cluster.spool"
        scene.settings["fleet"] = other
        scene.spool = scene.open()
        scene.start()
        await scene.drained()
        await scene.spool.close()
        scene.settings["fleet"] = FLEET
        scene.spool = scene.open()  # nothing of theirs is left
        await scene.keep("ours")
        await scene.spool.close()
        scene.settings["fleet"] = other
        with pytest.raises(ConfigError, match=FLEET.ident):
            scene.open()
        scene.settings["fleet"] = FLEET
        scene.spool = scene.open()


async def test_a_spool_that_does_not_say_whose_it_is_is_this_fleets_even_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an older program made."""

    def full(_rows: SpoolRows, _fleet: str) -> None:
        raise lmdb.DiskError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SpoolRows, "belong_to", full)
        async with Scene(tmp_path) as scene:
            await scene.keep("ours")
    rows = SpoolRows.open(tmp_path, 1 << 22)
    assert rows.fleet == ""
    rows.close()
    async with Scene(tmp_path) as scene:
        assert scene.spool.waiting == 1


async def test_a_disk_that_takes_no_more_refuses_and_takes_again_later(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with Scene(tmp_path, max_bytes=1 << 26) as scene:
        await scene.keep("before")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
            count = 1 + await keep_until_refused(scene, StoreUnavailable, 4_000)
            assert scene.spool.waiting == count
            with pytest.raises(StoreUnavailable):
                await scene.keep("y" * 4_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert count > 10
        await scene.keep("after")
        await scene.restart()
        assert scene.spool.waiting == count + 1
        scene.start()
        await scene.drained()
        assert (scene.fleet.taken[0], len(scene.fleet.taken)) == ("before", count + 1)


async def test_a_record_that_can_not_be_read_is_no_obstacle(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        first = await scene.keep("a")
        scene.spool._rows.write([(first + 1, b"\xc1 nonsense")])
        await scene.restart()
        await scene.keep("b")
        assert scene.spool.waiting == 3
        scene.start()
        await scene.drained()
        assert sorted(scene.fleet.taken) == ["a", "b"]
        assert scene.spool._bytes == 0


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    async with Scene(tmp_path):
        with pytest.raises(ConfigError, match="in use"):
            SpoolRows.open(tmp_path, 1 << 20)


async def test_a_folder_that_can_not_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="spool"):
        SpoolRows.open(tmp_path / "file" / "spool", 1 << 20)


def test_what_is_left_of_a_push_goes_on() -> None:
    def kept(**fields: object) -> Kept:
        request = push("a", **fields)  # type: ignore[arg-type]
        deadline = max((request.deliver_at or 0) * 1000, NOW_MS) + (request.ttl or 0) * 1000
        return Kept("shop", "k", NOW_MS, deadline, "key", b"", pack_request(request))

    assert left_of(kept(ttl=100), NOW_MS + 40_500).ttl == 60
    assert left_of(kept(ttl=100, over=80), NOW_MS + 90_000).over == 10
    later = NOW_MS // 1000 + 50
    assert left_of(kept(ttl=100, deliver_at=later), NOW_MS + 10_000).deliver_at == later
    due = left_of(kept(ttl=100, deliver_at=later), NOW_MS + 60_000)
    assert (due.deliver_at, due.ttl) == (None, 90)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 4_095), st.integers(0, 3_000))
def test_numbers_rise_whatever_the_clock_does(first_ms: int, then_ms: int, tag: int, more: int) -> None:
    number = next_number(0, first_ms, tag)
    for _ in range(more % 1_500):
        later = next_number(number, first_ms, tag)
        assert later > number
        assert parse_number(later).tag == tag
        number = later
    after = next_number(number, then_ms, tag)
    assert after > number
    assert after < 1 << 64
    assert parse_number(after).tag == tag


@given(
    st.builds(
        Kept,
        app=st.text(max_size=20),
        key_id=st.text(max_size=8),
        accepted_ms=st.integers(0, 1 << 62),
        deadline_ms=st.integers(0, 1 << 62),
        key=st.text(max_size=40),
        body_hash=st.binary(max_size=32),
        request=st.binary(max_size=80),
    )
)
def test_a_kept_push_reads_back_as_it_was(kept: Kept) -> None:
    assert parse_kept(build_kept(kept)) == kept


@given(
    st.builds(
        Fate,
        app=st.text(max_size=9),
        at_ms=st.integers(0, 1 << 62),
        what=st.text(max_size=9),
        seq=st.integers(0, 1 << 62),
    )
)
def test_a_fate_reads_back_as_it_was(fate: Fate) -> None:
    assert parse_fate(build_fate(fate)) == fate


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_bad_request(raw: bytes) -> None:
    for parse in (parse_kept, parse_fate, parse_request):
        try:
            parse(raw)
        except BadRequest:
            continue
