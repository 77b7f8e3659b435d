"""Who logs in over and over is held back for a minute, nobody else, and never for longer."""

from __future__ import annotations

from gateway.edge.flapping import WINDOW_MS, FlappingGuard

NOW = 1_800_000_000_000


def test_a_device_has_its_logins_of_a_minute_and_then_a_new_minute() -> None:
    guard = FlappingGuard(255)
    assert all(guard.admit(5, NOW) for _ in range(255))
    assert not guard.admit(5, NOW + WINDOW_MS - 1)
    assert guard.admit(6, NOW + WINDOW_MS - 1)
    assert guard.admit(5, NOW + WINDOW_MS)


def test_a_clock_that_is_set_back_begins_a_new_minute() -> None:
    guard = FlappingGuard(1)
    assert guard.admit(5, NOW)
    assert not guard.admit(5, NOW)
    assert guard.admit(5, NOW - 3_600_000)
    assert not guard.admit(5, NOW - 3_600_000 + 1)


def test_no_limit_is_no_limit() -> None:
    guard = FlappingGuard(0)
    assert all(guard.admit(5, NOW) for _ in range(1_000))


def test_to_ask_whether_it_is_full_counts_nothing() -> None:
    guard = FlappingGuard(1)
    assert not guard.is_full(5, NOW)
    assert guard.admit(5, NOW)
    assert guard.is_full(5, NOW)
    assert not guard.is_full(6, NOW)
    assert not guard.is_full(5, NOW + WINDOW_MS)
