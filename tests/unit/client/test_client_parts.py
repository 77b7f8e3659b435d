"""Back-off, credentials, errors, dedupe and heartbeat bounds of the device SDK."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.backoff import FIRST_S, LONGEST_ASKED_S, LONGEST_S, Backoff
from gateway.client.credentials import Credentials, FileCredentials, MemoryCredentials
from gateway.client.errors import build_error
from gateway.client.heartbeat import AdaptiveHeartbeat
from gateway.client.seen import ACKED_FULL, FULL, Seen
from gateway.model import errors
from gateway.model.errors import GatewayError


def test_backoff_grows_by_1_8_up_to_300_s():
    backoff = Backoff(lambda: 0.5)  # the middle of the jitter
    delays = [backoff.next_delay() for _ in range(14)]
    assert delays[:4] == pytest.approx([1.0, 1.8, 3.24, 5.832])
    assert delays[-1] == LONGEST_S
    backoff.reset()
    assert backoff.next_delay() == FIRST_S


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 30))
def test_jitter_stays_within_30_percent(random, failures):
    backoff, middle = Backoff(lambda: random), Backoff(lambda: 0.5)
    for _ in range(failures):
        backoff.next_delay()
        middle.next_delay()
    at = middle.next_delay()
    assert 0.7 * at - 1e-9 <= backoff.next_delay() <= 1.3 * at + 1e-9


def test_what_the_gateway_asks_for_wins():
    backoff = Backoff(lambda: 0.25)
    assert backoff.next_delay(after_ms=2000, jitter_ms=8000) == 4.0
    assert backoff.next_delay(after_ms=0, jitter_ms=8000) == 2.0
    assert backoff.next_delay(after_ms=10_000) == pytest.approx(10.75)  # an ERROR names no jitter
    assert backoff.next_delay(after_ms=2**60) == LONGEST_ASKED_S


async def test_credentials_file_is_private_and_replaced_as_a_whole(tmp_path):
    path = tmp_path / "state" / "device.json"
    store = FileCredentials(path)
    assert await store.load() is None
    await store.save(Credentials("dev~1", b"\x00\xff"))
    await store.save(Credentials("dev~1", b"\x01\xff"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await FileCredentials(path).load() == Credentials("dev~1", b"\x01\xff")
    assert [p.name for p in path.parent.iterdir()] == ["device.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"device": 1}', b'{"device": "d", "secret": "s3cret!"}'])
async def test_a_broken_credentials_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "device.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no credentials file") as caught:
        await FileCredentials(path).load()
    assert "s3cret" not in str(caught.value)
    assert path.read_bytes() == content


async def test_a_failed_save_leaves_the_old_credentials(tmp_path):
    path = tmp_path / "device.json"
    path.mkdir()  # can not be replaced by a file
    with pytest.raises(OSError, match="directory"):
        await FileCredentials(path).save(Credentials("d", b"s"))
    assert list(tmp_path.iterdir()) == [path]


async def test_memory_credentials_keep():
    store = MemoryCredentials()
    await store.save(Credentials("d"))
    assert await store.load() == Credentials("d")


def test_secrets_are_in_no_repr():
    assert "hush" not in repr(Credentials("hush-id", b"hush"))


@pytest.mark.parametrize("kind", list(errors.ERRORS.values()))
def test_every_error_of_the_table_is_rebuilt_as_its_class(kind):
    error = build_error(kind.code, kind.name, "why", retry=True, after_ms=7)
    assert type(error) is kind
    assert (error.message, error.retryable, error.after_ms) == ("why", True, 7)
    assert kind.after_ms == type(error).after_ms  # the table is untouched


def test_an_error_of_a_later_version_keeps_number_and_name():
    error = build_error(9999, "brand_new", "")
    assert (type(error), error.code, error.name, error.retryable) == (GatewayError, 9999, "brand_new", False)
    assert GatewayError.code == 1


def test_seen_stays_within_its_bound():
    seen = Seen(3)
    for id in range(10):
        seen.mark("t", id, FULL)
    assert len(seen) == 3
    assert seen.get("t", 6) is None
    assert seen.get("t", 9) == FULL
    assert seen.mark("t", 9, ACKED_FULL)
    assert not seen.mark("t", 9, ACKED_FULL)


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.one_of(st.just("good"), st.floats(0, 1000)), max_size=60),
)
def test_the_interval_never_leaves_the_gateway_s_bounds(agreed, low, high, happenings):
    low, high = min(low, high), max(low, high)
    heartbeat = AdaptiveHeartbeat()
    heartbeat.on_welcome(min(max(agreed, low), high), low, high)
    for what in happenings:
        if what == "good":
            longer = heartbeat.on_good_interval()
            if longer:
                assert low <= longer <= high
                heartbeat.on_agreed(longer)
        elif heartbeat.on_cut(what):
            assert low <= heartbeat.wanted <= high
            heartbeat.on_welcome(heartbeat.wanted, low, high)
        assert low <= heartbeat.agreed <= high


def test_a_failed_interval_is_tried_again_only_after_many_good_ones():
    heartbeat = AdaptiveHeartbeat()
    heartbeat.on_welcome(100, 10, 200)
    assert heartbeat.on_cut(90)
    heartbeat.on_welcome(heartbeat.wanted, 10, 200)
    longest = 0
    for _ in range(40):
        if longer := heartbeat.on_good_interval():
            heartbeat.on_agreed(longer)
        longest = heartbeat.agreed
    assert 50 < longest < 100
    for _ in range(40):
        if longer := heartbeat.on_good_interval():
            heartbeat.on_agreed(longer)
    assert heartbeat.agreed >= 100


@pytest.mark.parametrize("bounds", [(0, 10), (20, 10)])
def test_senseless_heartbeat_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="heartbeat bounds"):
        AdaptiveHeartbeat(0, *bounds)
