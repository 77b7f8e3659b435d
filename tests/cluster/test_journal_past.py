"""What counts as the journal that a partition had, and the records of it: nothing that is less, nothing guessed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.cli.cluster_recovery import what_may_be_lost
from gateway.cluster import journal_past
from gateway.cluster.fleet_records import BadRecord
from gateway.cluster.jetstream import StreamState
from gateway.cluster.journal_past import (
    Lack,
    Mark,
    Past,
    Pasts,
    build,
    lack_key,
    lacking,
    parse_lack,
    parse_lack_key,
    parse_past,
    parse_past_key,
    past_key,
)
from gateway.cluster.leases import Bucket, Changed, LocalLeases
from gateway.cluster.recovery import EMPTY, FURTHEST, NotRecovered, choose, require
from gateway.cluster.recovery_survey import Copy, Survey
from gateway.model.errors import ConfigError, LogUnavailable


def stream(created: str, last: int, first: int = 1) -> StreamState:
    return StreamState(created, first, last, 0, last - first + 1, {}, {})


@pytest.mark.parametrize(
    ("state", "past", "snapshot", "folder", "why"),
    [
        # a partition that never was
        (None, None, None, None, ""),
        (None, None, None, Mark("a", 0), ""),
        (stream("a", 1), None, None, None, ""),
        # as it was, and further
        (stream("a", 9), Past("a", 9), Mark("a", 5), Mark("a", 9), ""),
        (stream("a", 9, 8), Past("a", 2), None, Mark("a", 1), ""),
        # gone
        (None, Past("a", 1), None, None, "gone"),
        (None, None, Mark("a", 5), None, "gone"),
        (None, None, None, Mark("a", 5), "gone"),
        # made anew
        (stream("b", 99), Past("a", 1), None, None, "made anew"),
        (stream("b", 99), None, Mark("a", 5), None, "made anew"),
        (stream("b", 99), None, None, Mark("a", 5), "made anew"),
        # shorter
        (stream("a", 4), Past("a", 5), None, None, "ends at 4"),
        (stream("a", 4), Past("a", 3), Mark("a", 5), None, "ends at 4"),
        (stream("a", 4), Past("a", 3), None, Mark("a", 5), "ends at 4"),
        (stream("a", 0, 1), Past("a", 1), None, None, "ends at 0"),
        # recovered: what was left behind tells nothing any more
        (stream("b", 99), Past("b", 99), Mark("a", 500), Mark("a", 500), ""),
        # nobody comes between
        (stream("a", 9), Past("a", 9, "by hand"), None, None, "recovery"),
    ],
)
def test_what_is_not_the_journal_that_the_partition_had(
    state: StreamState | None, past: Past | None, snapshot: Mark | None, folder: Mark | None, why: str
) -> None:
    said = lacking(state, past, snapshot, folder)
    assert why in said
    assert bool(said) == bool(why)


def test_records_and_keys_of_others_are_no_records_of_ours() -> None:
    assert parse_past(build(Past("a", 3, "x", "b"))) == Past("a", 3, "x", "b")
    assert parse_past(b"\x92\xa1a\x03") == Past("a", 3)  # of a program that knew less
    assert parse_past(b"\x96\xa1a\x03\xa0\xa0\xa0\xa3new") == Past("a", 3)  # and of one that knows more
    assert parse_lack(build(Lack("why", "a", 3))) == Lack("why", "a", 3)
    for raw in (b"", b"\xc0", b"\x92\xa1a\xff", b"\x92\xa1\xff\x03", b"\x91\xa1a", b"{}"):
        with pytest.raises(BadRecord):
            parse_past(raw)
    for raw in (b"", b"\x90", b"\x93\xa1a\xa1b\xff", build(Lack("x" * 500))):
        with pytest.raises(BadRecord):
            parse_lack(raw)
    assert (parse_past_key(past_key(7)), parse_lack_key(lack_key(7, "gw.1"))) == (7, (7, "gw.1"))
    for key in ("journal.", "journal.x", "journal.٣", "journal.-1", "part.3", "journal.123456"):
        assert parse_past_key(key) == -1
    for key in ("lack.", "lack.3", "lack.3.", "lack.x.a", "node.a"):
        assert parse_lack_key(key) == (-1, "")


async def test_a_note_is_written_though_answers_are_lost_and_never_goes_back() -> None:
    bucket = Bucket()
    leases, other = LocalLeases(bucket), LocalLeases(bucket)
    pasts = Pasts(leases)
    put, lost = leases.bucket.put, 0

    def carried_out(*words: Any) -> int:
        nonlocal lost
        revision = put(*words)
        lost += 1
        leases.loses_answers = True
        asyncio.get_running_loop().call_later(0.15, setattr, leases, "loses_answers", False)
        return revision

    bucket.put = carried_out  # type: ignore[method-assign]
    await pasts.note(3, "a", 10)
    assert lost == 1  # it looked, and did not write once more
    bucket.put = put  # type: ignore[method-assign]
    await pasts.note(3, "a", 4)
    assert (await Pasts(other).get(3))[0] == Past("a", 10)
    with pytest.raises(LogUnavailable):
        await pasts.note(3, "b", 99)
    _, revision = await pasts.get(3)
    await pasts.change(3, Past("a", 10, "by hand"), revision)
    with pytest.raises(Changed):
        await pasts.change(3, Past("a", 11), revision)
    with pytest.raises(LogUnavailable):
        await pasts.note(3, "a", 99)


async def test_a_record_that_can_not_be_read_or_written_is_said_so_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_past, "PATIENCE_S", 0.2)
    leases = LocalLeases(Bucket())
    pasts = Pasts(leases)
    leases.is_cut = True
    for work in (pasts.get(3), pasts.change(3, Past("a", 1), 0), pasts.note(3, "a", 1), pasts.known()):
        with pytest.raises(LogUnavailable):
            await work
    leases.is_cut = False
    leases.bucket.put(past_key(3), b"\xc1", 0)
    with pytest.raises(LogUnavailable, match="not of this version"):
        await pasts.get(3)  # not as if there were none


def survey(*copies: Copy, reason: str = "gone", had: int = 9, **more: Any) -> Survey:
    told = {"owner": "", "serves": False, "silent": [], "partition": 5, **more}
    return Survey(reason=reason, had=had, epoch=3, copies=list(copies), **told)


def test_the_furthest_copy_is_one_of_this_journal_and_in_reach() -> None:
    snapshot, far = Copy("snapshot", 5, True, False), Copy("folder of gw2", 9, False, False)
    strange = Copy("stream", 900, True, True)
    assert choose(survey(snapshot, strange), FURTHEST) == "snapshot"
    with pytest.raises(NotRecovered, match="folder of gw2"):
        choose(survey(far, snapshot), FURTHEST)
    assert choose(survey(far, snapshot), "snapshot") == "snapshot"
    for copies in ((), (strange,)):
        with pytest.raises(NotRecovered, match="no copy"):
            choose(survey(*copies), FURTHEST)
    assert choose(survey(), EMPTY) == EMPTY
    assert choose(survey(), "./partitions/5") == "./partitions/5"
    with pytest.raises(ConfigError, match="furthest, snapshot"):
        choose(survey(), "gw2")


def test_what_is_served_or_whole_is_not_recovered() -> None:
    with pytest.raises(NotRecovered, match="'gw1' serves"):
        require(survey(owner="gw1", serves=True))
    with pytest.raises(NotRecovered, match="whole"):
        require(survey(reason=""))
    require(survey(owner="gw1"))  # it tries, and will not come through


def test_what_may_be_lost_is_said_plainly() -> None:
    snapshot = Copy("snapshot", 5, True, False)
    assert "places 6 to 9" in what_may_be_lost(survey(snapshot), "snapshot")
    assert "all that is known of" in what_may_be_lost(survey(snapshot, had=5), "snapshot")
    assert "EVERYTHING" in what_may_be_lost(survey(), EMPTY)
    assert "apps and keys" in what_may_be_lost(survey(partition=0), EMPTY)
    assert "apps and keys" not in what_may_be_lost(survey(), EMPTY)
    assert "gw7" in what_may_be_lost(survey(snapshot, silent=["gw7"]), "snapshot")
    assert "another journal" in what_may_be_lost(survey(Copy("stream", 5, True, True)), "stream")
