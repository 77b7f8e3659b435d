"""Ten thousand users' devices at once: connects stay in their bounds, nobody starves, an account costs little (D16)."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable

from im_heart import Heart, until

from gateway.metrics import Metric

Build = Callable[..., Heart]

USERS = 10_000


def bind_all(heart: Heart, users: int) -> None:
    for number in range(users):
        user = heart.user(f"u{number}")
        heart.bind(user, f"u{number}", host=f"host{number % 50}")


async def test_ten_thousand_come_at_once_and_connect_within_the_bounds(build_heart: Build) -> None:
    heart = build_heart(connects_at_once=32, connects_per_s=2_500.0, linger_s=30.0, connect_s=60.0)
    bind_all(heart, USERS)
    heart.network.connect_s = 0.001
    for number in range(USERS):
        heart.door.come(f"u{number}".encode())
    assert heart.metrics.value(Metric.IM_LINES) == USERS
    await until(lambda: heart.network.connected == USERS, 60)
    assert heart.network.most_connecting <= 32
    begun = heart.network.begun
    assert len(begun) == USERS
    window, first = 0.5, 0
    for last, at in enumerate(begun):
        while begun[first] <= at - window:
            first += 1
        # what a late turn of the loop may catch up with, and how late a connect can be after its turn
        assert last - first + 1 <= 2_500 * (window + 0.05 + 0.1)
    heart.box("u7").say("hello")
    await until(lambda: heart.texts(b"u7".ljust(16, b".")) == ["hello"])


async def test_the_active_do_not_let_the_others_starve(build_heart: Build) -> None:
    heart = build_heart(connects_at_once=1, connects_per_s=1_000.0, linger_s=30.0, connect_s=60.0)
    bind_all(heart, 600)
    heart.door.come(b"u0")
    await asyncio.sleep(0)
    for number in range(1, 200):
        heart.door.come(f"u{number}".encode())
    for number in range(200, 600):  # somebody newer, again and again
        heart.door.come(f"u{number}".encode())
        await asyncio.sleep(0.001)
    assert sum(heart.box(f"u{number}").opened for number in range(200)) > 40
    await until(lambda: heart.network.connected == 600, 20)


async def test_an_idle_account_costs_little_beside_its_network(build_heart: Build) -> None:
    heart = build_heart(connects_at_once=1_000, connects_per_s=100_000.0, linger_s=30.0, connect_s=60.0)
    accounts = 2_000
    bind_all(heart, accounts)
    heart.network.connect_s = 0.0
    for number in range(accounts):
        heart.box(f"u{number}")
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(accounts):
        heart.door.come(f"u{number}".encode())
    await until(lambda: heart.network.connected == accounts, 30)
    await asyncio.sleep(0.05)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # with the scripted session, its generators and what the fake device door was told
    assert (after - before) / accounts < 12_000


async def test_the_end_of_thousands_is_bounded(build_heart: Build) -> None:
    heart = build_heart(connects_at_once=1_000, connects_per_s=100_000.0, linger_s=30.0, connect_s=60.0, close_s=5.0)
    bind_all(heart, 3_000)
    for number in range(3_000):
        heart.door.come(f"u{number}".encode())
    await until(lambda: heart.network.connected >= 1_500, 30)
    begun = asyncio.get_running_loop().time()
    await heart.supervisor.stop()
    assert asyncio.get_running_loop().time() - begun < 20.0
    assert heart.network.connected == 0
