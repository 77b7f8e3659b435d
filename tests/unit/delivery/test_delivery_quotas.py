"""Rates and daily quotas of apps and keys: who may send how much, and when again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.quotas import DAY_MS, Quotas
from gateway.model.errors import (
    AcceptTimeout,
    GatewayError,
    NodeUnreachable,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnknownToken,
)
from gateway.model.registration import ApiKey, App, Limits

NOW = 1_800_000_000_000


class Counts(dict[tuple[int, str, int], int]):
    def used(self, app: int, key: str, day: int) -> int:
        return self.get((app, key, day), 0)

    def add(self, app: int, key: str, day: int, count: int) -> None:
        self[app, key, day] = self.used(app, key, day) + count


def app(limits: Limits | None = None, key: Limits | None = None, *, number: int = 1) -> App:
    keys = [ApiKey(id="k", hash=b"", created_at=0, limits=key or Limits())]
    return App(name=f"a{number}", number=number, keys=keys, limits=limits or Limits())


def test_without_limits_all_is_allowed() -> None:
    assert Quotas(Counts()).admit(app(), "k", 10_000, NOW) == (10_000, None)


def test_a_rate_allows_its_burst_at_once_and_then_its_rate() -> None:
    quotas = Quotas(Counts())
    shop = app(Limits(per_s=10, burst=50))
    allowed, error = quotas.admit(shop, "k", 80, NOW)
    assert allowed == 50
    assert error is not None
    assert error.after_ms == 100
    assert quotas.admit(shop, "k", 5, NOW + 99)[0] == 0
    assert quotas.admit(shop, "k", 5, NOW + 300)[0] == 3
    assert quotas.admit(shop, "k", 10, NOW + 2_000)[0] == 10


def test_a_days_quota_ends_at_midnight_utc() -> None:
    quotas = Quotas(Counts())
    shop = app(Limits(per_day=3))
    for _ in range(3):
        quotas.require(shop, "k", NOW)
    with pytest.raises(TooManyRequests, match="quota of 3 a day") as refused:
        quotas.require(shop, "k", NOW)
    assert (NOW + refused.value.after_ms) % DAY_MS == 0
    quotas.require(shop, "k", NOW + refused.value.after_ms)


def test_what_was_refused_is_given_back_to_its_day_and_not_to_its_rate() -> None:
    quotas = Quotas(counts := Counts())
    shop = app(Limits(per_s=5, per_day=10), Limits(per_day=4))
    assert quotas.admit(shop, "k", 4, NOW)[0] == 4
    quotas.refund(shop, "k", 3, NOW)
    assert sorted(counts.values()) == [1, 1]
    assert quotas.admit(shop, "k", 4, NOW)[0] == 1
    assert quotas.admit(shop, "k", 4, NOW + 10_000)[0] == 2
    quotas.refund(shop, "k", 1, NOW + DAY_MS)  # another day already
    quotas.refund(shop, "k", 99, NOW)
    assert sorted(counts.values()) == [0, 0]
    assert quotas.admit(shop, "k", 4, NOW + DAY_MS)[0] == 4
    quotas.refund(shop, "k", 4, NOW)  # counted yesterday
    assert quotas.admit(shop, "k", 4, NOW + DAY_MS + 10_000)[0] == 0


@pytest.mark.parametrize(
    ("error", "used"),
    [(UnknownToken(), 0), (QueueFull(), 0), (StoreUnavailable(), 0), (AcceptTimeout(), 1), (NodeUnreachable(), 1)],
)
def test_a_push_counts_where_it_may_have_been_accepted(error: GatewayError, used: int) -> None:
    quotas = Quotas(counts := Counts())
    with pytest.raises(type(error)), quotas.counted(app(Limits(per_day=2)), "k", NOW):
        raise error
    assert sum(counts.values()) == used


def test_a_key_has_its_own_limits_within_its_apps() -> None:
    quotas = Quotas(Counts())
    shop = app(Limits(per_day=10), Limits(per_day=2))
    assert quotas.admit(shop, "k", 5, NOW)[0] == 2
    assert quotas.admit(shop, "other", 20, NOW)[0] == 8
    assert quotas.admit(shop, "other", 1, NOW)[0] == 0


def test_one_apps_use_does_not_count_against_anothers() -> None:
    quotas = Quotas(Counts())
    one, two = app(Limits(per_s=1, per_day=1)), app(Limits(per_s=1, per_day=1), number=2)
    quotas.require(one, "k", NOW)
    quotas.require(two, "k", NOW)
    with pytest.raises(TooManyRequests):
        quotas.require(one, "k", NOW)


@given(
    st.integers(1, 50), st.integers(0, 100), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2_000)), max_size=40)
)
def test_never_more_than_burst_and_rate_allow(per_s: int, burst: int, asked: list[tuple[int, int]]) -> None:
    quotas = Quotas(Counts())
    shop = app(Limits(per_s=per_s, burst=burst))
    now, sent = NOW, 0
    for count, later_ms in asked:
        now += later_ms
        allowed, error = quotas.admit(shop, "k", count, now)
        assert 0 <= allowed <= count
        assert (error is None) == (allowed == count)
        sent += allowed
        assert sent <= (burst or per_s) + per_s * (now - NOW) / 1000 + 1e-6
